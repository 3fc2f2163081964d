"""How a hook of the pair becomes the same hook of every child."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from lightning import LightningModule
from lightning.pytorch.core.hooks import DataHooks, ModelHooks
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

STEPS = {
    "train": "training_step",
    "val": "validation_step",
    "test": "test_step",
    "predict": "predict_step",
}

# Hooks that have no meaning for one child of several, and what to write instead.
REFUSED = {
    "backward": "there is one backward pass, of the sum of all losses: change the loss in training_step",
    "on_before_backward": "there is one backward pass, of the sum of all losses: use training_step",
    "optimizer_step": "all children step at once: use on_before_optimizer_step or a scheduler with interval 'step'",
    "configure_callbacks": "callbacks act on the whole pair: pass them to the Trainer, with monitor='<child>/<key>'",
    "configure_sharded_model": "it is deprecated: use configure_model",
    "log": "the pair replaces it to prefix the names: put what it adds into a method of another name",
    "log_dict": "the pair prefixes the names: put what it adds into a method of another name",
    "on_validation_model_eval": "it switches the whole pair: use on_validation_start",
    "on_validation_model_train": "it switches the whole pair: leave it out, modes are put back as they were",
    "on_test_model_eval": "it switches the whole pair: use on_test_start",
    "on_test_model_train": "it switches the whole pair: leave it out, modes are put back as they were",
    "on_predict_model_eval": "it switches the whole pair: use on_predict_start",
}

# Delegated whether or not a child overrides them, because Lightning's own treat the pair as one model.
ALWAYS = ("configure_gradient_clipping", "predict_step")

# All other hooks, with the names of their arguments.
ARGUMENTS = {
    hook: [*inspect.signature(getattr(LightningModule, hook)).parameters][1:]
    for hook in (
        *vars(ModelHooks),
        *vars(DataHooks),
        "configure_gradient_clipping",
        "optimizer_zero_grad",
    )
    if not hook.startswith("_") and hook not in REFUSED
} | {step: ["batch", "batch_idx", "dataloader_idx"] for step in STEPS.values()}

# Of these arguments a child gets its own share; the others are passed on as they are.
OWN: dict[str, Callable[[Any, str], Any]] = {
    "batch": lambda batches, name: batches[name],
    "outputs": lambda outputs, name: outputs.get(name, {}),
    "optimizer": lambda optimizer, name: optimizer.parts[name],
}


class Delegated:
    """A hook that calls the children's, or is Lightning's own where no child overrides it.

    Lightning asks which hooks a module overrides and acts on it, so a pair must not seem to override more than its
    children do.
    """

    def __init__(self, hook: str) -> None:
        self.hook = hook

    def __get__(self, pair: Delegating | None, owner: type) -> Any:
        if pair is not None and (self.hook in ALWAYS or pair.overriding(self.hook)):
            return partial(pair.delegate, self.hook)
        return getattr(LightningModule, self.hook).__get__(pair, owner)


class Delegating(LightningModule):
    """A LightningModule that has the hooks of the LightningModules inside it."""

    child_names: tuple[str, ...] = ()

    def by_name(self) -> dict[str, LightningModule]:
        """The children, by name."""
        return {name: getattr(self, name) for name in self.child_names}

    def overriding(self, hook: str) -> list[str]:
        """Names of the children that override `hook`."""
        return [name for name, child in self.by_name().items() if is_overridden(hook, child)]

    def delegate(self, hook: str, *args: Any, **kwargs: Any) -> Any:
        """Call a hook of every child that has a part in it, with its own share of the arguments.

        Args:
            hook: Name of the hook.
            *args: The arguments that the pair got.
            **kwargs: Arguments that are passed on as they are.

        Returns:
            What the children returned, by name, with None for a child without a batch; or what one child returned,
            where the loaders run one after the other.

        Raises:
            ValueError: If the loaders do not fit the children, or a child asks to skip the rest of the epoch.
        """
        given = dict(zip(ARGUMENTS[hook], args, strict=False))
        owner = self._name_batch(given) if "batch" in given else None
        results = dict.fromkeys(given.get("batch", ()))
        for name, child in self.by_name().items():
            if "batch" in given and given["batch"].get(name) is None:
                continue
            if hook.endswith("_dataloader") and not is_overridden(hook, child):
                continue
            own = {
                key: OWN[key](value, name) if key in OWN else value for key, value in given.items()
            }
            method = getattr(child, hook)
            if not is_param_in_hook_signature(method, "batch_idx", min_args=2):
                own.pop("batch_idx", None)
            with self.as_if_alone(name, own.get("batch")):
                results[name] = method(*own.values(), **kwargs)
            if hook == "on_train_batch_start" and results[name] == -1:
                raise ValueError(
                    f"child {name!r} skips the rest of the epoch (on_train_batch_start returned -1), which the other"
                    " children would skip too: return None from its training_step instead"
                )
        return results if owner is None else results[owner]

    @contextmanager
    def as_if_alone(self, child_name: str, batch: Any = None) -> Iterator[None]:
        """Let a child log, and find its batch size, optimizer and schedulers, as if it were alone in the Trainer.

        Args:
            child_name: Name of the child.
            batch: The child's batch. Default: its part of the batch that Lightning is at.
        """
        child = vars(getattr(self, child_name))
        results = None if self._trainer is None else self._trainer._results

        # Functions, not bound methods: a child that deep-copies itself must not copy the pair with it.
        def log(name: str, value: Any, *args: Any, **kwargs: Any) -> None:
            if (
                results is not None
                and results.dataloader_idx is not None
                and kwargs.get("add_dataloader_idx", True)
            ):
                _, index, several = self._owner(results.dataloader_idx)
                name += f"/dataloader_idx_{index}" if several else ""
            self.log(
                f"{child_name}/{name}", value, *args, **{**kwargs, "add_dataloader_idx": False}
            )

        def optimizers(use_pl_optimizer: bool = True) -> Any:  # noqa: ARG001
            return self.trainer.optimizers[0].parts[child_name]  # type: ignore[attr-defined]

        def lr_schedulers() -> Any:
            configs = self.trainer.lr_scheduler_configs
            schedulers = [
                each.scheduler for each in configs if each.scheduler.optimizer is optimizers()
            ]
            return schedulers if len(schedulers) > 1 else next(iter(schedulers), None)

        shadows = {"log": log, "optimizers": optimizers, "lr_schedulers": lr_schedulers}
        shadows = {name: shadow for name, shadow in shadows.items() if name not in child}
        child.update(shadows)
        if results is not None:
            # Lightning weighs what is logged by the size of this batch, which it finds only when it needs it.
            whole = results.batch
            part = whole.get(child_name) if isinstance(whole, Mapping) else None
            results.batch, results.batch_size = part if batch is None else batch, None
        try:
            yield
        finally:
            for name in shadows:
                del child[name]
            if results is not None:
                results.batch, results.batch_size = whole, None

    def _name_batch(self, given: dict[str, Any]) -> str | None:
        """Turn the batch of one loader into a dict with one name, which is returned; check a dict of batches.

        Lightning runs a dict of loaders one after the other wherever it does not train, and tells only their index.
        """
        loader = self._loader()
        if loader._mode != "sequential" or not isinstance(loader.iterables, Mapping):
            self._check(given["batch"])
            return None
        name, index, several = self._owner(given.get("dataloader_idx", 0))
        given.update({key: {name: given[key]} for key in ("batch", "outputs") if key in given})
        # The steps of a child with one loader are not told the loader's index; the batch transfers always are.
        if "batch_idx" in given and not several:
            given.pop("dataloader_idx", None)
        elif "dataloader_idx" in given:
            given["dataloader_idx"] = index
        return name

    def _owner(self, dataloader_idx: int) -> tuple[str, int, bool]:
        """The child of a loader, the loader's index among the child's own, and whether it has several."""
        loaders = self._loader().iterables
        self._check(loaders)
        lengths = {name: len(CombinedLoader(own).flattened) for name, own in loaders.items()}
        return [(name, index, n > 1) for name, n in lengths.items() for index in range(n)][
            dataloader_idx
        ]

    def _check(self, by_name: Any) -> None:
        """Refuse loaders, or batches, that are not named after the children."""
        stage = self.trainer.state.stage
        assert stage is not None
        step = STEPS[str(stage.dataloader_prefix)]
        names = list(self.child_names) if step in ALWAYS else self.overriding(step)
        if any(isinstance(leaf, CombinedLoader) for leaf in self._loader().flattened):
            found = "one of them is a CombinedLoader: write CombinedLoader({...}, mode=...) around all of them"
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
