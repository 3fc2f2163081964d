"""`Paired` with children of both packages."""

from __future__ import annotations

import copy
import pickle
from importlib import import_module

import pytest

import lit_share as ls
from lit_share.lightnings import PACKAGES, is_overridden, package_of

from ._both import assert_same, child, loader, trainer


def pair_of(package):
    return ls.Paired(a=child(package)(), b=child(package)(lr=0.2, seed=1))


def fit(package, *callbacks):
    pair, made = pair_of(package), trainer(package, [*callbacks])
    made.fit(pair, {"a": loader(), "b": loader()}, {"a": loader(1), "b": loader(2)})
    return pair, made


@pytest.mark.parametrize("package", PACKAGES)
def test_children_train_as_if_alone(package):
    pair, made = fit(package, ls.Regularize("soft_tie", ["a.net.*", "b.net.*"], 0.0))
    for own, alone in zip((pair.a, pair.b), pair_of(package).by_name().values(), strict=True):
        trainer(package).fit(alone, loader())
        assert_same(own, alone)
        assert own.ended == alone.ended == 48
    assert {"a/train/loss", "b/val/loss"} <= made.callback_metrics.keys()


def test_both_train_alike():
    soft_tie = ls.Regularize("soft_tie", ["a.net.*", "b.net.*"], 0.1)
    (one, _), (other, _) = (fit(package, soft_tie) for package in PACKAGES)
    assert_same(one, other)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_pair_is_a_module_of_its_childrens_package(package):
    pair = pair_of(package)
    assert isinstance(pair, ls.Paired)
    assert isinstance(pair, import_module(package).LightningModule)
    assert package_of(pair) == package
    assert type(pair).__name__ == "Paired"


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_and_pickles(package, copied):
    pair = pair_of(package)
    own = copied(pair)
    assert type(own) is type(pair)
    assert_same(own, pair)
    assert own.a.net[0].weight is not pair.a.net[0].weight
    trainer(package).fit(own, {"a": loader(), "b": loader()})


@pytest.mark.parametrize("package", PACKAGES)
def test_checkpoints(package, tmp_path):
    pair, made = fit(package)
    made.save_checkpoint(tmp_path / "pair.ckpt")
    children = pair_of(package).by_name()
    loaded = ls.Paired.load_from_checkpoint(tmp_path / "pair.ckpt", weights_only=False, **children)
    assert_same(loaded, pair)
    pair.export_child("b", tmp_path / "b.ckpt")
    alone = child(package).load_from_checkpoint(tmp_path / "b.ckpt")
    assert_same(alone, pair.b)
    assert alone.hparams.lr == 0.2


@pytest.mark.parametrize("package", PACKAGES)
def test_subclasses(package):
    class Noting(ls.Paired):
        def on_train_start(self):
            self.noted = True
            super().on_train_start()

    pair = Noting(a=child(package)(), b=child(package)())
    trainer(package).fit(pair, {"a": loader(), "b": loader()})
    assert pair.noted
    assert isinstance(pair, Noting)


def data_of(package):
    class Data(import_module(package).LightningDataModule):
        def __init__(self, seed=0):
            super().__init__()
            self.save_hyperparameters()

        def train_dataloader(self):
            return loader(4)

        def val_dataloader(self):
            return loader(2)

    return Data


@pytest.mark.parametrize("package", PACKAGES)
def test_datamodules_of_children(package):
    Data = data_of(package)
    data = ls.PairedData(a=Data(1), b=Data(2))
    assert isinstance(data, import_module(package).LightningDataModule)
    assert package_of(data) == package
    pair = pair_of(package)
    trainer(package).fit(pair, data)
    expected = pair_of(package)
    loaders = [{"a": loader(n), "b": loader(n)} for n in (4, 2)]
    trainer(package).fit(expected, *loaders)
    assert_same(pair, expected)
    assert pair.a.ended == 32
    assert pair.b.trainer.datamodule is data.by_name()["b"]
    # Only some of the loaders are there, and the others are Lightning's.
    assert is_overridden("val_dataloader", data)
    assert not is_overridden("predict_dataloader", data)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_of_paired_data(package, copied):
    data = ls.PairedData(a=data_of(package)(5))
    own = copied(data)
    assert type(own) is type(data)
    assert own.by_name()["a"].hparams.seed == 5
    assert own.hparams == data.hparams


def test_datamodules_of_different_packages_are_refused():
    one, other = (data_of(package)() for package in PACKAGES)
    with pytest.raises(TypeError, match="one of them in all files; loaders of both are"):
        ls.PairedData(a=one, b=other)


def test_children_of_different_packages_are_refused():
    one, other = (child(package)() for package in PACKAGES)
    said = "'a' is of lightning.pytorch and 'b' is of pytorch_lightning, which no Trainer takes"
    with pytest.raises(TypeError, match=said):
        ls.Paired(a=one, b=other)


@pytest.mark.parametrize("package", PACKAGES)
def test_lightning_tells_of_a_pair_of_the_other_package(package):
    (other,) = set(PACKAGES) - {package}
    said = rf"You passed a `{other}` object \(Paired\) to a `{package}`"
    with pytest.raises(TypeError, match=said):
        trainer(package).fit(pair_of(other), {"a": loader(), "b": loader()})
