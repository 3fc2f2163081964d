"""One classifier that fits its data."""

from functools import partial

import pytest
import torch

from lit_share.lab.data import PlacedImages
from lit_share.lab.models import CNN, Classifier, single_classifier
from lit_share.local import LocallyConnected2d


@pytest.mark.parametrize("local", [True, False])
def test_it_takes_what_the_data_gives(local):
    data = PlacedImages(canvas=11, n_train=10, n_val=1, n_test=1)
    classifier = single_classifier(
        data, partial(CNN, channels=(2, 3), local=local), partial(Classifier, lr=0.25)
    )
    images, labels = next(iter(data.train_dataloader()))
    assert classifier(images).shape == (10, 10)
    assert torch.isfinite(torch.nn.functional.cross_entropy(classifier(images), labels))
    assert (classifier.lr, classifier.hparams["num_classes"]) == (0.25, 10)
    assert isinstance(classifier.net.trunk.conv0, LocallyConnected2d) == local
