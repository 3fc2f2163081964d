"""Modules in the style of other projects, as their authors wrote them."""

import pytest
import torch

import lit_share as ls

NAMES = [
    "autoencoder",
    "optimizer_of_trainers_model",
    "on_policy_rollouts",
    "replay_buffer",
    "own_batch",
    "noise_in_validation",
    "overridden_log",
    "several_datasets",
    "reads_its_datamodule",
    "averaged_teacher",
    "trust_ratios",
]
MANUAL = "manual_gan"


def pair_of(foreign):
    """Two of a module as a pair, with its data as arguments of `Trainer.fit`."""
    pair = ls.Paired(a=foreign.make(1), b=foreign.make(2))
    if foreign.datamodule is not None:
        own = {name: foreign.datamodule(seed) for name, seed in (("a", 1), ("b", 2))}
        return pair, {"datamodule": ls.PairedData(**own)}
    data = {}
    for key, loader in (("train", foreign.train), ("val", foreign.val)):
        if loader is not None:
            data[key] = {"a": loader(1), "b": loader(2)}
    return pair, data


def alone(foreign, seed):
    """One of a module, with its data as arguments of `Trainer.fit`."""
    if foreign.datamodule is not None:
        return foreign.make(seed), {"datamodule": foreign.datamodule(seed)}
    data = {"train": foreign.train, "val": foreign.val}
    return foreign.make(seed), {key: each and each(seed) for key, each in data.items()}


def ties_of(foreign):
    return ls.Ties(f"a.{foreign.tied}", f"b.{foreign.tied}")


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert torch.equal(value, right[key]), key


def distance(module, ties):
    """The Euclidean distance of the tied parameters of two members."""
    members = [tie.members for tie in ties.find(module)]
    pairs = [[module.get_parameter(member.ref.name) for member in tie] for tie in members]
    return torch.stack([(first - second).norm() for first, second in pairs]).norm()


def test_modules_are_listed_here(foreign):
    assert {*NAMES, MANUAL} == set(foreign)


@pytest.mark.slow
def test_paired_takes_all_but_manual_optimization(foreign, fit):
    refused = {}
    for name, each in foreign.items():
        try:
            pair, data = pair_of(each)
            fit(pair, **data, max_steps=1)
        except ValueError as error:
            refused[name] = str(error)
    print(f"Paired takes {len(foreign) - len(refused)} of {len(foreign)} modules")
    assert set(refused) == {MANUAL}
    assert "child 'a' optimizes manually" in refused[MANUAL]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_pair_is_bitwise_two_modules_alone(foreign, fit, name):
    pair, data = pair_of(foreign[name])
    soft_tie = ls.Regularize("soft_tie", ties_of(foreign[name]), strength=0.0)
    metrics = fit(pair, **data, callbacks=[soft_tie]).callback_metrics
    expected = {}
    for child, seed in (("a", 1), ("b", 2)):
        module, own = alone(foreign[name], seed)
        start = {key: value.clone() for key, value in module.state_dict().items()}
        found = fit(module, **own).callback_metrics
        expected |= {f"{child}/{key}": value for key, value in found.items()}
        assert_same(getattr(pair, child).state_dict(), module.state_dict())
        assert any(not torch.equal(start[key], v) for key, v in module.state_dict().items())
    # The penalty has values of its own there, which belong to no child.
    assert_same({key: metrics[key] for key in metrics if key[:2] in ("a/", "b/")}, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_pair_is_tied_softly(foreign, fit, name):
    ties = ties_of(foreign[name])
    distances = {}
    for strength in (0.0, 3.0):
        pair, data = pair_of(foreign[name])
        soft_tie = ls.Regularize("soft_tie", ties, strength=strength)
        metrics = fit(pair, **data, callbacks=[soft_tie, ls.SharingMonitor(ties)]).callback_metrics
        distances[strength] = distance(pair, ties)
    assert distances[3.0] < 0.95 * distances[0.0]
    assert {"a", "b"} < {key.partition("/")[0] for key in metrics}


# Two of the modules have learning rates of their own.
@pytest.mark.filterwarnings("ignore:shared parameters .* were given to several optimizers")
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_shared_pair_is_saved_resumed_exported_and_made_compact(foreign, fit, name, tmp_path):
    each = foreign[name]
    ties = ties_of(each)

    def trained(**options):
        pair, data = pair_of(each)
        return pair, fit(pair, **data, callbacks=[ls.Share(ties, init="first")], **options)

    pair, trainer = trained()
    for tie in ties.find(pair):
        first, second = (pair.get_parameter(member.ref.name) for member in tie.members)
        assert first is second
    path = tmp_path / "pair.ckpt"
    trainer.save_checkpoint(path)

    resumed, _ = trained(ckpt_path=path, max_epochs=3)
    ls.verify_shared(resumed)
    assert resumed.global_step == 3 * pair.global_step // 2
    assert any(not torch.equal(v, resumed.state_dict()[k]) for k, v in pair.state_dict().items())

    pair.export_child("b", tmp_path / "b.ckpt")
    loaded = torch.load(path, weights_only=False)
    pair.export_child("b", tmp_path / "file.ckpt", checkpoint=loaded)
    for file in ("b.ckpt", "file.ckpt"):
        kind = type(pair.b)
        child = kind.load_from_checkpoint(tmp_path / file, weights_only=False, **each.load)
        assert_same(child.state_dict(), pair.b.state_dict())

    stats = ls.sharing_stats(pair)
    ls.save_compact(pair, tmp_path / "pair.safetensors")
    again = ls.load_compact(tmp_path / "pair.safetensors", pair_of(each)[0])
    assert_same(again.state_dict(), pair.state_dict())
    assert ls.sharing_stats(again).unique == stats.unique < stats.total


@pytest.mark.slow
def test_manual_optimization_ties_submodules(foreign, fit, tmp_path):
    """Two networks of one module, whose optimizers step in turn."""
    gan = foreign[MANUAL]
    # Their first layers have one shape.
    ties = ls.Ties("encoder.0.*", "discriminator.0.*")
    untied, data = alone(gan, 1)
    fit(untied, **data)
    tied, data = alone(gan, 1)
    fit(tied, **data, callbacks=[ls.Regularize("soft_tie", ties, strength=3.0)])
    assert distance(tied, ties) < 0.9 * distance(untied, ties)

    shared, data = alone(gan, 1)
    trainer = fit(shared, **data, callbacks=[ls.Share(ties)])
    assert shared.encoder[0].weight is shared.discriminator[0].weight
    trainer.save_checkpoint(tmp_path / "gan.ckpt")
    ls.save_compact(shared, tmp_path / "gan.safetensors")
    again = ls.load_compact(tmp_path / "gan.safetensors", gan.make(3))
    assert_same(again.state_dict(), shared.state_dict())
    loaded = type(shared).load_from_checkpoint(tmp_path / "gan.ckpt")
    assert_same(loaded.state_dict(), shared.state_dict())
