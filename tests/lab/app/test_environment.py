"""Values of the environment are in nothing that is passed on, and runs work as with them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from lit_share.lab.app._check import ConfigError
from lit_share.lab.app._environment import Environment
from lit_share.lab.app.run import run
from lit_share.lab.report import compare, write_report
from lit_share.lab.results import read_results

from .conftest import Compose

SECRET = "hunter2xyz"
FAST = ("debug=fast", "logger=none", "callbacks=quiet")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.setenv("NUMBER", "7")
    monkeypatch.delenv("UNSET", raising=False)
    for name in ("vault", "vault_cached"):
        OmegaConf.register_new_resolver(
            name, lambda key: f"{SECRET}-{key}", use_cache=name == "vault_cached"
        )
    yield
    for name in ("vault", "vault_cached"):
        OmegaConf.clear_resolver(name)


def hidden(text: str) -> object:
    config = OmegaConf.create(yaml.safe_load(text))
    resolved = OmegaConf.to_container(config, resolve=True)
    return Environment.of(config).hide(resolved)


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:SECRET}",
        "postgres://me:${oc.env:SECRET}@host",
        "${vault:db}",
        "${vault_cached:db}",
        "${oc.decode:${oc.env:SECRET}}",
        "${oc.env:UNSET,${oc.env:SECRET}}",
        "${oc.select:one.more.node,${vault:db}}",
        "${other}",
        "x${other}x",
        "${nested.0.key}",
        "${nested}",
        "${.beside}",
    ],
)
def test_every_way_to_a_value(value: str) -> None:
    text = f"""
        a: {{b: ["{value}", 1], beside: "${{oc.env:SECRET}}"}}
        other: "${{oc.env:SECRET}}"
        nested: [{{key: "${{vault:x}}"}}]
    """.replace("${.beside}", "${..beside}")
    found = hidden(text)
    assert found == yaml.safe_load(text.replace("${.beside}", "${..beside}"))
    assert SECRET not in str(found)
    # A config that is made of it says the same as before.
    again = OmegaConf.to_container(OmegaConf.create(found), resolve=True)
    assert again == OmegaConf.to_container(OmegaConf.create(yaml.safe_load(text)), resolve=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("${n}", 3),
        ("${oc.select:n}", 3),
        ("${oc.dict.keys:d}", ["k"]),
        ("text", "text"),
        # A default is shown as what it is, too: whether the variable is set does not matter.
        ("${oc.env:UNSET,word}", "${oc.env:UNSET,word}"),
        ("${oc.decode:${oc.env:NUMBER}}", "${oc.decode:${oc.env:NUMBER}}"),
    ],
)
def test_other_values_are_resolved(value: str, expected: object) -> None:
    config = f'a: "{value}"\nn: 3\nd: {{k: 1}}\nwords: [word, 7]'
    assert hidden(config) == {"a": expected, "n": 3, "d": {"k": 1}, "words": ["word", 7]}


def test_values_that_were_copied_are_hidden() -> None:
    config = OmegaConf.create({"a": "${oc.env:SECRET}", "b": "${oc.env:NUMBER}"})
    environment = Environment.of(config)
    assert environment.hide({"copy": [f"<{SECRET}>"]}) == {"copy": ["<${oc.env:SECRET}>"]}
    # A digit is in many texts.
    assert environment.hide_in("7 rows") == "7 rows"


def test_resolvers_are_the_same_afterwards_and_errors_are_left_to_others() -> None:
    config = OmegaConf.create({"a": "${oc.env:UNSET}", "b": "${no_such:1}", "c": "${gone}"})
    assert Environment.of(config).raw == {("a",): "${oc.env:UNSET}"}
    assert OmegaConf.create({"a": "${oc.env:SECRET}"}).a == SECRET


def files_with(secret: str, folder: Path) -> list[str]:
    # Weights are no texts, and the metrics' names are what the prefix is for.
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "metrics.csv"]
    assert any(p.name == "hparams.yaml" for p in files)
    found = [p for p in files if secret.encode() in p.read_bytes()]
    return sorted(str(path.relative_to(folder)) for path in found)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_runs_reports_and_loggers(compose_config: Compose, tmp_path: Path) -> None:
    own = [
        f"+logger.csv={{_target_:lightning.pytorch.loggers.CSVLogger,save_dir:{tmp_path}/0}}",
        "++logger.csv.prefix='${oc.env:SECRET}'",
        "++logger.csv.flush_logs_every_n_steps='${oc.decode:${oc.env:NUMBER}}'",
        # The model's own hyperparameters are logged by Lightning.
        "++data.seed='${oc.decode:${oc.env:NUMBER}}'",
    ]
    overrides = [*FAST, *own]
    run(compose_config(*overrides, output_dir=tmp_path / "0"), tmp_path / "0", overrides)
    results = read_results([tmp_path])
    write_report(compare(results), tmp_path)
    assert files_with(SECRET, tmp_path) == []
    config = OmegaConf.load(tmp_path / "0" / "config.yaml")
    assert OmegaConf.to_container(config)["logger"]["csv"]["prefix"] == "${oc.env:SECRET}"
    assert "${oc.env:SECRET}" in (tmp_path / "report.html").read_text()
    # Resuming compares configs, which may be of a machine with other values.
    last = f"ckpt_path={tmp_path}/0/checkpoints/last.ckpt"
    more = [*overrides, last, "trainer.max_epochs=2"]
    run(compose_config(*more, output_dir=tmp_path / "0"), tmp_path / "0", more)
    other = [*more, "data.seed=8"]
    with pytest.raises(ConfigError, match="another experiment") as error:
        run(compose_config(*other, output_dir=tmp_path / "2"), tmp_path / "2", other)
    assert "oc.env:NUMBER" in str(error.value)


def test_hyperparameters_that_lightning_logs(compose_config: Compose) -> None:
    from lightning.pytorch import LightningModule

    class Model(LightningModule):
        def __init__(self, token: str, more: dict[str, str]) -> None:
            super().__init__()
            self.save_hyperparameters()

    environment = Environment.of(OmegaConf.create({"token": "${oc.env:SECRET}"}))
    model = Model(SECRET, {"url": f"https://{SECRET}@host"})
    environment.hide_in_hyperparameters(model)
    expected = {"token": "${oc.env:SECRET}", "more": {"url": "https://${oc.env:SECRET}@host"}}
    assert dict(model.hparams_initial) == expected
    # Checkpoints have to build the model again.
    assert model.hparams.token == SECRET


def test_errors_in_results(compose_config: Compose, tmp_path: Path) -> None:
    own = ["++trainer.accelerator='${oc.env:SECRET}'"]
    with pytest.raises(Exception, match=SECRET):
        run(compose_config(*FAST, *own), tmp_path, own)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "failed"
    assert SECRET not in json.dumps(result)
    assert "${oc.env:SECRET}" in result["error"]
