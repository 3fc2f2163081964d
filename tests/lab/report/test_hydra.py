import json
import logging
import subprocess
import sys
import textwrap

import pytest
from omegaconf import OmegaConf

from lit_share.lab.report import CompareRuns


def config(directory):
    return OmegaConf.create({"hydra": {"sweep": {"dir": str(directory)}}})


def test_prints_and_writes(tmp_path, write, capsys):
    write(tmp_path / "0", "none", test=0.25)
    write(tmp_path / "1", "soft_tie", strength=0.1, test=0.75)
    CompareRuns().on_multirun_end(config(tmp_path))
    out = capsys.readouterr().out
    assert "soft_tie" in out
    assert "b/test/acc" in out
    assert f"written: {tmp_path / 'report.html'}" in out
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 3
    assert len(json.loads((tmp_path / "results.json").read_text())["rows"]) == 2
    assert "soft_tie" in (tmp_path / "report.html").read_text()


def test_the_metric_can_be_chosen(tmp_path, write, capsys):
    write(tmp_path / "0")
    CompareRuns(metric="a/test/acc").on_multirun_end(config(tmp_path))
    assert "a/test/acc" in capsys.readouterr().out


def test_rows_of_an_earlier_command_are_said(tmp_path, write, capsys):
    for i in range(2):
        write(tmp_path / str(i), seed=i)
    (tmp_path / "cells.json").write_text('{"0": {"earlier": true}, "1": {"earlier": false}}')
    CompareRuns().on_multirun_end(config(tmp_path))
    assert f"1 in the table are of an earlier command: {tmp_path / '0'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda directory, write: None, "no result.json below"),
        (lambda directory, write: write(directory, test=[]), "is not the result of a run"),
        (lambda directory, write: directory.rmdir(), "no directory"),
    ],
)
def test_it_never_raises(tmp_path, write, caplog, prepare, message):
    prepare(tmp_path, write)
    with caplog.at_level(logging.WARNING):
        CompareRuns().on_multirun_end(config(tmp_path))
    assert message in caplog.text


APP = """
import json, sys
import hydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(version_base="1.3", config_path=None, config_name="app")
def main(config):
    out = HydraConfig.get().runtime.output_dir
    result = dict(schema=1, status="finished", strategy=config.strategy, seed=config.seed,
                  objective="val", mode="max", validation=dict(val=1.0),
                  test=dict(test=config.seed))
    json.dump(result, open(out + "/result.json", "w"))

from hydra.core.config_store import ConfigStore
ConfigStore.instance().store("app", {"strategy": "none", "seed": 0, "hydra": {"callbacks": {
    "compare": {"_target_": "lit_share.lab.report.CompareRuns"}},
    "job": {"chdir": False}, "sweep": {"dir": "sweep"}}})
main()
assert not {"torch", "lightning"} & {*sys.modules}
"""


def test_a_real_multirun(tmp_path):
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    command = [sys.executable, "app.py", "-m", "seed=1,2,4"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2.3 ± 3.8" in done.stdout
    assert "without a result.json" not in done.stdout
    assert (tmp_path / "sweep" / "results.csv").read_text().count("\n") == 2
    assert (tmp_path / "sweep" / "report.html").exists()
