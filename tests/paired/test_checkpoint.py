import copy

import pytest
import torch
from lightning import LightningModule
from torch import nn

from lit_share.paired import Paired


@pytest.fixture
def make(kit):
    def make():
        b = kit.Lit(5, lr=0.02, optimizer="sgd", scheduler="plateau", seed=2)
        return Paired(a=kit.Lit(3, lr=0.05, seed=1), b=b)

    return make


@pytest.fixture
def data(kit):
    loaders = {"a": kit.loader(1), "b": kit.loader(2)}
    return loaders, {"a": kit.loader(3, 6), "b": kit.loader(4, 9)}


def test_resumed_run_is_bitwise_the_uninterrupted_one(kit, make, data, tmp_path):
    whole, part, resumed = make(), make(), make()
    expected = kit.fit(whole, *data, max_epochs=4)
    kit.fit(part, *data, max_epochs=2).save_checkpoint(tmp_path / "part.ckpt")
    trainer = kit.fit(resumed, *data, max_epochs=4, ckpt_path=tmp_path / "part.ckpt")
    kit.assert_same(resumed.state_dict(), whole.state_dict())
    kit.assert_same(trainer.optimizers[0].state_dict(), expected.optimizers[0].state_dict())
    states = [
        [each.scheduler.state_dict() for each in run.lr_scheduler_configs]
        for run in (trainer, expected)
    ]
    kit.assert_same(*states)


@pytest.mark.parametrize("from_file", [False, True])
def test_exported_child_opens_as_its_class(kit, make, data, tmp_path, from_file):
    pair = make()
    trainer = kit.fit(pair, *data)
    path = tmp_path / "b.ckpt"
    if from_file:
        trainer.save_checkpoint(tmp_path / "pair.ckpt")
        make().export_child("b", path, checkpoint=tmp_path / "pair.ckpt")
    else:
        pair.export_child("b", path)
    child = kit.Lit.load_from_checkpoint(path, weights_only=True)
    kit.assert_same(child.state_dict(), pair.b.state_dict())
    assert child.hparams == pair.b.hparams
    kit.trainer().validate(child, kit.loader(4), verbose=False)
    kit.trainer().validate(
        kit.Lit(5), kit.loader(4), ckpt_path=path, verbose=False, weights_only=True
    )


def test_export_before_training(make, kit, tmp_path):
    make().export_child("a", tmp_path / "a.ckpt")
    kit.assert_same(
        kit.Lit.load_from_checkpoint(tmp_path / "a.ckpt").state_dict(), make().a.state_dict()
    )


def test_export_of_what_is_not_there(make, kit, tmp_path):
    with pytest.raises(ValueError, match=r"no child 'c': the children are \['a', 'b'\]"):
        make().export_child("c", tmp_path / "c.ckpt")
    trainer = kit.fit(kit.Lit(), kit.loader(1))
    trainer.save_checkpoint(tmp_path / "solo.ckpt")
    with pytest.raises(ValueError, match=r"solo.ckpt has no child 'a'"):
        make().export_child("a", tmp_path / "a.ckpt", checkpoint=tmp_path / "solo.ckpt")


def test_export_of_a_checkpoint_with_functions(kit, tmp_path):
    class Partial(kit.Lit):
        def __init__(self, activation=torch.tanh):
            super().__init__()
            self.save_hyperparameters()

    pair = Paired(a=Partial(torch.nn.functional.relu), b=kit.Lit())
    trainer = kit.fit(pair, {"a": kit.loader(1), "b": kit.loader(2)})
    trainer.save_checkpoint(tmp_path / "pair.ckpt")
    own, whole = tmp_path / "a.ckpt", tmp_path / "pair.ckpt"
    # Another pair has another function, and does not know that this one may be read.
    other = Paired(a=Partial(torch.nn.functional.silu), b=kit.Lit())
    with pytest.raises(
        ValueError, match=r"write export_child\('a', \.\.\., checkpoint=torch\.load"
    ):
        other.export_child("a", own, checkpoint=whole)
    # No file with the default is read without running code, but a loaded checkpoint needs no file.
    default = Paired(a=Partial(), b=kit.Lit())
    with pytest.raises(ValueError, match="Partial saves the hyperparameter 'activation'"):
        default.export_child("a", own, checkpoint=whole)
    loaded = torch.load(whole, weights_only=False)
    for exporting, checkpoint in ((pair, whole), (default, loaded)):
        exporting.export_child("a", own, checkpoint=checkpoint)
        child = Partial.load_from_checkpoint(own, weights_only=False)
        assert child.hparams.activation is torch.nn.functional.relu


def test_pair_is_loaded_with_its_children_given(kit, make, data, tmp_path):
    pair = make()
    kit.fit(pair, *data).save_checkpoint(tmp_path / "pair.ckpt")
    fresh = make()
    loaded = Paired.load_from_checkpoint(tmp_path / "pair.ckpt", a=fresh.a, b=fresh.b)
    kit.assert_same(loaded.state_dict(), pair.state_dict())


def test_children_keep_entries_of_their_own_in_the_checkpoint(kit, data, tmp_path):
    class Keeping(kit.Lit):
        def __init__(self, note="", seed=0):
            super().__init__(seed=seed)
            self.save_hyperparameters()
            self.note = note

        def on_save_checkpoint(self, checkpoint):
            assert "net.0.weight" in checkpoint["state_dict"]
            assert checkpoint["hyper_parameters"]["note"] == self.hparams.note
            checkpoint["note"] = self.note
            # Frozen parts are left out of the file like this, and put back when it is loaded.
            del checkpoint["state_dict"]["net.0.bias"]

        def on_load_checkpoint(self, checkpoint):
            self.note = checkpoint["note"]
            checkpoint["state_dict"]["net.0.bias"] = torch.full((3,), 7.0)

    pair = Paired(a=Keeping("from a", seed=1), b=Keeping("from b", seed=2))
    trainer = kit.fit(pair, *data)
    trainer.save_checkpoint(tmp_path / "pair.ckpt")
    file = torch.load(tmp_path / "pair.ckpt", weights_only=True)
    assert "a.net.0.bias" not in file["state_dict"]
    assert "note" not in file
    fresh = Paired(a=Keeping(), b=Keeping())
    kit.trainer().validate(fresh, data[1], ckpt_path=tmp_path / "pair.ckpt", verbose=False)
    assert (fresh.a.note, fresh.b.note) == ("from a", "from b")
    assert torch.equal(fresh.b.net[0].weight, pair.b.net[0].weight)
    assert fresh.b.net[0].bias.eq(7).all()
    pair.export_child("b", tmp_path / "b.ckpt")
    alone = Keeping.load_from_checkpoint(tmp_path / "b.ckpt")
    assert alone.note == "from b"


def test_hyperparameters_given_as_one_object(kit, tmp_path):
    class FromConfig(LightningModule):
        def __init__(self, config):
            super().__init__()
            self.save_hyperparameters(config)
            self.layer = nn.Linear(4, config["width"])

    pair = Paired(a=FromConfig({"width": 7}), b=kit.Lit())
    pair.export_child("a", tmp_path / "a.ckpt")
    assert FromConfig.load_from_checkpoint(tmp_path / "a.ckpt").layer.out_features == 7
    from omegaconf import OmegaConf

    pair = Paired(a=FromConfig(OmegaConf.create({"width": 7})), b=kit.Lit())
    pair.export_child("a", tmp_path / "a.ckpt")
    child = FromConfig.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    assert OmegaConf.is_config(child.hparams)


def test_modules_built_in_configure_model(kit, data, tmp_path):
    class Late(kit.Lit):
        def __init__(self, seed=0):
            super().__init__(seed=seed)
            self.net = None

        def configure_model(self):
            if self.net is None:
                torch.manual_seed(self.hparams.seed)
                self.net = nn.Linear(4, 1)

    children = {"a": Late(seed=1), "b": Late(seed=2)}
    pair = Paired(**copy.deepcopy(children))
    kit.fit(pair, *data)
    for name, child in children.items():
        kit.fit(child, data[0][name], data[1][name])
        kit.assert_same(getattr(pair, name).state_dict(), child.state_dict())
    pair.export_child("b", tmp_path / "b.ckpt")
    kit.assert_same(
        Late.load_from_checkpoint(tmp_path / "b.ckpt").state_dict(), pair.b.state_dict()
    )
