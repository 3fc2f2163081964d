"""Delegation of the pair's hooks to its children."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from lit_share.lightnings import (
    SeveralModules,
    is_a,
    is_overridden,
    is_param_in_hook_signature,
)
from lit_share.paired._data import PairedData
from lit_share.paired._hook_arguments import HOOK_ARGUMENTS
from lit_share.paired._loaders import Owner, comes_by_name, find_owners
from lit_share.paired._modes import switch_back, switch_to_eval
from lit_share.paired._own_trainer import view_trainer
from lit_share.paired._step import step_nested

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule
    from lightning.pytorch.utilities import CombinedLoader

STEPS = {
    "train": "training_step",
    "val": "validation_step",
    "test": "test_step",
    "predict": "predict_step",
}

# Hooks that cannot act on a single child, why not, and what to do instead.
_BACKWARD = (
    "there is one backward pass, of the sum of all losses",
    "change the loss in training_step",
)
REFUSED = {
    "backward": _BACKWARD,
    "on_before_backward": _BACKWARD,
    "configure_callbacks": (
        "callbacks see the pair",
        "pass them to the Trainer, with monitor='<child>/<key>'",
    ),
    "configure_sharded_model": ("it is deprecated", "use configure_model"),
}

# Hooks that are delegated in another way than by one call for each child.
SPECIAL: dict[str, Callable[..., Any]] = {
    "optimizer_step": step_nested,
    "on_validation_model_eval": switch_to_eval,
    "on_validation_model_train": switch_back,
    "on_test_model_eval": switch_to_eval,
    "on_test_model_train": switch_back,
    "on_predict_model_eval": switch_to_eval,
}

# Hooks that are delegated even if no child overrides them: Lightning's implementations would clip
# the gradients, or call `forward`, of the whole pair.
ALWAYS = ("configure_gradient_clipping", "predict_step")

# All other hooks, with the names of their arguments.
ARGUMENTS = {
    hook: names
    for hook, names in HOOK_ARGUMENTS.items()
    if hook not in REFUSED and hook not in SPECIAL
}
# Lightning declares steps with `*args` and `**kwargs`, so their signatures name no arguments.
ARGUMENTS |= {step: ["batch", "batch_idx", "dataloader_idx"] for step in STEPS.values()}

# Hooks that a LightningDataModule may have in place of a LightningModule.
_TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")

# Arguments of which each child gets its own value; all others are the same for all children.
OWN: dict[str, Callable[[Any, str], Any]] = {
    "batch": lambda batches, name: batches[name],
    "outputs": lambda outputs, name: outputs.get(name, {}),
    "optimizer": lambda optimizer, name: optimizer.parts[name],
}


class Delegated:
    """A hook that calls the children's hooks, or Lightning's if no child overrides it."""

    # Lightning checks which hooks a module overrides, so a pair must not seem to override more
    # than its children: a descriptor decides at each access.

    def __init__(self, hook: str) -> None:
        self.hook = hook

    def __get__(self, pair: Delegating | None, owner: type) -> Any:
        if pair is not None and (self.hook in ALWAYS or pair.overriding(self.hook)):
            if self.hook in SPECIAL:
                return partial(SPECIAL[self.hook], pair, self.hook)
            return partial(pair.delegate, self.hook)
        # Past this descriptor, to the hook of the Lightning that the children are from.
        return getattr(super(Delegating, pair or owner), self.hook)


class Delegating(SeveralModules):
    """A LightningModule that delegates its hooks to child LightningModules."""

    child_names: tuple[str, ...] = ()

    def by_name(self) -> dict[str, LightningModule]:
        """Return the children, by name."""
        return {name: getattr(self, name) for name in self.child_names}

    def overriding(self, hook: str) -> list[str]:
        """Return the names of the children that override `hook`, or whose datamodules do."""
        return [name for name in self.child_names if is_overridden(hook, self.hooked(hook, name))]

    def hooked(self, hook: str, name: str) -> LightningModule | LightningDataModule:
        """Return the child, or its datamodule if that overrides a hook which transfers batches."""
        # Lightning chooses in this way between a module and its datamodule.
        data = getattr(self._trainer, "datamodule", None)
        if hook in _TRANSFERS and isinstance(data, PairedData):
            own = data.by_name().get(name)
            if own is not None and is_overridden(hook, own):
                return own
        return self.by_name()[name]

    @property
    def trainer(self) -> Any:
        """The Trainer of the pair; each child has a view of it, with the child as its `model`."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: Any) -> None:
        self._trainer = trainer
        for name, child in self.by_name().items():
            view: Any = trainer and view_trainer(self, trainer, name)
            child.trainer = view

    def delegate(self, hook: str, *args: Any, **kwargs: Any) -> Any:
        """Call a hook of each child, with its own batch, outputs and optimizer.

        Returns:
            The children's results by name, with None for a child without a batch; or the result of
            a single child, if loaders run one after the other.

        Raises:
            ValueError: If loaders do not fit the children, or a child skips the rest of the epoch.
        """
        given = dict(zip(ARGUMENTS[hook], args, strict=False))
        owner = None
        if "batch" in given:
            owner = self._name_batch(given)
        results = dict.fromkeys(given.get("batch", ()))
        for name, child in self.by_name().items():
            if "batch" in given and given["batch"].get(name) is None:
                continue
            if hook.endswith("_dataloader") and not is_overridden(hook, child):
                continue
            own = {**given, **{key: OWN[key](given[key], name) for key in OWN.keys() & given}}
            method = getattr(self.hooked(hook, name), hook)
            if not is_param_in_hook_signature(method, "batch_idx", min_args=2):
                own.pop("batch_idx", None)
            with self.as_if_alone(name):
                results[name] = method(*own.values(), **kwargs)
            if hook == "on_train_batch_start" and results[name] == -1:
                raise ValueError(
                    f"child {name!r} skips the rest of the epoch, for the other children, too "
                    "(on_train_batch_start returned -1): return None from its training_step"
                )
        if owner is not None:
            return results[owner]
        return results

    @contextmanager
    def as_if_alone(self, child_name: str) -> Iterator[None]:
        """Tell a child in this context in which hook it is, as its `log` has to know.

        If the pair's `log` is replaced, so is the child's.
        """
        child: Any = self.by_name()[child_name]
        log: Any = vars(self).get("log")
        before = child._current_fx_name
        child._current_fx_name = self._current_fx_name
        # Calls may be nested; only the outermost removes what it added.
        is_replaced = log is not None and "log" not in vars(child)
        if is_replaced:
            vars(child)["log"] = partial(_log_as, child_name, log)
        try:
            yield
        finally:
            child._current_fx_name = before
            if is_replaced:
                del vars(child)["log"]

    def loader(self) -> CombinedLoader:
        """Return the loader of the loop that runs."""
        loader: CombinedLoader = self.trainer._active_loop._combined_loader
        return loader

    def owner_of_loader(self, dataloader_idx: int) -> Owner:
        """Return the child that has a loader, among those that run one after the other.

        Raises:
            ValueError: If the loaders are not named after the children.
        """
        loaders = self.loader().iterables
        self._check_names(loaders)
        return find_owners(loaders)[dataloader_idx]

    def _name_batch(self, given: dict[str, Any]) -> str | None:
        """Put batch and outputs in `given` into a dict under their child's name; return the name.

        Adapt the loader's index, too. If batches already come by name, check names; return `None`.
        """
        if comes_by_name(self.loader()):
            self._check_names(given["batch"])
            return None
        owner = self.owner_of_loader(given.get("dataloader_idx", 0))
        given.update(
            {key: {owner.name: given[key]} for key in ("batch", "outputs") if key in given}
        )
        # Lightning passes the index to steps only if there are several loaders, but always to the
        # hooks that transfer batches.
        if "batch_idx" in given and not owner.has_several:
            given.pop("dataloader_idx", None)
        elif "dataloader_idx" in given:
            given["dataloader_idx"] = owner.index
        return owner.name

    def _check_names(self, by_name: Any) -> None:
        """Raise `ValueError` unless the keys of ``by_name`` are the children with the stage's step.

        All children have a predict step. Raise also if one of the loaders is a CombinedLoader.
        """
        stage = self.trainer.state.stage
        assert stage is not None
        step = STEPS[str(stage.dataloader_prefix)]
        names = self.overriding(step)
        if step in ALWAYS:
            names = list(self.child_names)
        if any(is_a(loader, "CombinedLoader") for loader in self.loader().flattened):
            found = "one of them is a CombinedLoader: use CombinedLoader({...}, mode=...) for all"
        elif not isinstance(by_name, Mapping):
            found = f"a batch is a {type(by_name).__name__}"
        elif set(by_name) != set(names):
            found = f"the names are {list(by_name)}"
        else:
            return
        wanted = ", ".join(f"{name!r}: ..." for name in names)
        raise ValueError(
            f"{step} needs loaders named after the children that have it, {{{wanted}}}, but {found}"
        )


def _log_as(
    child_name: str, log: Callable[..., None], name: str, *args: Any, **kwargs: Any
) -> None:
    log(f"{child_name}/{name}", *args, **kwargs)


for _hook in (*ARGUMENTS, *SPECIAL):
    setattr(Delegating, _hook, Delegated(_hook))
