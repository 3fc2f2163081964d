"""The means that a callback logs, against those of the members' metrics."""

from __future__ import annotations

from collections import ChainMap
from statistics import fmean

import pytest
from lightning.pytorch import LightningModule, Trainer

from lit_share.lab.app._objective import ObjectiveIsKnown
from lit_share.lab.data import ManyDomains
from lit_share.lab.means import LogMeans
from lit_share.lab.models import MLP, Classifier, paired_classifiers

# Lightning 2.6 flattens loaders in a way that newer PyTorch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


class Lonely(Classifier):
    """A classifier that logs what the others do not, under names of both stages."""

    def validation_step(self, batch):
        super().validation_step(batch)
        self.log("val/own", 1.0)


@pytest.fixture
def data() -> ManyDomains:
    sizes = {"a": 40, "b": 20, "c": 10}
    members = {name: {"domain": "same", "n": n} for name, n in sizes.items()}
    return ManyDomains(members, n_val=40, n_test=30)


def trainer(**options: object) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(
        max_epochs=2,
        accelerator="cpu",
        enable_checkpointing=False,
        **{"callbacks": [LogMeans()]} | quiet | options,
    )


def net(input_shape: tuple[int, ...], num_classes: int) -> MLP:
    return MLP(input_shape, num_classes, hidden=())


def test_means_of_the_metrics_that_all_members_log(data: ManyDomains) -> None:
    classes = iter([Classifier, Lonely, Classifier])

    def classifier(**options: object) -> LightningModule:
        return next(classes)(**options)

    module = paired_classifiers(data, net, classifier)
    fit = trainer()
    fit.fit(module, datamodule=data)
    validated = dict(fit.callback_metrics)
    # One dict for each loader.
    tested = dict(ChainMap(*fit.test(module, datamodule=data, verbose=False)))
    for stage, metrics in (("val", validated), ("test", tested)):
        means = {name for name in metrics if name.startswith("mean/")}
        assert means == {f"mean/{stage}/loss", f"mean/{stage}/acc"}
        for metric in ("loss", "acc"):
            own = [float(metrics[f"{name}/{stage}/{metric}"]) for name in "abc"]
            # Accuracies of few images may be equal.
            assert len(set(own)) > 1 or metric == "acc"
            assert float(metrics[f"mean/{stage}/{metric}"]) == pytest.approx(fmean(own), rel=1e-6)


def test_the_sanity_check_finds_a_misspelt_mean(data: ManyDomains) -> None:
    module = paired_classifiers(data, net, Classifier)
    callbacks = [LogMeans(), ObjectiveIsKnown("mean/val/acc", "max")]
    trainer(callbacks=callbacks, limit_train_batches=0).fit(module, datamodule=data)
    callbacks[1] = ObjectiveIsKnown("mean/val/score", "max")
    with pytest.raises(ValueError, match=r"mean/val/score is not among.*mean/val/acc"):
        trainer(callbacks=callbacks).fit(module, datamodule=data)


def test_a_single_model_has_no_means(data: ManyDomains) -> None:
    single = Classifier(net((1, 8, 8), 10), num_classes=10)
    with pytest.raises(TypeError, match="Classifier is a single model: leave the callback out"):
        trainer().fit(single, datamodule=data)
