"""Faults of the data that only evaluation would meet are found before training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lit_share.lab.app import _stages
from lit_share.lab.app._stages import check_stages
from lit_share.lab.app.build import build
from lit_share.lab.app.config import prepare
from lit_share.lab.app.run import run

from .conftest import Compose
from .test_lightnings import FAST, of_sites


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stages, "_checked", set())


@pytest.mark.parametrize("dry_run", ["true", "false"])
@pytest.mark.parametrize("stage", ["validate", "test"])
def test_a_stage_that_the_data_refuse(
    compose_config: Compose, tmp_path: Path, stage: str, dry_run: str
) -> None:
    config = compose_config(*FAST, "logger=none", f"dry_run={dry_run}")
    with pytest.raises(ValueError, match=rf"^data: setup\('{stage}'\) of PairedData fails"):
        run(of_sites(config, {}, {"refused": stage}), tmp_path, [])
    assert not (tmp_path / "checkpoints").exists()


def test_only_a_copy_is_set_up_and_no_random_number_is_drawn(compose_config: Compose) -> None:
    prepared = prepare(of_sites(compose_config(*FAST, "logger=none"), {}, {}))
    job = build(prepared)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    check_stages(job, prepared)
    assert job.data.by_name()["old"].stages == []
    assert torch.equal(torch.get_rng_state(), state)
    # Another cell of the sweep does not repeat it.
    again = build(prepared)
    again.data.setup = lambda _: pytest.fail("set up again")
    check_stages(again, prepared)


def test_faults_of_training_are_left_to_training(compose_config: Compose) -> None:
    config = of_sites(compose_config(*FAST, "logger=none"), {}, {"refused": "fit"})
    prepared = prepare(config)
    check_stages(build(prepared), prepared)
    prepared.dry_run = True
    with pytest.raises(ValueError, match=r"^Invalid stage fit"):
        check_stages(build(prepared), prepared)


def test_data_without_a_copy_are_not_set_up(
    compose_config: Compose, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = prepare(of_sites(compose_config(*FAST, "logger=none"), {}, {"refused": "test"}))
    job = build(prepared)
    job.data.file = (line for line in ())
    with caplog.at_level("INFO"):
        check_stages(job, prepared)
    assert "it has no copy" in caplog.text
