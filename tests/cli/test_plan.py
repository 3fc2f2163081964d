"""`lit-share plan`."""

from __future__ import annotations

import json
import sys
from textwrap import dedent

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import lit_share
from lit_share.compact_files import save_compact

PROJECT = """
    import torch
    from torch import nn

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            print("being built")
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

    class Needs(nn.Module):
        def __init__(self, width):
            super().__init__()

    class models:
        transposed = nn.ModuleDict({"encoder": nn.Linear(3, 2), "decoder": nn.Linear(2, 3)})

    def build_nothing():
        return 3

    def leave():
        raise SystemExit("usage: ...")
"""


@pytest.fixture
def pair():
    return nn.ModuleDict({name: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)) for name in "ab"})


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a module of the user's."""
    (tmp_path / "my_project.py").write_text(dedent(PROJECT))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("my_project", None)


@pytest.fixture(params=["state dict", "checkpoint", "compact", "safetensors"])
def file(request, pair, tmp_path):
    path = tmp_path / "weights"
    if request.param == "state dict":
        torch.save(pair.state_dict(), path)
    elif request.param == "checkpoint":
        torch.save({"epoch": 3, "state_dict": pair.state_dict()}, path)
    elif request.param == "compact":
        save_compact(pair, path)
    else:
        save_file(pair.state_dict(), path)
    return path


def test_a_file_is_planned_as_the_module_in_it(run, file, pair):
    code, out, err = run("plan", file, "a.*", "b.*", "--exclude", "*.bias", "--exclude", "*.1.*")
    assert (code, err) == (0, "")
    assert out == f"{lit_share.Ties('a.*', 'b.*', exclude=['*.bias', '*.1.*']).plan(pair)}\n"
    assert "0.weight (2×3): a.0.weight = b.0.weight" in out


def test_a_terminal_gets_a_table(run, pair, tmp_path, monkeypatch):
    torch.save(pair.state_dict(), tmp_path / "w")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    out = run("plan", tmp_path / "w", "a.*", "b.*")[1]
    assert "Tie plan" in out
    assert "saved if" in out


def test_what_a_file_has_of_buffers_is_not_tied(run, file, pair):
    out = run("plan", file, "a.*", "b.*")[1]
    *expected, remark = str(lit_share.Ties("a.*", "b.*").plan(pair)).splitlines()
    assert sorted(out.splitlines()[:-1]) == sorted(expected)
    assert (
        out.splitlines()[-1].split("(")[0]
        == remark.split("(")[0]
        == "each model keeps its own buffers "
    )


def test_json(run, file):
    content = json.loads(run("plan", file, "a.0.*", "b.0.*", "--exclude", "c.*", "--json")[1])
    bias, weight = sorted(
        content["ties"], key=lambda tie: tie["name"]
    )  # safetensors files are sorted themselves
    assert bias == {
        "name": "bias",
        "members": ["a.0.bias", "b.0.bias"],
        "shape": [2],
        "parameters": 4,
        "saved": 2,
    }
    assert weight["members"] == ["a.0.weight", "b.0.weight"]
    assert (weight["shape"], weight["parameters"], weight["saved"]) == ([2, 3], 12, 6)
    assert (content["parameters"], content["saved"], content["unused"]) == (16, 8, ["c.*"])


def test_without_patterns_it_lists_what_they_can_match(run, file):
    code, out, _ = run("plan", file)
    assert code == 0
    assert sorted(line.split() for line in out.splitlines())[:2] == [
        ["a.0.bias", "2"],
        ["a.0.weight", "2×3"],
    ]
    assert "running_mean" not in out
    shapes = json.loads(run("plan", file, "--json")[1])["shapes"]
    assert list(shapes) == [line.split()[0] for line in out.splitlines()]
    assert shapes["b.1.weight"] == [2]


@pytest.mark.parametrize(
    "save", [lambda module, path: torch.save(module.state_dict(), path), save_compact]
)
def test_what_is_one_already_saves_nothing(run, tmp_path, save):
    module = nn.ModuleDict({name: nn.Linear(3, 2) for name in "abc"})
    module["b"].weight = module["a"].weight
    save(module, tmp_path / "w")
    content = json.loads(run("plan", tmp_path / "w", "a.*", "b.*", "c.*", "--json")[1])
    assert {tie["name"]: tie["saved"] for tie in content["ties"]} == {"weight": 6, "bias": 4}
    assert (
        content["parameters"] == lit_share.Ties("a.*", "b.*", "c.*").plan(module).parameters == 18
    )


def test_transposed_members_and_slices(run, tmp_path):
    torch.save(
        {"e": torch.ones(3, 2), "d": torch.ones(2, 3), "local": torch.ones(4, 5)}, tmp_path / "w"
    )
    assert "e = d.T" in run("plan", tmp_path / "w", "e", "d.T")[1]
    assert "local[0] = local[1] = local[2] = local[3]" in run("plan", tmp_path / "w", "local[:]")[1]


def test_names_that_modules_have_methods_of(run, tmp_path):
    torch.save(
        {"type.half": torch.ones(3), "float.half": torch.ones(3), "steps": 3}, tmp_path / "w"
    )
    assert "type.half = float.half" in run("plan", tmp_path / "w", "type.*", "float.*")[1]


def test_nothing_is_larger_than_its_names(run, tmp_path):
    """Shapes are enough for a plan."""
    huge = torch.zeros(1).expand(10**6, 10**6)
    torch.save({"a": huge, "b": huge.T[:]}, tmp_path / "w")
    assert json.loads(run("plan", tmp_path / "w", "a", "--json")[1])["parameters"] == 10**12


@pytest.mark.parametrize("source", ["my_project:Pair", "my_project:models.transposed"])
def test_what_python_can_import(run, project, source):
    patterns = ("a.*", "b.*") if source.endswith("Pair") else ("encoder.weight", "decoder.weight.T")
    before = list(sys.path)
    code, out, err = run("plan", source, *patterns, "--json")
    assert code == 0
    assert json.loads(out)["saved"] == (8 if source.endswith("Pair") else 6)
    assert err == ("being built\n" if source.endswith("Pair") else "")
    assert sys.path == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.ckpt", "a.*"], "No such file or directory: 'nowhere.ckpt'"),
        (["."], "Is a directory"),
        (
            ["w", "a.*", "b.*"],
            "leaves names without a counterpart: 'a.x' has no counterpart 'b.x' in 'b.*'",
        ),
        (["w", "a.*", "q"], "the patterns of one Ties must have the same number of stars"),
        (["w", "a.xx"], "pattern 'a.xx' matches no parameter: did you mean 'a.x'?"),
        (["w", "a.x", "b.y"], "shape"),
        (["w", "a.x", "--exclude", "*"], "finds nothing"),
        (["w", "--exclude", "a.*"], "--exclude goes with patterns, and there is none"),
        (["numbers", "a.*"], "there is no parameter in it"),
        (["text"], "is not a file that torch.load can read"),
        (
            ["my_project:Pear", "a.*"],
            "'my_project:Pear' cannot be built (AttributeError: module 'my_project' has no",
        ),
        (
            ["my_projekt:Pair", "a.*"],
            "cannot be built (No module named 'my_projekt', neither installed nor in /",
        ),
        (
            ["elsewhere/my_project.py:Pair", "a.*"],
            (
                "is a path, and code is imported: write PYTHONPATH=elsewhere before the command, "
                "and my_project:Pair in place of it"
            ),
        ),
        (
            ["my_project.models:Pair", "a.*"],
            "No module named 'my_project.models'; 'my_project' is not a package, neither installed",
        ),
        (
            ["my_project:Needs", "a.*"],
            "missing 1 required positional argument: 'width'): name a module, or a class or",
        ),
        (
            ["my_project:build_nothing", "a.*"],
            "'my_project:build_nothing' gave a int, not a module",
        ),
        (["my_project:leave", "a.*"], "(SystemExit: usage: ...)"),
    ],
)
def test_errors_have_code_2_and_one_line(refused, project, arguments, message):
    torch.save({"a.x": torch.ones(3), "b.y": torch.ones(4)}, "w")
    torch.save({"steps": torch.tensor(3), "epoch": 3}, "numbers")
    (project / "text").write_text("hello")
    assert message in refused("plan", *arguments)


def test_names_cannot_command_the_terminal(run, tmp_path):
    torch.save({"a\x1b[31m": torch.ones(3)}, tmp_path / "w")
    for arguments in ([], ["a*"]):
        out = run("plan", tmp_path / "w", *arguments)[1]
        assert "\x1b" not in out
        assert r"a\x1b[31m" in out


def test_a_checkpoint_is_read_without_running_what_is_in_it(refused, tmp_path):
    torch.save({"state_dict": {"a": torch.ones(2)}, "config": Harmless()}, tmp_path / "w")
    assert "cannot be read without pickle" in refused("plan", tmp_path / "w", "a")


class Harmless:
    """What weights_only does not know."""


@pytest.mark.parametrize("alike", [False, True])
def test_a_checkpoint_whose_units_do_not_correspond(run, tmp_path, alike):
    pair = nn.ModuleDict(
        {name: nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 5)) for name in "ab"}
    )
    if alike:
        pair["b"].load_state_dict(pair["a"].state_dict())
    torch.save({"state_dict": pair.state_dict()}, tmp_path / "w.ckpt")
    content = json.loads(run("plan", tmp_path / "w.ckpt", "a.*", "b.*", "--json")[1])
    assert content["unaligned"] == ([] if alike else ["0.weight", "2.weight"])
    out = run("plan", tmp_path / "w.ckpt", "a.*", "b.*")[1]
    assert ("permute their units with lit_share.align" in out) == (not alike)


def test_values_larger_than_their_file_are_not_compared(run, tmp_path):
    ones, zeros = (torch.full((1,), value).expand(10**6, 10**6) for value in (1.0, 0.0))
    torch.save({"a.x": ones, "b.x": zeros, "a.y": ones, "b.y": ones}, tmp_path / "w")
    assert json.loads(run("plan", tmp_path / "w", "a.*", "b.*", "--json")[1])["unaligned"] == []


def test_clusters_of_a_checkpoint(run, tmp_path):
    models = nn.ModuleDict({name: nn.Linear(3, 2) for name in "abc"})
    models["c"].load_state_dict(models["a"].state_dict())
    torch.save({"state_dict": models.state_dict()}, tmp_path / "w.ckpt")
    arguments = ("plan", tmp_path / "w.ckpt", "a.*", "b.*", "c.*")
    out = run(*arguments)[1]
    assert "weight: a.weight = c.weight | b.weight" in out
    weight, _ = json.loads(run(*arguments, "--json")[1])["clusters"]
    members = ["a.weight", "b.weight", "c.weight"]
    assert weight == {"name": "weight", "members": members, "labels": [0, 1, 0]}
    arguments = (*arguments[:2], "a.weight[...]", "--json")
    (inside,) = json.loads(run(*arguments)[1])["clusters"]
    assert inside == {"name": "a.weight", "member": "a.weight[...]", "numbers": 6, "count": 6}
    save_compact(models, tmp_path / "w.safetensors")
    # A compact file is not decoded for a plan.
    out = run("plan", tmp_path / "w.safetensors", "a.*", "b.*", "c.*", "--json")[1]
    assert json.loads(out)["clusters"] == []


def test_kinds_of_parameters(run, project):
    (project / "mine.py").write_text(
        "from torch import nn\n"
        "layers = lambda: nn.Sequential(nn.Linear(3, 2), nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2))\n"
        "net = nn.ModuleDict({'a': layers(), 'b': layers()})\n"
    )

    def tied(*options):
        code, out, err = run("plan", "mine:net", "a.*", "b.*", *options, "--json")
        assert (code, err) == (0, "")
        return [tie["name"] for tie in json.loads(out)["ties"]]

    assert tied("--min-ndim", "2") == ["0.weight", "1.weight"]
    assert tied("--type", "torch.nn.Linear") == ["0.weight", "0.bias"]
    assert tied("--type", "torch.nn.Linear", "--type", "torch.nn.Conv1d", "--min-ndim", "2") == [
        "0.weight",
        "1.weight",
    ]
    sys.modules.pop("mine")


@pytest.mark.parametrize("option", [("--type", "torch.nn.Linear"), ("--min-ndim", "2")])
def test_kinds_without_patterns(refused, project, option):
    assert f"{option[0]} goes with patterns, and there is none" in refused(
        "plan", "my_project:Pair", *option
    )
