"""Classifiers that fit data for several models."""

from functools import partial

import pytest
import torch

from lit_share.lab.data import ManyDomains, PairedDomains, RelatedOutputs
from lit_share.lab.models import MLP, Classifier, paired_classifiers

from ._trainer import trainer

# Lightning 2.6 flattens loaders in a way that newer PyTorch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
NET = partial(MLP, hidden=(16,))
CLASSIFIER = partial(Classifier, lr=0.02)


@pytest.fixture
def data():
    return PairedDomains(domain="same", n_a=200, n_b=20)


def weights(classifier):
    return torch.nn.utils.parameters_to_vector(classifier.net.parameters())


def accuracy(classifier, loader):
    x, y = loader.dataset.tensors
    with torch.no_grad():
        return float((classifier(x).argmax(1) == y).float().mean())


def test_as_many_members_as_the_data_is_for():
    domains = {"a": "same", "b": "rotated", "c": "noisy"}
    data = ManyDomains({name: {"domain": domain, "n": 20} for name, domain in domains.items()})
    model = paired_classifiers(data, NET, CLASSIFIER)
    assert model.child_names == ("a", "b", "c")
    run = trainer(max_epochs=1)
    run.fit(model, datamodule=data)
    assert {"a/val/acc", "b/val/acc", "c/val/acc"} <= set(run.callback_metrics)


def test_members_start_alike_where_they_are_of_one_shape():
    torch.manual_seed(0)
    model = paired_classifiers(RelatedOutputs(n_a=20, n_b=20), NET, CLASSIFIER)
    assert torch.equal(model.a.net.trunk.linear0.weight, model.b.net.trunk.linear0.weight)
    assert (len(model.a.net.head.weight), len(model.b.net.head.weight)) == (10, 2)


def test_members_can_start_apart(data):
    model = paired_classifiers(data, NET, CLASSIFIER, same_init=False)
    assert not torch.equal(weights(model.a), weights(model.b))


def test_pretraining_teaches_the_first_and_the_other_starts_from_it(data):
    torch.manual_seed(0)
    model = paired_classifiers(data, NET, CLASSIFIER, pretraining=5)
    assert torch.equal(weights(model.a), weights(model.b))
    assert accuracy(model.b, data.test_dataloader()["b"]) > 0.6  # 0.1 is chance


def test_pretraining_is_as_training_the_first_alone(data):
    torch.manual_seed(0)
    model = paired_classifiers(data, NET, CLASSIFIER, pretraining=2)
    torch.manual_seed(0)
    alone = CLASSIFIER(net=NET(input_shape=(1, 8, 8), num_classes=10), num_classes=10)
    run = trainer(max_epochs=2)
    again = PairedDomains(domain="same", n_a=200, n_b=20)
    run.fit(alone, again.train_dataloader()["a"], again.val_dataloader()["a"])
    torch.testing.assert_close(weights(model.b), weights(alone), rtol=0, atol=0)


def test_members_train_on_after_pretraining(data):
    model = paired_classifiers(data, NET, CLASSIFIER, pretraining=1)
    before = weights(model.a), weights(model.b)
    run = trainer(max_epochs=1)
    run.fit(model, datamodule=data)
    assert run.global_step == 4  # of 50 images each
    assert not torch.equal(weights(model.a), before[0])
    assert not torch.equal(weights(model.b), before[1])


def test_pretraining_for_members_that_start_elsewhere_is_refused(data):
    with pytest.raises(ValueError, match="is of no use to members that start from other values"):
        paired_classifiers(data, NET, CLASSIFIER, same_init=False, pretraining=3)


def test_negative_pretraining_is_refused(data):
    with pytest.raises(ValueError, match="pretraining=-1 must be at least 0"):
        paired_classifiers(data, NET, CLASSIFIER, pretraining=-1)
