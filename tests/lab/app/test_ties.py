"""The keys of the group `ties` reach the ties, the regularizers and the monitor."""

from __future__ import annotations

import pytest

from lit_share.callbacks import Regularize, SharingMonitor
from lit_share.lab.app._ties import ties_of
from lit_share.lab.app.build import build
from lit_share.lab.app.config import ConfigError, prepare
from lit_share.ties import Ties

from .conftest import Compose


@pytest.mark.parametrize("recipe", ["soft_tie", "hard_tie", "l2_sp"])
def test_kinds_of_parameters(compose_config: Compose, recipe: str) -> None:
    kinds = ("ties.types=[torch.nn.Linear]", "ties.min_ndim=2", "ties.exclude=[*.head.*]")
    config = prepare(compose_config(f"regularizer={recipe}", "logger=none", *kinds))
    wanted = "Ties('a.net.*', 'b.net.*', exclude=['*.head.*'], types=[Linear], min_ndim=2)"
    job = build(config)
    callbacks = job.trainer.callbacks  # type: ignore[attr-defined]
    (monitor,) = [each for each in callbacks if isinstance(each, SharingMonitor)]
    regularizers: list[Regularize] = list(job.regularizers.values())  # type: ignore[arg-type]
    for ties in (job.ties, monitor.ties, *(each.ties for each in regularizers)):
        assert repr(ties) == wanted


def test_keys_may_be_left_out(compose_config: Compose) -> None:
    config = prepare(compose_config("~ties.exclude", "~ties.types", "~ties.min_ndim"))
    assert repr(ties_of(config)) == repr(Ties("a.net.*", "b.net.*"))


def test_a_misspelt_key_is_named(compose_config: Compose) -> None:
    with pytest.raises(ConfigError, match=r"^ties\.type: unknown key: did you mean 'types'\?$"):
        prepare(compose_config("+ties.type=[torch.nn.Linear]"))
