"""Delegation of the pair's hooks to its children."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from lit_share.lightnings import (
    SeveralModules,
    combined_loader,
    is_a,
    is_overridden,
    is_param_in_hook_signature,
)
from lit_share.paired._hook_arguments import HOOK_ARGUMENTS

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule
    from lightning.pytorch.utilities import CombinedLoader

STEPS = {
    "train": "training_step",
    "val": "validation_step",
    "test": "test_step",
    "predict": "predict_step",
}

# Hooks that cannot act on a single child, and what to write instead.
_BACKWARD = "there is one backward pass, of the sum of all losses"
_MODES = "it switches the whole pair"
_RESTORED = f"{_MODES}: leave it out, modes are put back as they were"
REFUSED = {
    "backward": f"{_BACKWARD}: change the loss in training_step",
    "on_before_backward": f"{_BACKWARD}: use training_step",
    "optimizer_step": "children step at once: use on_before_optimizer_step or a step scheduler",
    "configure_callbacks": "they see the pair: pass them to the Trainer, monitor='<child>/<key>'",
    "configure_sharded_model": "it is deprecated: use configure_model",
    "log": "the pair replaces it to prefix names: put what it adds into a method of another name",
    "log_dict": "the pair prefixes names: put what it adds into a method of another name",
    "on_validation_model_eval": f"{_MODES}: use on_validation_start",
    "on_validation_model_train": _RESTORED,
    "on_test_model_eval": f"{_MODES}: use on_test_start",
    "on_test_model_train": _RESTORED,
    "on_predict_model_eval": f"{_MODES}: use on_predict_start",
}

# Hooks that are delegated even if no child overrides them: Lightning's implementations would clip
# the gradients, or call `forward`, of the whole pair.
ALWAYS = ("configure_gradient_clipping", "predict_step")

# All other hooks, with the names of their arguments.
ARGUMENTS = {hook: names for hook, names in HOOK_ARGUMENTS.items() if hook not in REFUSED}
# Lightning declares steps with `*args` and `**kwargs`, so their signatures name no arguments.
ARGUMENTS |= {step: ["batch", "batch_idx", "dataloader_idx"] for step in STEPS.values()}

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
            return partial(pair.delegate, self.hook)
        return getattr(super(Delegating, pair or owner), self.hook)


class Delegating(SeveralModules):
    """A LightningModule that delegates its hooks to child LightningModules."""

    child_names: tuple[str, ...] = ()

    def by_name(self) -> dict[str, LightningModule]:
        """Return the children, by name."""
        return {name: getattr(self, name) for name in self.child_names}

    def overriding(self, hook: str) -> list[str]:
        """Return the names of the children that override `hook`."""
        return [name for name, child in self.by_name().items() if is_overridden(hook, child)]

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
            method = getattr(child, hook)
            if not is_param_in_hook_signature(method, "batch_idx", min_args=2):
                own.pop("batch_idx", None)
            with self.as_if_alone(name, own.get("batch")):
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
    def as_if_alone(self, child_name: str, batch: Any = None) -> Iterator[None]:
        """Give a child its own `log`, `optimizers`, `lr_schedulers` and batch in this context."""
        child = vars(getattr(self, child_name))
        results = getattr(self._trainer, "_results", None)

        # These are functions, as `copy.deepcopy(child)` would copy the pair with bound methods.
        def log(name: str, value: Any, *args: Any, **kwargs: Any) -> None:
            if (
                results is not None
                and results.dataloader_idx is not None
                and kwargs.get("add_dataloader_idx", True)
            ):
                _, index, several = self._owner(results.dataloader_idx)
                if several:
                    name += f"/dataloader_idx_{index}"
            # Lightning would add the loader's index among those of all children.
            kwargs["add_dataloader_idx"] = False
            self.log(f"{child_name}/{name}", value, *args, **kwargs)

        def optimizers(use_pl_optimizer: bool = True) -> Any:  # noqa: ARG001
            return self.trainer.optimizers[0].parts[child_name]  # type: ignore[attr-defined]

        def lr_schedulers() -> Any:
            schedulers = [config.scheduler for config in self.trainer.lr_scheduler_configs]
            own = [each for each in schedulers if each.optimizer is optimizers()]
            # As in Lightning, a single scheduler is not in a list.
            if len(own) > 1:
                return own
            return next(iter(own), None)

        overrides = {"log": log, "optimizers": optimizers, "lr_schedulers": lr_schedulers}
        # Calls may be nested; only the outermost removes what it added.
        overrides = {name: value for name, value in overrides.items() if name not in child}
        child.update(overrides)
        if results is not None:
            # Lightning weights logged values by the size of this batch, which it computes only when
            # `batch_size` is None.
            full_batch = results.batch
            if batch is None and isinstance(full_batch, Mapping):
                batch = full_batch.get(child_name)
            results.batch, results.batch_size = batch, None
        try:
            yield
        finally:
            for name in overrides:
                del child[name]
            if results is not None:
                results.batch, results.batch_size = full_batch, None

    def _name_batch(self, given: dict[str, Any]) -> str | None:
        """Put batch and outputs in `given` into a dict under their child's name; return the name.

        Adapt the loader's index, too. If batches already come by name, check names; return `None`.
        """
        # Except in training, Lightning runs loaders one after the other, and passes the batch with
        # the loader's index, but without its key in the dict of loaders.
        loader = self._loader()
        if loader._mode != "sequential" or not isinstance(loader.iterables, Mapping):
            self._check_names(given["batch"])
            return None
        name, index, several = self._owner(given.get("dataloader_idx", 0))
        given.update({key: {name: given[key]} for key in ("batch", "outputs") if key in given})
        # Lightning passes the index to steps only if there are several loaders, but always to the
        # hooks that transfer batches.
        if "batch_idx" in given and not several:
            given.pop("dataloader_idx", None)
        elif "dataloader_idx" in given:
            given["dataloader_idx"] = index
        return name

    def _owner(self, dataloader_idx: int) -> tuple[str, int, bool]:
        """Return a loader's child, its index in the child, and whether the child has several.

        Raise `ValueError` if the loaders are not named after the children.
        """
        loaders = self._loader().iterables
        self._check_names(loaders)
        owners: list[tuple[str, int, bool]] = []
        for name, own in loaders.items():
            # A child's loaders may be nested in lists and dicts.
            n = len(combined_loader(own, "sequential").flattened)
            owners += [(name, index, n > 1) for index in range(n)]
        return owners[dataloader_idx]

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
        if any(is_a(loader, "CombinedLoader") for loader in self._loader().flattened):
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

    def _loader(self) -> CombinedLoader:
        loop = self.trainer._active_loop
        assert loop is not None
        assert loop._combined_loader is not None
        return loop._combined_loader


for _hook in ARGUMENTS:
    setattr(Delegating, _hook, Delegated(_hook))
