"""Whether the values of a configuration are of the kinds that the classes ask for that are built from them.

The annotations of a constructor say what it takes; a word where a number belongs is told before anything is built.
"""

import importlib
import inspect
import math
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union

from spinwarp.errors import InputError

_PLAIN: Mapping[Any, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("a text", (str,)),
    Path: ("a path", (str,)),
    NoneType: ("null", (NoneType,)),
}
#: what train.py takes in place of what the class takes
_OURS: Mapping[str, Mapping[str, Any]] = {
    "lightning.Trainer": {"precision": Literal[32, "32", "32-true", "bf16-mixed", "16-mixed", "auto"] | None}
}


def check_kinds(config: Any, key: str = "", kinds: Mapping[str, Any] | None = None) -> None:
    """Compare every value of a configuration with the annotation of the argument that it is for.

    Parameters
    ----------
    config : resolved, of plain dictionaries and lists.
    key : where it stands.
    kinds : of those of its keys that no class is built from.

    Raises
    ------
    InputError : on the first value of another kind, and on one that is no number.
    """
    if isinstance(config, float) and math.isnan(config):
        raise InputError(f"{key}=nan is no number; give one, or leave it out")
    if isinstance(config, list):
        for i, value in enumerate(config):
            check_kinds(value, f"{key}[{i}]")
    if not isinstance(config, dict):
        return
    known = kinds or (_arguments(str(config["_target_"])) if "_target_" in config else {})
    for name, value in config.items():
        where = f"{key}.{name}" if key else str(name)
        if name in known and not _fits(value, known[name]):
            shown = "null" if value is None else str(value)
            raise InputError(f"{where}={shown[:80]} is not {' or '.join(dict.fromkeys(_words(known[name])))}")
        check_kinds(value, where)


def _arguments(target: str) -> dict[str, Any]:
    """Return the annotations of what a target is called with; nothing of what cannot be imported or tells nothing."""
    module, _, name = target.rpartition(".")
    try:
        called = getattr(importlib.import_module(module), name)
        hints = typing.get_type_hints(called.__init__ if inspect.isclass(called) else called)
        defaults = inspect.signature(called).parameters
        # older code leaves it to the default to say that it may be null
        kinds = {n: k | None if n in defaults and defaults[n].default is None else k for n, k in hints.items()}
        return {**kinds, **_OURS.get(target, {})}
    # building it will say what is wrong with it; other people's annotations may not be importable
    except (ImportError, AttributeError, NameError, TypeError, ValueError):
        return {}


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(value, dict) and "_target_" in value:
        return True  # what is built there may be of any kind, a list made by a function too
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if kind in _PLAIN:
        return isinstance(value, _PLAIN[kind][1]) and (kind is bool or not isinstance(value, bool))
    if _is_list(kind):
        items = [one for one in inner if one is not Ellipsis]
        if not isinstance(value, list) or (origin is tuple and Ellipsis not in inner and len(value) != len(items)):
            return False
        return all(_fits(v, items[i % len(items)]) for i, v in enumerate(value)) if items else True
    # an object is built from a dictionary; of kinds that are no classes nothing is asked
    return kind is Any or not inspect.isclass(origin or kind) or isinstance(value, dict)


def _is_list(kind: Any) -> bool:
    origin = typing.get_origin(kind) or kind
    return origin in (list, tuple, Sequence, Collection)


def _words(kind: Any) -> Iterator[str]:
    inner = typing.get_args(kind)
    if typing.get_origin(kind) in (Union, UnionType):
        for one in inner:
            yield from _words(one)
    elif typing.get_origin(kind) is Literal:
        yield from map(str, inner)
    elif kind in _PLAIN:
        yield _PLAIN[kind][0]
    elif _is_list(kind):
        items = [one for one in inner if one is not Ellipsis]
        yield (
            f"a list, each {' or '.join(dict.fromkeys(w for one in items for w in _words(one)))}" if items else "a list"
        )
    else:
        yield f"a {getattr(kind, '__name__', str(kind))}"
