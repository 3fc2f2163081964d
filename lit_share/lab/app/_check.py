"""Check a composed config before anything is built."""

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
from pathlib import Path
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
# In place of values that are missing or cannot be resolved, which have problems of their own.
UNREADABLE = object()


class ConfigError(ValueError):
    """A composed config that cannot be built; the message lists every problem."""


def check_config(config: DictConfig, groups: Collection[str], values: Collection[str] = ()) -> None:
    """Raise `ConfigError` if a composed config does not fit the signatures of its targets.

    Hydra itself checks little: a misspelt group becomes a string, a misspelt keyword fails minutes
    later, when its target is built, and a string in place of a number fails deep inside other code.
    Targets are imported, but not called. Types are those of YAML: `3` is a `float`, `"3"` is not an
    `int`. Types are not checked where an annotation cannot be resolved or a value holds a
    `_target_`. Keywords may be missing where `_partial_: true`, and below `_recursive_: false`,
    where the parent builds the nodes.

    Args:
        config: The config that Hydra composed, without the `hydra` node.
        groups: The top-level keys that are config groups. Each is a mapping, null or absent.
        values: The other top-level keys. They may hold anything.

    Raises:
        ConfigError: If there is any problem. Each is one line that begins with the full key.

    Example:
        >>> clock = {"_target_": "calendar.Calendar", "firstweekdy": 6}
        >>> config = OmegaConf.create({"clock": clock, "sed": 0})
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
                f"{key}: expected a mapping, got {raw!r}: choose a config of this group with"
                f" {key}=<name> on the command line, or with '- {key}: <name>' in a defaults list"
            )
    problems += _check_node(config, "", partial=False, paths=paths_of(config))
    if problems:
        plural = "s" * (len(problems) > 1)
        title = f"{len(problems)} problem{plural} in the config:"
        raise ConfigError("\n  ".join([title, *problems]))


def _check_node(node: Any, path: str, partial: bool, paths: Collection[str]) -> Iterator[str]:
    """Yield the problems of the config node at the key ``path``, and of all nodes below it.

    Calls may lack arguments if ``partial``. Messages suggest from ``paths``, the config's keys.
    """
    values = {}
    for key, raw in _items(node):
        values[key] = UNREADABLE
        try:
            values[key] = node[key]
        except MissingMandatoryValue:
            full_key = _join(path, key)
            yield f"{full_key}: mandatory, but still '???': write {full_key}=<value>"
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            if unknown := re.search("Interpolation key '(.+)' not found", reason):
                reason += suggest(unknown[1], paths)
            yield f"{_join(path, key)}: cannot resolve {raw!r}: {reason}"
    private = [key for key in map(str, values) if key.startswith("_") and key not in HYDRA_KEYS]
    if "_target_" in values:
        yield from _check_call(values, path, partial or values.get("_partial_") is True)
    elif misspelt := get_close_matches("_target_", private, n=1):
        yield f"{_join(path, misspelt[0])}: did you mean '_target_'?"
    partial = partial or values.get("_recursive_") is False
    for key, value in values.items():
        # The node that an interpolation points to is checked under its own key.
        if isinstance(value, DictConfig | ListConfig) and not OmegaConf.is_interpolation(node, key):
            yield from _check_node(value, _join(path, key), partial, paths)


def _check_call(values: dict[Any, Any], path: str, partial: bool) -> Iterator[str]:
    """Import a call's `_target_`, and yield what misfits it; `partial` calls may lack arguments."""
    for key, hint in HYDRA_KEYS.items():
        if key in values:
            yield from _check_type(values[key], hint, _join(path, key))
    name, args = values["_target_"], _plain(values.get("_args_", []))
    if not isinstance(name, str) or not isinstance(args, list):
        return
    try:
        target = _locate(name)
    except Exception as error:
        # Importing runs code of other packages, which may raise anything.
        yield f"{_join(path, '_target_')}: cannot import {name!r}: {error}"
        return
    try:
        parameters = inspect.signature(target).parameters.values()
    except ValueError:
        # Some builtins have no signature.
        return
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    filled = positional[: len(args)]
    rest = [p for p in parameters if p.kind is p.VAR_POSITIONAL]
    args_path = _join(path, "_args_")
    if len(args) > len(filled) and not rest:
        most = f"at most {len(filled)} positional arguments"
        yield f"{args_path}: {name} takes {most}, got {len(args)}"
    for i, (arg, parameter) in enumerate(zip(args, chain(filled, cycle(rest)), strict=False)):
        hint = _hint(target, parameter)
        yield from _check_type(arg, hint, f"{args_path}[{i}]", parameter.default)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for key, value in values.items():
        if key in named:
            hint = _hint(target, named[key])
            yield from _check_type(value, hint, _join(path, key), named[key].default)
        elif key not in HYDRA_KEYS and not takes_any:
            options: Collection[str] = named
            if str(key).startswith("_"):
                options = HYDRA_KEYS
            yield f"{_join(path, key)}: {name} has no such keyword{suggest(key, options)}"
    if partial:
        return
    for p in parameters:
        optional = p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if not optional and p.name not in values and all(p is not other for other in filled):
            yield f"{_join(path, p.name)}: {name} requires it: add it to the config"


def _check_type(value: Any, hint: Any, path: str, default: Any = UNREADABLE) -> Iterator[str]:
    """Yield a problem if ``value`` is not of type ``hint``; ``None`` fits if it is the ``default``.

    Values that cannot be resolved, or that hold a `_target_`, are not checked.
    """
    plain = _plain(value)
    if plain is UNREADABLE or _holds_target(plain) or (plain is None and default is None):
        return
    if _fits(value, plain, hint):
        return
    shown = repr(plain)
    if plain is None:
        shown = "null"
    problem = f"{path}: expected {inspect.formatannotation(hint)}, got {shown}"
    if nearest := get_close_matches(str(plain), map(str, _literals(hint)), n=1):
        problem += f": did you mean {nearest[0]!r}?"
    yield problem


def _fits(value: Any, plain: Any, hint: Any) -> bool:
    """Whether ``value``, or ``plain`` as JSON, is of type ``hint``; true if pydantic cannot say."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The value is checked in a list: pydantic takes no settings for a bare dataclass.
            hints: Any = GenericAlias(list, (hint,))
            settings = ConfigDict(arbitrary_types_allowed=True)
            adapter: TypeAdapter[Any] = TypeAdapter(hints, config=settings)
        with suppress(ValidationError):
            # Strict JSON distinguishes "3" from 3, and still accepts a list for a tuple and a
            # string for a path.
            adapter.validate_json(json.dumps([plain], default=str), strict=True)
            return True
        with suppress(ValidationError):
            adapter.validate_python([value], strict=True)
            return True
    except Exception:
        # Annotations of other packages can be anything.
        return True
    return False


def _hint(target: Callable, parameter: inspect.Parameter) -> Any:
    """Return the resolved annotation of a parameter of ``target``; `Any` if that is impossible."""
    if parameter.annotation is parameter.empty:
        return Any
    function = target
    if inspect.isclass(target):
        function = target.__init__
    function = inspect.unwrap(function)
    scope = getattr(function, "__globals__", None) or vars(sys.modules[target.__module__])
    # Each annotation is resolved by itself: `get_type_hints(function)` fails for all parameters
    # if a single name is imported for type checkers only.
    annotated = SimpleNamespace(__annotations__={"": parameter.annotation})
    try:
        return typing.get_type_hints(annotated, scope, include_extras=True)[""]
    except Exception:
        # Annotations of other packages can be anything.
        return Any


def _locate(name: str) -> Callable:
    """Import a function or class by dotted name; an `ImportError` suggests the nearest name."""
    path, *attributes = name.split(".")
    try:
        found: Any = import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            # The module exists, but imports another that does not.
            raise
        modules = [module.name for module in pkgutil.iter_modules()]
        hint = suggest(path, modules) or (
            f", neither installed nor in {Path.cwd()}: run the command in the folder of {path}.py, "
            "or with PYTHONPATH=FOLDER before it"
        )
        raise ImportError(f"no module {path!r}{hint}") from None
    for attribute in attributes:
        parent, path = path, f"{path}.{attribute}"
        if hasattr(found, attribute):
            found = getattr(found, attribute)
        elif hasattr(found, "__path__") and find_spec(path):
            found = import_module(path)
        else:
            modules = [m.name for m in pkgutil.iter_modules(getattr(found, "__path__", ()))]
            names = {*dir(found), *modules}
            if not attribute.startswith("_"):
                names = {name for name in names if not name.startswith("_")}
            raise ImportError(f"{parent} has no {attribute!r}{suggest(attribute, names)}")
    if not callable(found):
        raise ImportError(
            f"it is neither a class nor a function, but of type {type(found).__name__}"
        )
    return found  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    """Return a config as dicts and lists, an enum as its name; `UNREADABLE` if unresolvable."""
    if isinstance(value, Enum):
        return value.name
    if not OmegaConf.is_config(value):
        return value
    try:
        return OmegaConf.to_container(value, resolve=True, throw_on_missing=True, enum_to_str=True)
    except OmegaConfBaseException:
        return UNREADABLE


def _items(node: Any) -> list[tuple[Any, Any]]:
    """Return a config's (key or index, plain value) pairs, without resolving interpolations."""
    raw: Any = OmegaConf.to_container(node)
    if isinstance(raw, dict):
        return [*raw.items()]
    return [*enumerate(raw)]


def _is_open(config: DictConfig, key: Any) -> bool:
    return OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, key)


def _holds_target(plain: Any) -> bool:
    if isinstance(plain, dict):
        return "_target_" in plain or any(map(_holds_target, plain.values()))
    return isinstance(plain, list) and any(map(_holds_target, plain))


def paths_of(config: DictConfig) -> list[str]:
    """Return the dotted keys of a config."""
    return [*_paths(OmegaConf.to_container(config))]


def _paths(raw: Any, path: str = "") -> Iterator[str]:
    if not isinstance(raw, dict):
        return
    for key, value in raw.items():
        yield _join(path, key)
        yield from _paths(value, _join(path, key))


def _literals(hint: Any) -> Iterator[Any]:
    """Yield the values of all `Literal`s in a type, at any depth."""
    for arg in typing.get_args(hint):
        if typing.get_origin(hint) is Literal:
            yield arg
        else:
            yield from _literals(arg)


def _join(path: str, key: Any) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}".removeprefix(".")
