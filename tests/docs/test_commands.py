"""Shell commands of the pages could run: programs and options exist, configs compose."""

from __future__ import annotations

import importlib.util
import json
import re

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import open_dict

from lit_share.lab.app.config import prepare, register_schema
from lit_share.lab.cli import make_parser

from .._programs import run
from ._pages import DOCS, PAGES, ROOT, commands, files, text

# Not the page of what goes wrong.
COMMANDS = {
    " ".join(words): words for page in PAGES if page.name != "faults.md" for words in commands(page)
}
EXTRAS = re.findall(r"^(\w+) = \[", text(ROOT / "pyproject.toml"), re.MULTILINE)
ELSEWHERE = (
    "hydra/launcher=gpus",
    "hydra/launcher=submitit_slurm",
    "experiment=NAME",
)  # need other extras, or a name


def first_of(override: Override) -> str:
    """An override with one value, where a sweep has several."""
    text = override.input_line
    if not override.is_sweep_override():
        return text
    value = override.value().start if override.is_interval_sweep() else None
    if value is None:
        value = next(iter(override.sweep_string_iterator()))
    return f"{text.partition('=')[0]}={value}"


@pytest.fixture(scope="module")
def check_config():
    register_schema()

    def check(arguments, folder):
        overrides = OverridesParser.create().parse_overrides(
            [a for a in arguments if a not in ("-m", "--help")]
        )
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            chosen = [*map(first_of, overrides), f"hydra.runtime.output_dir={folder}"]
            config = compose("train", chosen, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        prepare(config)

    yield check
    HydraConfig.instance().cfg = None
    GlobalHydra.instance().clear()


def check_program(words):
    """That a program of this repository is there, and its source has all options."""
    path = ROOT / words[0]
    if words[0] == "-m":
        spec = importlib.util.find_spec(words[1])
        assert spec is not None, words[1]
        path, words = ROOT / (words[1].replace(".", "/") + ".py"), words[1:]
        path = path if path.exists() else path.with_suffix("") / "__main__.py"
    source = path.read_text(encoding="utf-8")
    if "examples/cli" not in str(path):  # LightningCLI's own
        assert [o for o in words[1:] if o.startswith("--") and f'"{o}"' not in source] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_it_could_be_run(command, check_config, tmp_path, monkeypatch):
    program, *words = COMMANDS[command]
    if program == "python" and words[0] in ("train.py", "app.py"):
        if words[0] == "app.py" or "--config-dir" in words or set(words) & set(ELSEWHERE):
            return  # of users; see below
        check_config(words[1:], tmp_path)
    elif program == "python":
        check_program(words)
    elif program == "lit-share":
        if len(words) == 1:  # the name of a subcommand, or an option that needs none
            with pytest.raises(SystemExit, match="0"):
                make_parser().parse_args([*words, "--help"])
        elif not words[0].startswith("--"):
            make_parser().parse_args(words)
    elif program == "pip":
        assert all(
            extra in EXTRAS
            for extra in re.findall(r"[\w-]+", "".join(re.findall(r"\[(.*?)\]", command)))
        )
    else:
        assert program in ("pytest", "sphinx-build", "wandb"), f"no test knows {program}"
        assert all((ROOT / word).exists() for word in words if word.startswith("tests/"))


@pytest.mark.slow
@pytest.mark.multiprocess
def test_the_page_of_your_own_data_is_a_whole_program(tmp_path):
    page = DOCS / "howto" / "own_data.md"
    for file, content in files(page).items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(content)
    # The first needs no code of the page, and `test_own_tables.py` runs it.
    _, single, sweep = re.findall(
        r"^python CLONE/train\.py (.*?)\n```", text(page), re.DOTALL | re.MULTILINE
    )
    arguments, others = (
        [w.strip("'") for w in c.replace("\\\n", " ").split()] for c in (single, sweep)
    )
    assert {*arguments} - {*others} == {"regularizer=soft_tie"}
    arguments += [
        "trainer.max_epochs=2",
        "logger=none",
        "callbacks=quiet",
        f"hydra.run.dir={tmp_path}/out",
    ]
    run([ROOT / "train.py", *arguments], cwd=tmp_path, check=True)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["sharing"]["distance"] < 1.0
