"""Nothing that a config, a checkpoint or a file names is run, and no text is more than text."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lit_share as ls
from lit_share.compact_files import load_compact, pack, read, save_compact, unpack, write
from lit_share.lab.cli import main

from ._audit import audited

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    [*ROOT.glob("lit_share/**/*.py"), *ROOT.glob("hydra_plugins/**/*.py"), ROOT / "train.py"]
)


# The source


def forbidden(source: str) -> list[str]:
    """What could run the content of files or names, in a source: calls by their full names."""
    tree = ast.parse(source)
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                a.asname or a.name.partition(".")[0]: a.name
                if a.asname
                else a.name.partition(".")[0]
                for a in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}

    def full(node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            return f"{full(node.value)}.{node.attr}"
        return names.get(node.id, node.id) if isinstance(node, ast.Name) else "…"

    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and full(node) in NEVER:
            found.append(full(node))
        if not isinstance(node, ast.Call):
            continue
        called = full(node.func)
        options = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if called in ("torch.load", "torch.jit.load") and options.get("weights_only") != "True":
            found.append(called)
        if (
            options.get("shell", "False") != "False"
            or options.get("allow_pickle", "False") != "False"
        ):
            found.append(called)
        if called in ("yaml.load", "yaml.load_all") and "Safe" not in ast.unparse(node):
            found.append(called)
        if called.endswith(".load_from_checkpoint"):
            found.append(called)
    return found


NEVER = {
    "eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "os.system",
    "os.popen", "os.execv", "os.execvp", "os.spawnv", "os.spawnl", "subprocess.getoutput",
    "subprocess.getstatusoutput", "commands.getoutput", "pickle.load", "pickle.loads",
    "pickle.Unpickler", "pickle.dump", "pickle.dumps", "_pickle.load", "_pickle.loads",
    "cloudpickle.load", "cloudpickle.loads", "dill.load", "dill.loads", "joblib.load",
    "marshal.load", "marshal.loads", "shelve.open", "yaml.unsafe_load", "yaml.full_load",
    "code.interact", "runpy.run_path", "torch.hub.load", "torch.jit.load",
    "torch.package.PackageImporter", "jinja2.Template", "tempfile.mktemp",
}  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_runs_what_it_reads(path):
    found = forbidden(path.read_text(encoding="utf-8"))
    # It passes on what the user calls: a class method of pairs.
    if path.parts[-2:] == ("lightnings", "_module.py"):
        found = [call for call in found if call != "lightning.load_from_checkpoint"]
    # It copies a config in memory, which takes six times as long with `copy.deepcopy`.
    if path.name == "_composer.py":
        found = [call for call in found if call not in ("pickle.loads", "pickle.dumps")]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(x)", "import pickle as p\np.load(f)", "from pickle import loads\nloads(x)",
        "f = exec", "import os\nos.system(x)", "import subprocess\nsubprocess.run(x, shell=True)",
        "import torch\ntorch.load(x)", "from os import system as s\ns(x)",
        "import torch\ntorch.load(x, weights_only=False)", "import yaml\nyaml.load(x)",
        "__import__(x)", "import numpy as np\nnp.load(x, allow_pickle=True)",
        "from torch import load\nload(x, weights_only=w)",
        "import subprocess as s\ns.Popen(x, shell=y)", "Model.load_from_checkpoint(x)",
    ],
)  # fmt: skip
def test_the_search_finds(source):
    assert forbidden(source)


def test_the_search_reads_all_sources():
    assert len(SOURCES) > 100
    assert (
        forbidden(
            "import torch, pickle\ntorch.load(x, weights_only=True)\nerror = pickle.UnpicklingError"
        )
        == []
    )


def test_names_are_imported_in_one_place_only():
    """Targets of configs are imported to be checked, as Hydra does; nothing else names modules.

    `lit-share plan package.module:name` imports what is typed, which its help says; `Ties(types=)`
    imports what the user names; hyperparameters of a checkpoint are read with the classes only that
    the hyperparameters of the user's own module have; checkpoints are those of the Lightning that
    the model is of.
    """
    users = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if "import_module" in path.read_text("utf-8")
    }
    assert users == {
        "lit_share/__init__.py",
        "lit_share/lab/app/_check.py",
        "lit_share/lab/checkpoints.py",
        # Lightning under one of its names, which is imported already.
        "lit_share/lightnings/_callback.py",
        "lit_share/lightnings/_module.py",
        "lit_share/lightnings/_packages.py",
        "lit_share/cli/_source.py",
        "lit_share/compact_files/_layers.py",
        "lit_share/paired/_hyperparameters.py",
        "lit_share/ties/_kinds.py",
    }
    users = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if "instantiate(" in path.read_text("utf-8")
    }
    assert users == {
        "lit_share/lab/app/build.py",
        "lit_share/lab/app/cells.py",  # before training, to find what is wrong
        "lit_share/lab/app/_search.py",  # the pruner and the sampler of a search
        "hydra_plugins/lit_share_trials.py",
    }


# State is data


class Lit(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

    def training_step(self, batch, _):
        loss = self.net(batch[0]).square().mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, _):
        self.log("val", self.net(batch[0]).square().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def rows(n=8):
    return DataLoader(TensorDataset(torch.randn(n, 4)), batch_size=4)


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*isinstance.treespec", "ignore:.*GPU",
    "ignore:.*log_every_n_steps", "ignore:.*No.*val_dataloader",
    "ignore:.*could not find the monitored key", "ignore:.*`logger=False`",
)  # fmt: skip
def test_checkpoints_of_everything_are_data(tmp_path):
    """Callbacks of all kinds, two optimizers and two models: the checkpoint needs no pickle."""
    ties, whole = ls.Ties("a.net.0.*", "b.net.0.*"), ls.Ties("a.net.2.*", "b.net.2.*")
    callbacks = [
        ls.Share(ties),
        ls.Share(ls.Ties("a.net.2.bias", "b.net.2.bias"), epoch=1),
        ls.Regularize(
            ls.Penalty("l1", "tensor", "mean"), ls.Ties("a.net.2.weight", "b.net.2.weight"), 0.1
        ),
        ls.Regularize(ls.Penalty("squared", "element", "start"), ls.Ties("*.net.2.weight"), 0.1),
        ls.Regularize(ls.Penalty("squared", "element", "mean"), whole, 0.1),
        ls.SharingMonitor(whole),
    ]
    trainer = Trainer(
        callbacks=callbacks, default_root_dir=tmp_path, max_epochs=2, accelerator="cpu",
        logger=False, devices=1, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(ls.Paired(a=Lit(), b=Lit()), {"a": rows(), "b": rows()}, {"a": rows(), "b": rows()})
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with audited() as events:
        loaded = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert not [
        event
        for event in events
        if event[0] in ("exec", "pickle.find_class", "subprocess.Popen", "os.system")
    ]
    assert len(loaded["callbacks"]) == len(callbacks)
    check_plain(loaded)
    for callback in callbacks:
        torch.save(callback.state_dict(), tmp_path / "state")
        check_plain(torch.load(tmp_path / "state", weights_only=True))


def check_plain(value, path=""):
    if isinstance(value, dict):
        for key, item in value.items():
            assert type(key) in (str, int), f"{path}: {key!r}"
            check_plain(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            check_plain(item, f"{path}[{i}]")
    else:
        assert (
            value is None
            or type(value) in (str, int, float, bool)
            or isinstance(value, torch.Tensor)
        ), path


class Exploding:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("command", ["compact", "inspect"])
def test_a_checkpoint_with_code_is_refused(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.ones(2)}, "more": Exploding()}, "w.ckpt")
    with audited() as events:
        assert main([command, "w.ckpt", *(["out"] if command == "compact" else [])]) == 2
    assert not [event for event in events if event[0] in ("os.system", "subprocess.Popen")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.ckpt"]
    assert "w.ckpt" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "../../pwned", "/tmp/pwned", "~/pwned", "C:\\pwned", "$(touch pwned)", "`touch pwned`",
        "a;touch pwned", "__import__('os').system('touch pwned')", "{{7*7}}", "a\x00b", ".",
    ],
)  # fmt: skip
def test_names_of_tensors_are_no_paths(name, tmp_path, monkeypatch, capsys):
    """Names in checkpoints and compact files open no files but those on the command line."""
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    state = {name: torch.ones(40, 3), f"{name}.b": torch.ones(40, 3)}
    torch.save(
        {"state_dict": state, "callbacks": {"Share": {"shared": [{"names": [name, f"{name}.b"]}]}}},
        "w.ckpt",
    )
    main(["inspect", "w.ckpt"])  # imports that happen at first use
    with audited() as events:
        assert main(["compact", "w.ckpt", "w.safetensors"]) == 0
        assert main(["inspect", "w.safetensors"]) == 0
        assert unpack(read("w.safetensors")).keys() == state.keys()
    assert not [
        event
        for event in events
        if event[0] in ("os.system", "subprocess.Popen", "pickle.find_class")
    ]
    assert not [event for event in events if "pwned" in str(event)]
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "deep/folder/w.ckpt", "deep/folder/w.safetensors",
    ]  # fmt: skip
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.split("\n"))


def test_properties_that_a_file_names_are_not_read(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        @property
        def explode(self):
            raise AssertionError("read")

    path = tmp_path / "w"
    tensors = {"explode.weight": torch.ones(3, 2), "explode.assignment": torch.tensor([0, 1, 0])}
    write(pack(tensors, codebooks=["explode"]), path)
    with pytest.raises(ValueError, match="has a codebook for 'explode', which the module has not"):
        load_compact(path, Net())


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_what_has_no_end_is_not_read(tmp_path, kind):
    path = Path("/dev/zero")
    if kind == "fifo":
        path = tmp_path / "fifo"
        os.mkfifo(path)
    with pytest.raises(ValueError, match="is not a file but a device or a pipe"):
        read(path)


def test_a_compact_file_is_written_beside_nothing_else(tmp_path):
    with audited() as events:
        save_compact(nn.Linear(3, 2), tmp_path / "w")
    written = {
        Path(str(a[0])).parent
        for e, a in events
        if e in ("open", "os.rename", "os.remove") and str(a[0])[0] == "/"
    }
    assert {folder for folder in written if "site-packages" not in str(folder)} <= {tmp_path}
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


# Configs


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.usefixtures("own_folder")
@pytest.mark.filterwarnings("ignore")
def test_no_value_of_a_config_reaches_a_shell(tmp_path):
    """A run whose names are all shell commands trains, and starts no program of these names."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf, open_dict

    from lit_share.lab.app.config import register_schema
    from lit_share.lab.app.run import run

    evil = "$(touch pwned);`touch pwned`|touch pwned&&touch pwned #'"
    folder = tmp_path / evil
    folder.mkdir()
    quoted = evil.replace("'", r"\'")
    overrides = [
        "debug=fast", "logger=wandb", "callbacks=quiet",
        f"hydra.runtime.output_dir='{tmp_path}/{quoted}'", "++logger.wandb.offline=true",
        f"++logger.wandb.name='{quoted}'", f"++logger.wandb.project='{quoted[:40]}'",
        f"++logger.wandb.group='{quoted}'", f"++logger.wandb.notes='{quoted}'",
        f"++logger.wandb.tags=['{quoted[:20]}']", f"ties.exclude=['{quoted}']",
    ]  # fmt: skip
    register_schema()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    OmegaConf.set_readonly(config.hydra, None)
    with open_dict(config):
        del config["hydra"]
    try:
        with audited() as events:
            run(config, folder, overrides)
    finally:
        HydraConfig.instance().cfg = None
    assert (folder / "result.json").exists()
    assert not list(tmp_path.rglob("pwned"))
    started = [
        arguments
        for event, arguments in events
        if event in ("subprocess.Popen", "os.exec", "os.posix_spawn")
    ]
    assert started  # W&B starts a process
    for program, arguments, *_ in started:
        assert Path(os.fsdecode(program)).name not in ("sh", "bash", "cmd.exe")
        assert "touch" not in str(arguments)
    assert not [event for event, _ in events if event == "os.system"]
