"""`lit-share align`."""

from __future__ import annotations

import json
import sys
from textwrap import dedent

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from lit_share.alignment import axis_graph
from lit_share.alignment import run as outputs_of

PROJECT = """
    import torch
    from lightning.pytorch import LightningModule
    from torch import nn

    def net():
        print("being built")
        return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = net(), net()

    class Lit(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net()
            self.example_input_array = torch.ones(4, 5)

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            return self.net(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    def example():
        return torch.randn(16, 5, generator=torch.Generator().manual_seed(3))

    number = 3.0
"""
INPUTS = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A folder with a module of the user's."""
    (tmp_path / "my_project.py").write_text(dedent(PROJECT))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("my_project", None)


def net():
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))


def shuffled(module, seed):
    other = net()
    other.load_state_dict(module.state_dict())
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    axis_graph(other, INPUTS).permute_(other, {0: order})
    return other


@pytest.fixture
def nets():
    torch.manual_seed(0)
    first = net()
    return [first, shuffled(first, 1), shuffled(first, 2)]


@pytest.fixture
def files(nets):
    for name, module in zip("abc", nets, strict=True):
        torch.save(module.state_dict(), f"{name}.pt")
    return ["a.pt", "b.pt", "c.pt"]


MODEL = ("--model", "my_project:net", "--inputs", "16x5")


def assert_same(state, expected):
    assert list(state) == list(expected)
    for name, value in expected.items():
        assert torch.equal(state[name], value), name


def test_state_dicts(run, files, nets):
    code, out, err = run("align", *files[:2], *MODEL, "--output", "new.pt")
    assert (code, err) == (0, "being built\n")
    assert "aligned b to a by weights: " in out
    assert "cosine of 0.weight[0]" in out
    assert out.endswith("wrote new.pt\n")
    assert_same(torch.load("new.pt"), nets[0].state_dict())


@pytest.mark.parametrize("reference", ["first", "mean"])
def test_several(run, files, nets, reference):
    options = ("--reference", reference, "--output", "new_b.pt", "new_c.pt", "--json")
    content = json.loads(run("align", *files, *MODEL, *options)[1])
    assert content["members"] == ["a", "b", "c"]
    assert content["moved"] > 0
    assert content["after"] == pytest.approx(1.0)
    assert content["axes"][0]["name"] == "0.weight[0]"
    assert (content["outputs"], content["left_out"]) == (["new_b.pt", "new_c.pt"], [])
    for name in ("new_b.pt", "new_c.pt"):
        assert_same(torch.load(name), nets[0].state_dict())


@pytest.mark.parametrize("by", ["weights", "activations"])
@pytest.mark.parametrize("inputs", ["my_project:example", "inputs.pt"])
def test_submodules_of_one_checkpoint(run, nets, by, inputs):
    pair = nn.ModuleDict({"a": nets[0], "b": nets[1]})
    torch.save(pair.state_dict(), "pair.pt")
    torch.save([INPUTS], "inputs.pt")
    options = ("--model", "my_project:Pair", "--inputs", inputs, "--by", by, "--output", "new.pt")
    code, _, err = run("align", "pair.pt", "--ties", "a.*", "b.*", *options)
    assert (code, err) == (0, "being built\n" * 2)
    state = torch.load("new.pt")
    assert list(state) == list(pair.state_dict())
    for name, value in nets[0].state_dict().items():
        assert torch.equal(state[f"a.{name}"], value)
        assert torch.equal(state[f"b.{name}"], value)


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*isinstance.treespec", "ignore:.*GPU"
)
@pytest.mark.parametrize("submodule", [(), ("--submodule", "net", "--inputs", "16x5")])
def test_checkpoints_of_lightning(run, nets, project, submodule):
    sys.path.insert(0, str(project))
    try:
        from my_project import Lit
    finally:
        sys.path.remove(str(project))
    trainers = []
    for name, module in zip("ab", nets, strict=False):
        trainer = Trainer(
            default_root_dir=project, max_steps=1, accelerator="cpu", logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        lit = Lit()
        lit.net.load_state_dict(module.state_dict())
        trainer.fit(lit, DataLoader(INPUTS, batch_size=16))
        trainer.save_checkpoint(f"{name}.ckpt")
        trainers.append(lit)
    options = ("--model", "my_project:Lit", *submodule, "--output", "new.ckpt")
    code, out, _ = run("align", "a.ckpt", "b.ckpt", *options)
    assert code == 0
    assert "left out, as it belongs to the old order: " in out
    assert "optimizer_states" in out
    found = torch.load("new.ckpt", weights_only=True)
    assert found["epoch"] == 1
    assert "optimizer_states" not in found
    loaded = Lit.load_from_checkpoint("new.ckpt")
    for name, value in trainers[0].state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value)
    after, before = outputs_of(loaded, INPUTS), outputs_of(trainers[1], INPUTS)
    torch.testing.assert_close(after, before)


def test_dtypes_and_names_of_compiled_modules_stay(run, nets):
    torch.save(nets[0].state_dict(), "a.pt")
    half = {f"_orig_mod.{name}": value for name, value in nets[1].half().state_dict().items()}
    torch.save(half, "b.pt")
    assert run("align", "a.pt", "b.pt", *MODEL, "--output", "new.pt")[0] == 0
    state = torch.load("new.pt")
    assert list(state) == list(half)
    expected = nets[0].half().state_dict()
    assert all(torch.equal(state[f"_orig_mod.{name}"], v) for name, v in expected.items())


def test_files_of_one_name(run, nets, project):
    for folder, module in zip("xy", nets, strict=False):
        (project / folder).mkdir()
        torch.save(module.state_dict(), f"{folder}/last.v1.ckpt")
    paths = ("x/last.v1.ckpt", "y/last.v1.ckpt")
    out = run("align", *paths, *MODEL, "--output", "new.ckpt", "--json")[1]
    assert json.loads(out)["members"] == ["last_v1_1", "last_v1_2"]


def test_nothing_is_overwritten_unasked(run, refused, files, project):
    (project / "new.pt").write_text("precious")
    command = ("align", *files[:2], *MODEL, "--output")
    assert "'new.pt' exists: write --force to replace it" in refused(*command, "new.pt")
    assert (project / "new.pt").read_text() == "precious"
    assert "'b.pt' is a checkpoint itself" in refused(*command, "b.pt", "--force")
    assert run(*command, "new.pt", "--force")[0] == 0
    assert torch.load("new.pt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("a.pt b.pt --output x y", "--output names 2 files, but 1 are written"),
        ("a.pt b.pt c.pt --output x x", "--output names a file twice"),
        ("a.pt b.pt --output gone/x", "cannot write 'gone/x': 'gone' is no folder"),
        ("a.pt b.pt --output x --ties a.* b.*", "and there are several: write --submodule"),
        ("a.pt --output x", "one checkpoint has nothing to be aligned with"),
        ("a.pt --ties a.* b.* --submodule a --output x", "write it into --ties"),
        ("a.pt b.pt --exclude *.bias --output x", "--exclude goes with --ties"),
        ("a.pt gone.pt --output x", "No such file or directory: 'gone.pt'"),
        ("a.pt other.pt --output x", "'other.pt' does not fit my_project:net: "),
        ("a.pt b.pt --submodule 9 --output x", "'a.9.*' matches no parameter"),
        ("a.pt b.pt --submodule 3 --inputs 4x7 --output x", "nothing to align in a.3, b.3"),
        ("a.pt b.pt --inputs 16x4 --output x", "cannot be called with these inputs"),
        ("a.pt b.pt --by activations --output x", "random numbers say nothing of activations"),
        ("a.pt b.pt --inputs gone.pt --output x", "No such file or directory: 'gone.pt'"),
        ("a.pt b.pt --inputs my_project.py --output x", "'my_project.py' holds no inputs"),
        ("a.pt b.pt --inputs number.pt --output x", "'number.pt' is a float, not a tensor"),
        ("a.pt b.pt --inputs my_project:number --output x", "name a tensor, tuple or dict, or a"),
        ("a.pt b.pt --inputs my_project:net --output x", "gave a Sequential, not a tensor, tu"),
        ("a.pt b.pt --model net --output x", "'net' names no module: write it as package.module"),
    ],
)
def test_errors(run, files, project, arguments, message):
    torch.save({"weight": torch.ones(2)}, "other.pt")
    torch.save(3.0, "number.pt")
    words = arguments.split()
    for option, value in (("--model", "my_project:net"), ("--inputs", "16x5")):
        if option not in words:
            words += [option, value]
    code, out, err = run("align", *words)
    assert (code, out) == (2, "")
    line = err.splitlines()[-1]
    assert line.startswith("lit-share: ")
    assert message in line
    assert not (project / "x").exists()


def test_inputs_are_asked_for(run, files):
    code, _, err = run("align", *files[:2], "--model", "my_project:net", "--output", "x")
    assert code == 2
    assert "write --inputs, what the aligned modules are called with" in err
