"""Checking a composed config before anything is built."""

from __future__ import annotations

import inspect
import json
import pkgutil
import re
import sys
import typing
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from difflib import get_close_matches
from enum import Enum
from importlib import import_module
from importlib.util import find_spec
from itertools import chain, cycle
from types import GenericAlias, SimpleNamespace
from typing import Any, Literal

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ConfigDict, TypeAdapter, ValidationError

from lit_share.text import suggest

HYDRA_KEYS: dict[str, Any] = {
    "_target_": str,
    "_args_": list,
    "_partial_": bool,
    "_recursive_": bool,
    "_convert_": Literal["none", "partial", "object", "all"],
}
UNREADABLE = object()


class ConfigError(ValueError):
    """A composed config that cannot be built; the message lists every problem."""


def check_config(config: DictConfig, groups: Collection[str], values: Collection[str] = ()) -> None:
    """Compare a composed config with the signatures of its targets, before anything is built.

    Hydra takes what it is given: a misspelt group becomes a string, a misspelt keyword fails when its target is
    built, minutes later, and a string in place of a number fails deep inside somebody else's code. Targets are
    imported here, but not called. What a target receives is what YAML says: `3` is a `float`, `"3"` is not an `int`.
    Parameters whose annotation cannot be resolved, and values that hold a `_target_`, are not checked for their type.
    Keywords may be missing where `_partial_: true`, and below `_recursive_: false`, where the parent builds the nodes.

    Args:
        config: What Hydra composed, without the `hydra` node.
        groups: The top-level keys that are config groups. Each is a mapping, null or absent.
        values: The other top-level keys. They may hold anything.

    Raises:
        ConfigError: If there is any problem. Each is one line that begins with the full key.

    Example:
        >>> config = OmegaConf.create({"clock": {"_target_": "calendar.Calendar", "firstweekdy": 6}, "sed": 0})
        >>> check_config(config, groups=["clock"], values=["seed"])
        Traceback (most recent call last):
            ...
        lit_share.lab.app._check.ConfigError: 2 problems in the config:
          sed: unknown key: did you mean 'seed'?
          clock.firstweekdy: calendar.Calendar has no such keyword: did you mean 'firstweekday'?
    """
    known = {*groups, *values}
    problems = []
    for key, raw in _items(config):
        if key not in known:
            problems.append(f"{key}: unknown key{suggest(key, known)}")
        elif key in groups and not isinstance(raw, dict | None) and not _is_open(config, key):
            problems.append(
                f"{key}: expected a mapping, got {raw!r}: choose a config of this group with {key}=<name> on the"
                f" command line, or with '- {key}: <name>' in a defaults list"
            )
    problems += _check_node(config, "", partial=False, paths=paths_of(config))
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError("\n  ".join([f"{count} in the config:", *problems]))


def _check_node(node: Any, path: str, partial: bool, paths: Collection[str]) -> Iterator[str]:
    """Yield the problems of a container and of all it contains; what it only points to is checked in its own place."""
    values = {}
    for key, raw in _items(node):
        values[key] = UNREADABLE
        try:
            values[key] = node[key]
        except MissingMandatoryValue:
            yield f"{_join(path, key)}: mandatory, but still '???': write {_join(path, key)}=<value>"
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            unknown = re.search("Interpolation key '(.+)' not found", reason)
            suggestion = suggest(unknown[1], paths) if unknown else ""
            yield f"{_join(path, key)}: cannot resolve {raw!r}: {reason}{suggestion}"
    odd = [key for key in map(str, values) if key.startswith("_") and key not in HYDRA_KEYS]
    if "_target_" in values:
        yield from _check_call(values, path, partial or values.get("_partial_") is True)
    elif misspelt := get_close_matches("_target_", odd, n=1):
        yield f"{_join(path, misspelt[0])}: did you mean '_target_'?"
    for key, value in values.items():
        if isinstance(value, DictConfig | ListConfig) and not OmegaConf.is_interpolation(node, key):
            yield from _check_node(
                value, _join(path, key), partial or values.get("_recursive_") is False, paths
            )


def _check_call(values: dict[Any, Any], path: str, partial: bool) -> Iterator[str]:
    """Yield what is wrong with a `_target_` and with the arguments that it is given."""
    for key in [key for key in HYDRA_KEYS if key in values]:
        yield from _check_type(values[key], HYDRA_KEYS[key], _join(path, key))
    name, args = values["_target_"], _plain(values.get("_args_", []))
    if not isinstance(name, str) or not isinstance(args, list):
        return
    try:
        target = _locate(name)
    except Exception as error:  # importing runs somebody else's code
        yield f"{_join(path, '_target_')}: cannot import {name!r}: {error}"
        return
    try:
        parameters = inspect.signature(target).parameters.values()
    except ValueError:  # some builtins do not tell their signature
        return
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    filled = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][
        : len(args)
    ]
    rest = [p for p in parameters if p.kind is p.VAR_POSITIONAL]
    if len(args) > len(filled) and not rest:
        yield f"{_join(path, '_args_')}: {name} takes at most {len(filled)} positional arguments, got {len(args)}"
    for i, (arg, parameter) in enumerate(zip(args, chain(filled, cycle(rest)), strict=False)):
        yield from _check_type(
            arg, _hint(target, parameter), f"{_join(path, '_args_')}[{i}]", parameter.default
        )
    for key, value in values.items():
        if key in named:
            yield from _check_type(
                value, _hint(target, named[key]), _join(path, key), named[key].default
            )
        elif key not in HYDRA_KEYS and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            options = HYDRA_KEYS if str(key).startswith("_") else named
            yield f"{_join(path, key)}: {name} has no such keyword{suggest(key, options)}"
    for p in [] if partial else parameters:
        optional = p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if not optional and p.name not in values and all(p is not other for other in filled):
            yield f"{_join(path, p.name)}: {name} requires it: add it to the config"


def _check_type(value: Any, hint: Any, path: str, default: Any = UNREADABLE) -> Iterator[str]:
    """Yield a problem if a plain value is not what the annotation of its parameter says."""
    plain = _plain(value)
    if (
        plain is UNREADABLE
        or _holds_target(plain)
        or (plain is None and default is None)
        or _fits(value, plain, hint)
    ):
        return
    nearest = get_close_matches(str(plain), map(str, _literals(hint)), n=1)
    suggestion = f": did you mean {nearest[0]!r}?" if nearest else ""
    shown = "null" if plain is None else repr(plain)
    yield f"{path}: expected {inspect.formatannotation(hint)}, got {shown}{suggestion}"


def _fits(value: Any, plain: Any, hint: Any) -> bool:
    """Whether a value has the annotated type; true where pydantic cannot tell."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A list of them, because pydantic takes no settings for a bare dataclass.
            hints: Any = GenericAlias(list, (hint,))
            adapter: TypeAdapter[Any] = TypeAdapter(
                hints, config=ConfigDict(arbitrary_types_allowed=True)
            )
        with suppress(ValidationError):
            # Strict JSON tells "3" from 3, and still takes a list for a tuple and a string for a path.
            adapter.validate_json(json.dumps([plain], default=str), strict=True)
            return True
        with suppress(ValidationError):
            adapter.validate_python([value], strict=True)
            return True
    except Exception:  # somebody else's annotation can be anything
        return True
    return False


def _hint(target: Callable, parameter: inspect.Parameter) -> Any:
    """The resolved annotation of one parameter; `Any` if it has none or names what is not imported at run time."""
    function = inspect.unwrap(target.__init__ if inspect.isclass(target) else target)
    scope = getattr(function, "__globals__", None) or vars(sys.modules[target.__module__])
    annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
    try:
        # One by one: `get_type_hints(function)` fails for all if one name is imported for type checkers only.
        return typing.get_type_hints(
            SimpleNamespace(__annotations__={"": annotation}), scope, include_extras=True
        )[""]
    except Exception:  # somebody else's annotation can be anything
        return Any


def _locate(name: str) -> Callable:
    """Import what a `_target_` names; the error suggests the nearest name."""
    path, *parts = name.split(".")
    try:
        found: Any = import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        raise ImportError(
            f"no module {path!r}{suggest(path, [m.name for m in pkgutil.iter_modules()])}"
        ) from None
    for part in parts:
        parent, path = path, f"{path}.{part}"
        if hasattr(found, part):
            found = getattr(found, part)
        elif hasattr(found, "__path__") and find_spec(path):
            found = import_module(path)
        else:
            names = {
                *dir(found),
                *(module.name for module in pkgutil.iter_modules(getattr(found, "__path__", ()))),
            }
            public = {name for name in names if part.startswith("_") or not name.startswith("_")}
            raise ImportError(f"{parent} has no {part!r}{suggest(part, public)}")
    if not callable(found):
        raise ImportError(
            f"it is neither a class nor a function, but of type {type(found).__name__}"
        )
    return found  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    """A value as YAML would write it, or `UNREADABLE` if something in it is missing or does not resolve."""
    if not OmegaConf.is_config(value):
        return value.name if isinstance(value, Enum) else value
    try:
        return OmegaConf.to_container(value, resolve=True, throw_on_missing=True, enum_to_str=True)
    except OmegaConfBaseException:
        return UNREADABLE


def _items(node: Any) -> list[tuple[Any, Any]]:
    """The keys or positions of a container, with the values as they were written."""
    raw: Any = OmegaConf.to_container(node)
    return list(raw.items() if isinstance(raw, dict) else enumerate(raw))


def _is_open(config: DictConfig, key: Any) -> bool:
    return OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, key)


def _holds_target(plain: Any) -> bool:
    if isinstance(plain, dict):
        return "_target_" in plain or any(map(_holds_target, plain.values()))
    return isinstance(plain, list) and any(map(_holds_target, plain))


def paths_of(config: DictConfig) -> list[str]:
    """The dotted keys of a config."""
    return [*_paths(OmegaConf.to_container(config))]


def _paths(raw: Any, path: str = "") -> Iterator[str]:
    """The dotted keys of nested dicts."""
    for key, value in raw.items() if isinstance(raw, dict) else ():
        yield _join(path, key)
        yield from _paths(value, _join(path, key))


def _literals(hint: Any) -> Iterator[Any]:
    """The choices of every `Literal` in a type."""
    for arg in typing.get_args(hint):
        if typing.get_origin(hint) is Literal:
            yield arg
        else:
            yield from _literals(arg)


def _join(path: str, key: Any) -> str:
    return f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}".removeprefix(".")
