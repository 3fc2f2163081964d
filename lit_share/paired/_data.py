"""`PairedData`, a LightningDataModule of several others."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from lit_share.lightnings import SeveralDataModules, is_a, is_overridden, module_of

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule

_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader")


class _Loaders:
    """A hook that returns the loaders of the datamodules that have it, by child."""

    # Lightning calls hooks that a datamodule overrides, so a descriptor decides at each access.

    def __init__(self, hook: str) -> None:
        self.hook = hook

    def __get__(self, data: PairedData | None, owner: type) -> Any:
        if data is not None and any(is_overridden(self.hook, m) for m in data.by_name().values()):
            return partial(data.loaders, self.hook)
        # Past this descriptor, to the hook of the Lightning that the datamodules are from.
        return getattr(super(PairedData, data or owner), self.hook)


class PairedData(SeveralDataModules):
    """Give each child of a `Paired` its own LightningDataModule, without changes to it.

    Each datamodule prepares and loads the data of the child of its name. In that child,
    `self.trainer.datamodule` is its own datamodule, whose batch transfer hooks are used if it has
    any. A child's checkpoint has its datamodule's hyperparameters.

    Args:
        **datamodules: LightningDataModules, by the names of the pair's children.

    Raises:
        TypeError: If there is no datamodule, a value is not a LightningDataModule, or some are of
            `lightning.pytorch` and others of `pytorch_lightning`.

    Example:
        >>> from lightning.pytorch import LightningDataModule
        >>> digits, cells = LightningDataModule(), LightningDataModule()
        >>> data = PairedData(a=digits, b=cells)  # trainer.fit(Paired(a=..., b=...), data)
        >>> data.by_name()["b"] is cells
        True
    """

    def __init__(self, **datamodules: LightningDataModule) -> None:
        self._by_name = datamodules
        if not datamodules:
            raise TypeError(
                "PairedData needs a LightningDataModule for each child: write "
                "PairedData(a=DataA(), b=DataB())"
            )
        for name, module in datamodules.items():
            if not is_a(module, "LightningDataModule"):
                raise TypeError(
                    f"{name!r} must be a LightningDataModule, got a {type(module).__name__}: write "
                    f"PairedData({name}=...), or give the Trainer a dict of loaders, "
                    f"{{{name!r}: loader}}"
                )
        super().__init__()
        hparams = {name: dict(m.hparams) for name, m in datamodules.items() if m.hparams}
        for own in hparams.values():
            module_of(self, "utilities.parsing").clean_namespace(own)
        # Lightning refuses keys that the pair's hyperparameters, which are by child, have, too.
        if hparams:
            log = any(module._log_hyperparams for module in datamodules.values())
            self.save_hyperparameters({"datamodules": hparams}, logger=log)

    def by_name(self) -> dict[str, LightningDataModule]:
        """Return the datamodules, by name."""
        return dict(self._by_name)

    @property
    def trainer(self) -> Any:
        """The Trainer of the pair."""
        return self._trainer

    @trainer.setter
    def trainer(self, trainer: Any) -> None:
        self._trainer = trainer
        for module in self._by_name.values():
            module.trainer = trainer

    def prepare_data(self) -> None:
        """Call the hook of each datamodule."""
        for module in self._by_name.values():
            module.prepare_data()

    def setup(self, stage: str) -> None:
        """Call the hook of each datamodule."""
        for module in self._by_name.values():
            module.setup(stage)

    def teardown(self, stage: str) -> None:
        """Call the hook of each datamodule."""
        for module in self._by_name.values():
            module.teardown(stage)

    def on_exception(self, exception: BaseException) -> None:
        """Call the hook of each datamodule."""
        for module in self._by_name.values():
            module.on_exception(exception)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the datamodules that have any, by name."""
        states = {name: module.state_dict() for name, module in self._by_name.items()}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the states of the datamodules.

        Raises:
            KeyError: If a state is of a datamodule that there is not.
        """
        for name, state in state_dict.items():
            if name not in self._by_name:
                raise KeyError(
                    f"the checkpoint has a state of the datamodule {name!r}, but the datamodules "
                    f"are {list(self._by_name)}: name them as they were when it was saved"
                )
            self._by_name[name].load_state_dict(state)

    def loaders(self, hook: str) -> dict[str, Any]:
        """Return what a hook of the datamodules that have it returns, by child."""
        own = {name: m for name, m in self._by_name.items() if is_overridden(hook, m)}
        return {name: getattr(module, hook)() for name, module in own.items()}


for _hook in _LOADERS:
    setattr(PairedData, _hook, _Loaders(_hook))
