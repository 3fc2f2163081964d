"""Models for the data modules for several models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from lightning import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from lit_share.paired import Paired

if TYPE_CHECKING:
    from lit_share.lab.data import ManyTables, ManyViews


def paired_classifiers(
    data: ManyViews,
    net: Callable[..., nn.Module],
    classifier: Callable[..., LightningModule],
    same_init: bool = True,
    pretraining: int = 0,
) -> Paired:
    """Build a classifier for each name in a data module, all of one architecture.

    Args:
        data: Has the members' names, input shape and numbers of classes.
        net: Builds a network from ``input_shape`` and ``num_classes``.
        classifier: Builds a LightningModule from ``net`` and ``num_classes``.
        same_init: Whether parameters of the same name and shape start from the same values.
        pretraining: Epochs for which the first member is trained alone, on its own training data,
            before the others start from its weights (transfer learning). At least 0; a positive
            number requires ``same_init``.

    Returns:
        The classifiers as children of one LightningModule.

    Raises:
        ValueError: If ``pretraining`` is negative, or positive without ``same_init``.

    Example:
        >>> from functools import partial
        >>> from lit_share.lab.data import ManyDomains
        >>> from lit_share.lab.models import MLP, Classifier
        >>> data = ManyDomains({name: {"domain": "same", "n": 20} for name in ("east", "west")})
        >>> pair = paired_classifiers(data, partial(MLP, hidden=(5,)), Classifier)
        >>> pair.child_names
        ('east', 'west')
        >>> bool((pair.east.net.head.weight == pair.west.net.head.weight).all())
        True
    """
    members = {
        name: partial(classifier, num_classes=num_classes)
        for name, num_classes in data.num_classes.items()
    }
    return _paired(data, data.num_classes, net, members, same_init, pretraining)


def paired_learners(
    data: ManyTables,
    net: Callable[..., nn.Module],
    learner: Callable[..., LightningModule],
    same_init: bool = True,
    pretraining: int = 0,
) -> Paired:
    """Build a model for each name in a data module, with as many outputs as it has targets.

    Args:
        data: Has the members' names, input shape and numbers of ``outputs``. Your own data module
            needs the attributes ``input_shape`` and ``outputs``, a dict by name.
        net: Builds a network from ``input_shape`` and ``num_classes``, the number of outputs.
        learner: Builds a LightningModule from ``net``, such as a `Learner`.
        same_init: See `paired_classifiers`.
        pretraining: See `paired_classifiers`.

    Returns:
        The models as children of one LightningModule.

    Raises:
        ValueError: If ``pretraining`` is negative, or positive without ``same_init``.

    Example:
        >>> from functools import partial
        >>> from lit_share.lab.data import Diabetes
        >>> from lit_share.lab.models import MLP, Learner
        >>> trio = paired_learners(Diabetes(), partial(MLP, hidden=(5,)), Learner)
        >>> trio.child_names, trio.old.net.head.weight.shape
        (('young', 'middle', 'old'), torch.Size([1, 5]))
    """
    members = dict.fromkeys(data.outputs, learner)
    return _paired(data, data.outputs, net, members, same_init, pretraining)


def _paired(
    data: ManyTables | ManyViews,
    outputs: Mapping[str, int],
    net: Callable[..., nn.Module],
    members: Mapping[str, Callable[..., LightningModule]],
    same_init: bool,
    pretraining: int,
) -> Paired:
    if pretraining < 0:
        raise ValueError(f"pretraining={pretraining} must be at least 0 epochs")
    if pretraining and not same_init:
        raise ValueError(
            f"pretraining={pretraining} is of no use to members that start from other values: "
            "write same_init=true"
        )
    models: dict[str, LightningModule] = {}
    for name, make in members.items():
        built = net(input_shape=data.input_shape, num_classes=outputs[name])
        models[name] = make(net=built)
    # `Paired` copies the weights of the first member, so that it has to be trained before.
    if pretraining:
        name, first = next(iter(models.items()))
        _train_alone(first, data.train_dataloader()[name], data.val_dataloader()[name], pretraining)
    return Paired(same_init=same_init, **models)


def _train_alone(
    member: LightningModule, training: DataLoader, validation: DataLoader, epochs: int
) -> None:
    trainer = Trainer(
        max_epochs=epochs,
        devices=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # Without a validation loader, Lightning would warn about the `validation_step`.
    trainer.fit(member, training, validation)
    # The reference would keep the loaders and the optimizer state of the pretraining alive.
    member.trainer = None
