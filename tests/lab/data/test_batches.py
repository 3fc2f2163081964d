import pickle

import pytest
import torch
from lightning import Trainer
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import DataLoader, TensorDataset

from lit_share.lab.data._batches import MemoryDataset, Shuffle, batches
from lit_share.lab.models import MLP, Classifier

# Lightning 2.6 flattens loaders in a way that newer PyTorch deprecates.
LEAF_SPEC = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return torch.rand(23, 1, 2, 2), torch.randint(3, (23,))


def test_batches_are_those_of_an_ordinary_loader(tensors):
    ours = list(batches(MemoryDataset(*tensors), batch_size=5))
    theirs = list(DataLoader(TensorDataset(*tensors), batch_size=5))
    assert len(ours) == len(theirs) == 5
    for batch, expected in zip(ours, theirs, strict=True):
        assert type(batch) is tuple
        for tensor, other in zip(batch, expected, strict=True):
            assert torch.equal(tensor, other)


def test_shuffled_batches_hold_every_example_once_with_its_label(tensors):
    x, y = tensors
    loader = batches(MemoryDataset(*tensors), batch_size=5, shuffle=Shuffle(23, seed=(0,)))
    seen = {
        tuple(image.flatten().tolist()): label.item()
        for xs, ys in loader
        for image, label in zip(xs, ys, strict=True)
    }
    assert seen == {
        tuple(image.flatten().tolist()): label.item() for image, label in zip(x, y, strict=True)
    }


def test_every_pass_and_epoch_has_an_order_of_its_own():
    shuffle = Shuffle(20, seed=(0,))
    orders = []
    for epoch in range(3):
        shuffle.set_epoch(epoch)
        orders += [tuple(shuffle), tuple(shuffle)]
    assert len(set(orders)) == 6
    assert all(sorted(order) == list(range(20)) for order in orders)


def test_epoch_begins_alike_whatever_came_before():
    fresh, used = Shuffle(20, seed=(0, 1)), Shuffle(20, seed=(0, 1))
    for _ in range(5):
        list(used)
    for shuffle in (fresh, used):
        shuffle.set_epoch(3)
    assert [list(fresh), list(fresh)] == [list(used), list(used)]


def test_seeds_differ():
    assert list(Shuffle(20, seed=(0, 0))) != list(Shuffle(20, seed=(0, 1)))


def test_processes_share_a_pass_without_overlap():
    """What Lightning makes of the sampler in each process of a distributed run."""
    ranks = [
        DistributedSamplerWrapper(Shuffle(24, seed=(0,)), num_replicas=2, rank=rank, shuffle=False)
        for rank in (0, 1)
    ]
    for _ in range(2):
        first, second = map(list, ranks)
        assert len(first) == len(second) == 12
        assert sorted(first + second) == list(range(24))


def test_loader_goes_to_another_process(tensors):
    loader = batches(MemoryDataset(*tensors), batch_size=5, shuffle=Shuffle(23, seed=(0,)))
    copy = pickle.loads(pickle.dumps(loader))
    for batch, expected in zip(copy, loader, strict=True):
        assert torch.equal(batch[0], expected[0])


class Both(Classifier):
    """Trains one net on two loaders; the smaller is repeated within an epoch."""

    def training_step(self, batch):
        return super().training_step(batch["large"]) + super().training_step(batch["small"])


def fit(train, val, epochs, ckpt_path=None):
    torch.manual_seed(0)
    model = Both(MLP([4], 3), 3, lr=0.1, optimizer="sgd")
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, train, val, ckpt_path=ckpt_path)
    return trainer


@LEAF_SPEC
def test_resumed_run_equals_the_unbroken_one(tensors, tmp_path):
    large, small = MemoryDataset(*tensors), MemoryDataset(*(tensor[:7] for tensor in tensors))

    def run(epochs, ckpt_path=None):
        loaders = {
            "large": batches(large, 5, Shuffle(23, seed=(0, 0))),
            "small": batches(small, 5, Shuffle(7, seed=(0, 1))),
        }
        return fit(loaders, batches(large, 5), epochs, ckpt_path)

    unbroken = run(epochs=4)
    run(epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    resumed = run(epochs=4, ckpt_path=tmp_path / "half.ckpt")
    assert resumed.global_step == unbroken.global_step == 20
    for name, value in unbroken.lightning_module.state_dict().items():
        assert torch.equal(resumed.lightning_module.state_dict()[name], value), name


@LEAF_SPEC
def test_lightning_does_not_ask_for_workers(tensors, monkeypatch):
    # As on a machine with cores to spare: with few of them Lightning never asks.
    monkeypatch.setattr(
        "lightning.pytorch.trainer.connectors.data_connector.suggested_max_num_workers", lambda _: 8
    )
    ordinary = DataLoader(TensorDataset(*tensors), batch_size=5)
    with pytest.warns(UserWarning, match="does not have many workers"):
        fit({"large": ordinary, "small": ordinary}, ordinary, epochs=1)
    loader = batches(MemoryDataset(*tensors), batch_size=5)
    fit({"large": loader, "small": loader}, loader, epochs=1)
