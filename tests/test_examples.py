"""The examples run as they are, and what they print is true of what they claim."""

import importlib.util
import logging
import re
import runpy
from pathlib import Path

import pytest

from ._programs import run

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDS = {"hugging_face": "transformers", "cli": "jsonargparse"}
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


class Printed:
    """What an example printed: the numbers of a row, by how it begins."""

    def __init__(self, text):
        self.lines = text.splitlines()

    def __getitem__(self, beginning):
        (line,) = (line for line in self.lines if line.startswith(beginning))
        found = NUMBER.findall(line[len(beginning) :].replace(" ± ", " "))
        return [float(number.replace(",", "")) for number in found]

    def column(self, index, *beginnings):
        return [self[beginning][index] for beginning in beginnings]


def check_own_module(printed):
    apart, tied = printed["strength 0 "][0], printed["strength 1 "][0]
    assert 0.6 < apart < tied
    accuracy, _, gain, margin = printed["chosen on validation"]
    assert accuracy > 0.8
    assert gain > margin > 0


def check_paired(printed):
    for row in ("softly tied", "one copy"):
        upright, _, turned, _, _, _, gain, _ = printed[row]
        assert upright > 0.9
        assert turned > 0.75
        assert gain > 0.01


def check_plain_loop(printed):
    alone, tied = printed["0 "], printed["1 "]
    validation, test, equal, size = 0, 2, 4, 5
    assert tied[validation] > alone[validation] + 0.1
    assert tied[test] > alone[test] + 0.1
    assert tied[equal] > 99 > 20 > alone[equal]
    assert tied[size] < 0.55 * alone[size]


def check_fabric(printed):
    for name in ("soft", "exact"):
        full, mixed = (printed[f"{name:<6} {precision}"] for precision in ("32-true", "bf16-mixed"))
        assert full[0] > 0.8
        assert mixed == pytest.approx(full, abs=0.01)
    assert printed["soft   32-true"][2] < 0.05  # the distance
    assert printed["exact  32-true"][4] > 0.9  # what is equal


def check_three_sites(printed):
    alone, tied, one = printed.column(0, "pulled to zero", "pulled to their mean", "one model")
    assert min(tied, one) > alone + 0.03 > 0.7


def check_regression(printed):
    apart, *pulled, one = printed.column(
        0, "apart", "pulled to zero", "pulled to their mean", "one model"
    )
    assert max(*pulled, one) < 0.85 < 1.0 < apart
    assert all(less > margin > 0 for *_, less, margin in (printed["one m"], printed["pulled to z"]))


def check_autoencoder(printed):
    apart, soft, one = printed.column(0, "apart", "softly tied", "one copy")
    assert max(soft, one) < apart < 0.05
    assert printed["apart"][-1] == 2 * 64 * 16 + 64 + 16
    assert printed["one copy"][-1] == 64 * 16 + 64 + 16


def check_transformer_layers(printed):
    bits, _, numbers, size = zip(
        *(printed[f"shared: {what}"] for what in ("nothing ", "layers  ", "layers and")),
        strict=True,
    )
    assert max(bits) < 4.2  # characters one by one have 4.6
    assert numbers[0] > 2.5 * numbers[1] > 2.5 * numbers[2]
    assert size[0] > 2.5 * size[1] > 2.5 * size[2]


def check_backbones(printed):
    rows = [
        printed[f"shared: {what}  "] for what in ("nothing", "trunk", "trunk and its normalisation")
    ]
    crisp, _, faint, _, numbers = zip(*rows, strict=True)
    assert min(crisp[:2]) > 0.85
    assert faint[1] > faint[0] > faint[2]
    assert numbers[0] > 1.7 * numbers[1] > 1.7 * numbers[2]


def check_finetune(printed):
    rows = [printed[f"pulled to {what}"] for what in ("nothing", "l2 (zero)", "l2_sp (start)")]
    new, _, old, *_ = zip(*rows, strict=True)
    assert min(new) > 0.5
    assert old[2] > max(old[:2])


def check_growl(printed):
    accuracy, _, rows, size = zip(
        *(printed[name] for name in ("none", "group lasso", "growl")), strict=True
    )
    assert min(accuracy) > 0.92
    assert max(rows[1:]) < 55 < rows[0] == 64
    assert max(size[1:]) < 0.85 * size[0]


def check_experts(printed):
    rows = [printed[f"strength {strength:<6g}"] for strength in (0.0, 1e-4, 1e-3, 1e-2)]
    accuracy, _, distance = zip(*rows, strict=True)
    assert min(accuracy) > 0.85
    assert sorted(distance, reverse=True) == list(distance)


def check_hugging_face(printed):
    _, numbers, total, size = zip(
        *(printed[f"layers shared: {is_shared}"] for is_shared in ("False", "True")), strict=True
    )
    assert total[0] == total[1] > numbers[0] > 3 * numbers[1]
    assert size[0] > 2.5 * size[1]
    assert all("loads as it was: True" in line for line in printed.lines)


CHECKS = {
    name.removeprefix("check_"): check
    for name, check in globals().items()
    if name.startswith("check_")
}


@pytest.fixture
def logging_again():
    """Examples silence Lightning, as a script may."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    yield
    logging.disable(logging.NOTSET)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def skip_without(name):
    needed = NEEDS.get(name)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")


def test_every_example_is_checked():
    assert {file.stem for file in EXAMPLES.glob("*.py")} == set(CHECKS)


@pytest.mark.slow
@pytest.mark.usefixtures("own_folder", "logging_again")
@pytest.mark.parametrize("name", sorted(CHECKS))
def test_example_runs(name, capsys):
    skip_without(name)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    CHECKS[name](Printed(capsys.readouterr().out))
    assert not list(Path.cwd().iterdir())  # it leaves nothing behind


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.usefixtures("own_folder")
def test_the_command_line_chooses_what_is_tied():
    skip_without("cli")

    def fit(*more):
        command = [
            EXAMPLES / "cli" / "main.py",
            "fit",
            "--config",
            EXAMPLES / "cli" / "config.yaml",
            *more,
        ]
        return Printed(run(command, check=True).stdout)

    tied, apart = fit(), fit("--trainer.callbacks.init_args.strength", "0")
    assert tied["val/binary"][0] > apart["val/binary"][0] + 0.05 > 0.6
    assert tied["sharing/distance"][0] < 0.1 < 0.5 < apart["sharing/distance"][0]


@pytest.mark.parametrize("name", [*sorted(CHECKS), "cli/"])
def test_the_gallery_shows_every_example(name):
    gallery = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert f"]({name if name == 'cli/' else f'{name}.py'})" in gallery
