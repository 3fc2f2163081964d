"""Tensors that `layer_tie` made equal on real data are stored once, and predict the same."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch import seed_everything
from safetensors import safe_open

from lit_share.callbacks import Regularize
from lit_share.compact_files import load_compact, save_compact
from lit_share.functional import Penalty
from lit_share.lab.data import PairedDomains
from lit_share.lab.models import MLP, Classifier
from lit_share.paired import Paired
from lit_share.sharing import share
from lit_share.ties import Ties

from ._modules import trainer

TIES = Ties("a.*", "b.*")


def accuracies(pair, data):
    (metrics,) = [trainer().test(pair, datamodule=data, verbose=False)]
    return {name: value for results in metrics for name, value in results.items()}


def file_bytes(path):
    with safe_open(path, framework="pt") as file:
        return sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118


@pytest.mark.slow
def test_layer_tie_on_inverted_digits(tmp_path):
    seed_everything(0, verbose=False)
    data = PairedDomains(domain="inverted")
    upright = Classifier(MLP((1, 8, 8), num_classes=10), num_classes=10, lr=0.006)
    pair = Paired(a=upright, b=copy.deepcopy(upright))
    layer_tie = Regularize(Penalty("l1", "tensor", "mean"), TIES, strength=0.3)
    trainer(layer_tie, epochs=20).fit(pair, datamodule=data)
    equal = [tie for tie in TIES.find(pair) if torch.equal(*tie.tensors())]
    assert any(tie.tensors()[0].ndim == 2 for tie in equal), "a matrix, not only biases"
    assert len(equal) < len(TIES.find(pair)), "and not all"

    before, parameters = accuracies(pair, data), sum(p.numel() for p in pair.parameters())
    plain = sum(tensor.nbytes for tensor in pair.state_dict().values())
    shared = {tie.name for tie in share(pair, TIES, where="equal")}
    assert shared >= {tie.name for tie in equal}
    assert accuracies(pair, data) == before, "to the last digit"
    assert sum(p.numel() for p in pair.parameters()) <= parameters - sum(tie.numel for tie in equal)

    save_compact(pair, tmp_path / "pair.safetensors")
    assert file_bytes(tmp_path / "pair.safetensors") <= plain - 4 * sum(tie.numel for tie in equal)
    fresh = Paired(a=copy.deepcopy(upright), b=copy.deepcopy(upright))
    load_compact(tmp_path / "pair.safetensors", fresh)
    assert accuracies(fresh, data) == before
    for tie in equal:
        assert fresh.get_parameter(tie.members[0].name) is fresh.get_parameter(tie.members[1].name)
    assert all(
        torch.equal(value, pair.state_dict()[name]) for name, value in fresh.state_dict().items()
    )
