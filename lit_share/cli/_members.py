"""The models of checkpoints, as members of one module that is aligned."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_share.alignment import Inputs
from lit_share.cli._checkpoint import load_checkpoint, load_plain, state_dict_of
from lit_share.cli._source import build_module, imported, is_importable
from lit_share.files import beside, open_regular
from lit_share.ties import Ties, by_unwrapped_name, unwrapped_name

_SHAPE = re.compile(r"\d+(x\d+)*")
# What a Lightning checkpoint has that does not depend on the order of units.
_KEPT = (
    "epoch",
    "global_step",
    "pytorch-lightning_version",
    "hparams_name",
    "hyper_parameters",
    "hparams_type",
    "datamodule_hparams_name",
    "datamodule_hyper_parameters",
)


@dataclass(frozen=True)
class Members:
    """The models of some checkpoints.

    Attributes:
        module: A module of all models by name, or the only model.
        models: The models, in the order of the checkpoints.
        names: The name of each in the module; none for the only model.
        checkpoints: The contents of the checkpoints.
    """

    module: nn.Module
    models: list[nn.Module]
    names: list[str]
    checkpoints: list[Mapping[str, Any]]

    @classmethod
    def load(cls, paths: Sequence[str], source: str) -> Members:
        """Build a model for each checkpoint, and load its weights.

        Raises:
            OSError: If a file cannot be opened.
            ValueError: If the model cannot be built, or a file is no checkpoint of it.
        """
        checkpoints = [load_checkpoint(Path(path)) for path in paths]
        model = build_module(source)
        models = [model, *(copy.deepcopy(model) for _ in paths[1:])]
        for path, own, checkpoint in zip(paths, models, checkpoints, strict=True):
            state = by_unwrapped_name(state_dict_of(checkpoint))
            try:
                own.load_state_dict(state)
            except RuntimeError as error:
                raise ValueError(f"{path!r} does not fit {source}: {error}") from None
        if len(models) == 1:
            return cls(model, models, [], checkpoints)
        names = _names(paths)
        together = nn.ModuleDict(dict(zip(names, models, strict=True)))
        return cls(together, models, names, checkpoints)

    def ties(self, patterns: Sequence[str], exclude: Sequence[str], submodule: str) -> Ties:
        """Return ties of these patterns, or of the submodules of several models."""
        if not self.names:
            return Ties(*patterns, exclude=exclude)
        return Ties(*(".".join(filter(None, (name, submodule, "*"))) for name in self.names))

    def inputs(self, given: str | None, submodule: str, by: str, seed: int) -> Inputs:
        """Return the inputs that the command line gives.

        Raises:
            OSError: If a file cannot be opened.
            ValueError: If there are none, they are of another type, or random for ``activations``.
        """
        if given is None:
            example = getattr(self.models[0], "example_input_array", None)
            if example is None or submodule or not self.names:
                raise ValueError(
                    "write --inputs, what the aligned modules are called with, as in --inputs "
                    "16x784: there is no example_input_array of the whole model"
                )
            return _checked(example, "example_input_array")
        path = Path(given)
        # A file takes precedence, because its name may have a colon or be a number, too.
        if path.exists() or not (_SHAPE.fullmatch(given) or is_importable(given)):
            open_regular(path).close()
            try:
                content = load_plain(path)
            # Files of other formats raise many kinds of errors, some of them without a message.
            except Exception as error:
                reason = (str(error) or repr(error)).strip().splitlines()[0][:200]
                raise ValueError(
                    f"{given!r} holds no inputs saved by torch.save: {reason}"
                ) from None
            return _checked(content, given)
        if is_importable(given):
            what = "a tensor, tuple or dict"
            return _checked(imported(given, (Tensor, tuple, list, dict), what), given)
        if by == "activations":
            raise ValueError(
                "random numbers say nothing of activations on data: write --inputs FILE, or "
                "package.module:name of a function that returns a batch"
            )
        shape = [int(size) for size in given.split("x")]
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def save(self, outputs: Sequence[str]) -> list[str]:
        """Write the checkpoints that were permuted: all but the first, or the only one.

        Returns:
            The names of what a checkpoint had, and was left out.
        """
        left_out: dict[str, None] = {}
        pairs = list(zip(self.models, self.checkpoints, strict=True))
        if self.names:
            del pairs[0]
        for output, (model, checkpoint) in zip(outputs, pairs, strict=True):
            content = _updated(checkpoint, model.state_dict())
            if state_dict_of(checkpoint) is not checkpoint:
                left_out |= dict.fromkeys(str(name) for name in checkpoint if name not in content)
            with beside(output) as unfinished:
                torch.save(content, unfinished)
        return list(left_out)


def _updated(checkpoint: Mapping[str, Any], aligned: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint with other weights, without what belongs to the order of the old ones."""
    state = state_dict_of(checkpoint)
    weights = {}
    for name, old in state.items():
        weights[name] = aligned.get(unwrapped_name(name), old)
        if isinstance(old, Tensor):
            weights[name] = weights[name].to(old.dtype)
    if state is checkpoint:
        return weights
    content = {name: checkpoint[name] for name in _KEPT if name in checkpoint}
    return {**content, "state_dict": weights}


def _checked(inputs: Any, name: str) -> Inputs:
    if isinstance(inputs, list):
        inputs = tuple(inputs)
    if not isinstance(inputs, (Tensor, tuple, Mapping)):
        raise ValueError(f"{name!r} is a {type(inputs).__name__}, not a tensor, tuple or dict")
    return inputs


def _names(paths: Sequence[str]) -> list[str]:
    """Return a name of a submodule for each file, numbered where several are alike."""
    stems = [re.sub(r"\W", "_", Path(path).stem) for path in paths]
    if len(set(stems)) == len(stems) and not any(hasattr(nn.ModuleDict, s) for s in stems):
        return stems
    return [f"{stem}_{i}" for i, stem in enumerate(stems, 1)]
