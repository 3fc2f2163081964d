"""Keep values of the environment, such as passwords, out of what is passed on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer

# These compute from the config, its arguments or the clock; any other resolver may read secrets.
_HARMLESS = {
    "oc.create", "oc.decode", "oc.deprecated", "oc.dict.keys", "oc.dict.values", "oc.select",
    "hydra", "now", "python_version",
}  # fmt: skip
# Shorter values are no secrets, and parts of many words.
_LEAST_LETTERS = 4


@dataclass(frozen=True)
class Environment:
    """What a config takes from the environment.

    Attributes:
        raw: The interpolations by their paths in the config, as ``${oc.env:PASSWORD}``.
        values: The interpolation of each value that a resolver has returned.
    """

    raw: dict[tuple[Any, ...], str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: DictConfig) -> Environment:
        """Resolve a config to see which of its values call a resolver that may read secrets."""
        environment = cls()
        environment._visit(config, OmegaConf.to_container(config), ())
        return environment

    def hide(self, content: Any) -> Any:
        """Return a resolved config, as a container, with interpolations in place of their values.

        A config that is made of the container resolves them again, wherever they are set.
        """
        return self._hidden(content, ())

    def hide_in(self, text: str) -> str:
        """Return a text with interpolations in place of their values."""
        # A value may be a part of another one.
        for value in sorted(self.values, key=len, reverse=True):
            text = text.replace(value, self.values[value])
        return text

    def hide_in_hyperparameters(self, *modules: Any) -> None:
        """Hide values in what Lightning logs of modules; checkpoints keep them, to be loaded."""
        for module in modules:
            initial = vars(module).get("_hparams_initial")
            if isinstance(initial, dict):
                # No path of the config begins with None.
                initial.update({k: self._hidden(value, (None,)) for k, value in initial.items()})

    def _hidden(self, content: Any, path: tuple[Any, ...]) -> Any:
        if path in self.raw:
            return self.raw[path]
        if isinstance(content, dict):
            return {key: self._hidden(value, (*path, key)) for key, value in content.items()}
        if isinstance(content, (list, tuple)):
            return [self._hidden(value, (*path, i)) for i, value in enumerate(content)]
        if isinstance(content, str):
            return self.hide_in(content)
        return content

    def _visit(self, node: DictConfig | ListConfig, raw: Any, path: tuple[Any, ...]) -> None:
        if not isinstance(raw, (dict, list)):
            return
        keys = raw if isinstance(raw, dict) else range(len(raw))
        for key in keys:
            place = (*path, key)
            if OmegaConf.is_interpolation(node, key):
                if self._reads_secrets(node, key):
                    self.raw[place] = raw[key]
            elif isinstance(raw[key], (dict, list)):
                self._visit(node[key], raw[key], place)

    def _reads_secrets(self, node: DictConfig | ListConfig, key: Any) -> bool:
        with _noted() as calls:
            try:
                value = node[key]
                if isinstance(value, (DictConfig, ListConfig)):
                    OmegaConf.to_container(value, resolve=True)
            # Whoever needs the value is told what is wrong with it.
            except Exception:
                return bool(calls)
        for interpolation, found in calls:
            if isinstance(found, str) and len(found) >= _LEAST_LETTERS:
                self.values[found] = interpolation
        return bool(calls)


@contextmanager
def _noted() -> Iterator[list[tuple[str, Any]]]:
    """Collect the calls of resolvers that may read secrets, with what they return."""
    calls: list[tuple[str, Any]] = []
    resolvers = BaseContainer._resolvers
    before = dict(resolvers)

    def noting(name: str, resolver: Callable[..., Any]) -> Callable[..., Any]:
        def call(config: Any, parent: Any, node: Any, args: Any, texts: Any) -> Any:
            interpolation = f"${{{name}:{','.join(map(str, texts))}}}"
            # What is raised may depend on a secret, too.
            calls.append((interpolation, None))
            value = resolver(config, parent, node, args, texts)
            # A default is no value of the environment, and may be any word.
            if name != "oc.env" or str(args[0]) in os.environ:
                calls.append((interpolation, value))
            return value

        return call

    resolvers.update({n: noting(n, r) for n, r in before.items() if n not in _HARMLESS})
    try:
        yield calls
    finally:
        resolvers.clear()
        resolvers.update(before)
