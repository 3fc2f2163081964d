"""`lit-share compact`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

import lit_share
from lit_share.compact_files import load_compact, read, save_compact, unpack
from lit_share.lab.cli import main


def ties(path):
    return [tie.model_dump(exclude_none=True, mode="json") for tie in read(path).manifest.ties]


def test_a_state_dict(run, tied, tmp_path):
    torch.save(tied.state_dict(), tmp_path / "w.pt")
    code, out, err = run("compact", tmp_path / "w.pt", tmp_path / "w.safetensors")
    assert (code, err) == (0, "")
    assert f"{tmp_path / 'w.safetensors'}: " in out
    assert "kB of numbers, which are 19.5 kB under all names" in out
    assert ties(tmp_path / "w.safetensors") == [{"names": ["a.weight", "b.weight"]}]
    fresh = nn.ModuleDict(
        {"a": nn.Linear(40, 40), "b": nn.Linear(40, 40), "c": nn.Linear(40, 40, bias=False)}
    )
    load_compact(tmp_path / "w.safetensors", fresh)
    assert fresh["a"].weight is fresh["b"].weight
    assert all(
        torch.equal(fresh.state_dict()[name], tensor) for name, tensor in tied.state_dict().items()
    )


def test_sizes_as_json(run, tied, tmp_path):
    torch.save(tied.state_dict(), tmp_path / "w.pt")
    _, out, _ = run("compact", tmp_path / "w.pt", tmp_path / "w.safetensors", "--json")
    sizes = json.loads(out)
    assert sizes["checkpoint_bytes"] == (tmp_path / "w.pt").stat().st_size
    assert sizes["output_bytes"] == (tmp_path / "w.safetensors").stat().st_size
    assert sizes["tensor_bytes"] == 4 * (3 * 1600 + 80)
    assert sizes["stored_bytes"] == read(tmp_path / "w.safetensors").nbytes
    assert sizes["ties"] == 1


class Lit(LightningModule):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def training_step(self, batch, _):
        return (self.a(batch) + self.b(batch)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*isinstance.treespec", "ignore:.*GPU"
)
def test_a_checkpoint_of_lightning(run, tmp_path):
    trainer = Trainer(
        callbacks=[lit_share.Share(lit_share.Ties("a.*", "b.*"))],
        default_root_dir=tmp_path,
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Lit()
    trainer.fit(module, DataLoader(torch.ones(4, 3)))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    code, _, err = run("compact", tmp_path / "last.ckpt", tmp_path / "last.safetensors")
    assert (code, err) == (0, "")
    assert ties(tmp_path / "last.safetensors") == [
        {"names": ["a.weight", "b.weight"]},
        {"names": ["a.bias", "b.bias"]},
    ]
    fresh = load_compact(tmp_path / "last.safetensors", Lit())
    assert fresh.a.weight is fresh.b.weight
    assert torch.equal(fresh.a.weight, module.a.weight)


def test_what_share_recorded(run, tmp_path):
    a = torch.randn(4, 3)
    b = a.T.clone()
    recorded = [{"names": ["a", "b.T"]}, {"names": ["a", "c"]}]
    c = a.clone()
    callbacks = {
        "Share{'ties': \"Ties('a', 'b.T')\"}": {"shared": recorded},
        "Share0": {"shared": None},
        "Other": {},
    }
    torch.save(
        {"state_dict": {"a": a, "b": b, "c": c}, "callbacks": callbacks}, tmp_path / "w.ckpt"
    )
    assert run("compact", tmp_path / "w.ckpt", tmp_path / "w")[0] == 0
    assert ties(tmp_path / "w") == recorded


def test_transposed_views_and_other_views_of_one_memory(run, tmp_path):
    a, b = torch.randn(4, 3), torch.randn(5, 5)
    state = {
        "a": a,
        "aT": a.T,
        "part": a[:2],
        "b": b,
        "bT": b.T,
        "flat": a.view(3, 4),
        "one": b[0, 0],
    }
    torch.save(state, tmp_path / "w.pt")
    assert run("compact", tmp_path / "w.pt", tmp_path / "w")[0] == 0
    assert ties(tmp_path / "w") == [{"names": ["a", "aT.T"]}, {"names": ["b", "bT.T"]}]
    assert all(
        torch.equal(found, state[name]) for name, found in unpack(read(tmp_path / "w")).items()
    )


def test_names_of_compiled_modules(run, tmp_path):
    torch.save({"state_dict": {"_orig_mod.a": torch.ones(3)}}, tmp_path / "w.ckpt")
    assert run("compact", tmp_path / "w.ckpt", tmp_path / "w")[0] == 0
    assert read(tmp_path / "w").manifest.tensors.keys() == {"a"}


def test_an_output_that_exists(run, refused, tied, tmp_path):
    torch.save(tied.state_dict(), tmp_path / "w.pt")
    (tmp_path / "w").write_text("precious")
    assert "w' exists: write --force to replace it" in refused(
        "compact", tmp_path / "w.pt", tmp_path / "w"
    )
    assert (tmp_path / "w").read_text() == "precious"
    assert run("compact", tmp_path / "w.pt", tmp_path / "w", "--force")[0] == 0
    assert read(tmp_path / "w")
    assert "is the checkpoint itself" in refused(
        "compact", tmp_path / "w.pt", tmp_path / "w.pt", "--force"
    )


class Config:
    """What weights_only does not know."""


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            {"state_dict": {"a": torch.ones(2)}, "config": Config()},
            f"which could run any code that is in it, because of {__name__}.Config: if you trust",
        ),
        ({"state_dict": {"a": 3}}, "'a' is a int, not a tensor"),
        ({"epoch": 3, "state": {}}, "'epoch' is a int, not a tensor"),
        ([torch.ones(2)], "holds a list, not a checkpoint or a state dict"),
        (
            {
                "state_dict": {"a": torch.ones(2), "z": torch.zeros(2)},
                "callbacks": {"Share": {"shared": [{"names": ["a", "z"]}]}},
            },
            "the ties do not fit the tensors: 'a' and 'z' are tied, but not equal",
        ),
        (
            {"state_dict": {"a": torch.ones(2)}, "callbacks": {"Share": {"shared": [["a", "z"]]}}},
            "the ties do not fit the tensors",
        ),
    ],
)
def test_what_is_no_checkpoint(refused, tmp_path, content, problem):
    torch.save(content, tmp_path / "w.ckpt")
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(refused("compact", tmp_path / "w.ckpt", tmp_path / "w"))
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("content", [b"", b"hi", b"not a checkpoint", b"PK\x03\x04 a broken zip"])
def test_not_by_torch_save(refused, tmp_path, content):
    (tmp_path / "w.ckpt").write_bytes(content)
    assert "w.ckpt' " in refused("compact", tmp_path / "w.ckpt", tmp_path / "w")


def test_a_missing_checkpoint(refused, tmp_path):
    assert "No such file or directory" in refused("compact", tmp_path / "gone.ckpt", tmp_path / "w")


def test_a_folder_that_is_not_there(refused, tied, tmp_path):
    torch.save(tied.state_dict(), tmp_path / "w.pt")
    assert "cannot write" in refused("compact", tmp_path / "w.pt", Path(tmp_path) / "gone" / "w")


def test_places_that_are_not_saved_are_left_out(tmp_path):
    """As buffers that are not persistent, which a module may share too."""
    shared = [{"names": ["a.mask", "b.mask"]}, {"names": ["a.w", "b.w", "b.mask"]}]
    states = {name: {"shared": shared} for name in ("Share1", "HardShare")}
    torch.save(
        {"state_dict": {"a.w": torch.ones(9), "b.w": torch.ones(9)}, "callbacks": states},
        tmp_path / "w.ckpt",
    )
    assert main(["compact", str(tmp_path / "w.ckpt"), str(tmp_path / "w")]) == 0
    assert [list(tie.names) for tie in read(tmp_path / "w").manifest.ties] == [["a.w", "b.w"]]


def test_a_compact_file_is_not_compacted_again(refused, tmp_path):
    module = torch.nn.Linear(3, 2)
    save_compact(module, tmp_path / "w")
    assert "is a compact file already: look at it with lit-share inspect" in refused(
        "compact", tmp_path / "w", tmp_path / "v"
    )


def test_a_checkpoint_is_not_inspected(refused, tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "w.ckpt")
    assert "is not a compact file but a checkpoint: write lit-share compact" in refused(
        "inspect", tmp_path / "w.ckpt"
    )
