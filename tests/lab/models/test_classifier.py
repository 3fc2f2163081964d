import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_share.lab.data import PairedDomains
from lit_share.lab.models import MLP, Classifier

from ._trainer import trainer

# Lightning 2.6 flattens loaders in a way that newer PyTorch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return Classifier(MLP([4], 3, hidden=(5,)), num_classes=3)


@pytest.fixture
def uneven():
    """Batches of 4, 4 and 1: averages over batches differ from averages over examples."""
    torch.manual_seed(1)
    return DataLoader(TensorDataset(torch.randn(9, 4) * 3, torch.randint(3, (9,))), batch_size=4)


def test_learns_digits():
    data = PairedDomains("digits", n_a=500)
    torch.manual_seed(0)
    classifier = Classifier(MLP((1, 8, 8), 10), num_classes=10, lr=1e-2)
    run = trainer(max_epochs=2)
    run.fit(classifier, data.train_dataloader()["a"], data.val_dataloader()["a"])
    assert run.callback_metrics["val/acc"] > 0.5  # 0.1 is chance
    [results] = run.test(classifier, data.test_dataloader()["a"], verbose=False)
    assert results["test/acc"] > 0.5


def test_logs_these_keys(classifier, uneven):
    run = trainer(max_epochs=1)
    run.fit(classifier, uneven, uneven)
    assert set(run.callback_metrics) == {"train/loss", "val/loss", "val/acc"}
    run.test(classifier, uneven, verbose=False)
    assert set(run.callback_metrics) == {"test/loss", "test/acc"}


@pytest.mark.parametrize("stage", ["val", "test"])
def test_measures_every_example_alike(classifier, uneven, stage):
    run = trainer()
    measure = run.validate if stage == "val" else run.test
    [results] = measure(classifier, uneven, verbose=False)
    x, y = uneven.dataset.tensors
    with torch.no_grad():
        scores = classifier.eval()(x)
    assert results[f"{stage}/loss"] == pytest.approx(F.cross_entropy(scores, y).item(), rel=1e-5)
    assert results[f"{stage}/acc"] == pytest.approx(
        (scores.argmax(1) == y).float().mean().item(), rel=1e-5
    )


def test_training_loss_is_the_smoothed_one_and_the_others_are_not(uneven):
    torch.manual_seed(0)
    classifier = Classifier(
        nn.Linear(4, 3), num_classes=3, lr=0.0, optimizer="sgd", label_smoothing=0.3
    )
    run = trainer(max_epochs=1)
    run.fit(classifier, uneven, uneven)
    x, y = uneven.dataset.tensors
    scores = classifier(x)
    smoothed, plain = (
        F.cross_entropy(scores, y, label_smoothing=0.3).item(),
        F.cross_entropy(scores, y).item(),
    )
    assert smoothed != pytest.approx(plain, rel=1e-3)
    assert run.callback_metrics["train/loss"].item() == pytest.approx(smoothed, rel=1e-5)
    assert run.callback_metrics["val/loss"].item() == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)],
)
def test_optimizer_is_the_one_asked_for(name, kind):
    classifier = Classifier(
        nn.Linear(4, 3), 3, lr=0.25, optimizer=name, momentum=0.5, weight_decay=0.125
    )
    optimizer = classifier.configure_optimizers()
    assert type(optimizer) is kind
    assert optimizer.defaults["lr"] == 0.25
    assert optimizer.defaults["weight_decay"] == 0.125
    assert optimizer.defaults.get("momentum", 0.5) == 0.5
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {
        id(p) for p in classifier.net.parameters()
    }


def test_unknown_optimizer_is_refused():
    with pytest.raises(
        ValueError, match='optimizer=\'lbfgs\' is not known: write "adam", "adamw" or "sgd"'
    ):
        Classifier(nn.Linear(4, 3), 3, optimizer="lbfgs")


def test_comes_back_from_a_checkpoint(classifier, uneven, tmp_path):
    run = trainer(max_epochs=1)
    run.fit(classifier, uneven, uneven)
    run.save_checkpoint(tmp_path / "run.ckpt")
    loaded = Classifier.load_from_checkpoint(
        tmp_path / "run.ckpt", net=MLP([4], 3, hidden=(5,)), map_location="cpu", weights_only=True
    )
    x = uneven.dataset.tensors[0]
    torch.testing.assert_close(loaded(x), classifier(x), rtol=0, atol=0)
    assert loaded.hparams == classifier.hparams
    assert "net" not in loaded.hparams
