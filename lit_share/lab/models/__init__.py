"""Small nets, LightningModules that train them, and pairs of these, for experiments."""

from lit_share.lab.models._autoencoder import Autoencoder, autoencoder
from lit_share.lab.models._classifier import Classifier
from lit_share.lab.models._cnn import CNN
from lit_share.lab.models._learner import Learner
from lit_share.lab.models._mlp import MLP
from lit_share.lab.models._pair import paired_classifiers, paired_learners
from lit_share.lab.models._single import single_classifier
from lit_share.lab.models._transformer import TransformerClassifier

__all__ = [
    "CNN",
    "MLP",
    "Autoencoder",
    "Classifier",
    "Learner",
    "TransformerClassifier",
    "autoencoder",
    "paired_classifiers",
    "paired_learners",
    "single_classifier",
]
