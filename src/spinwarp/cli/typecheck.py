"""Checks the values of a configuration against the annotations of the classes that are built from it.

A word where a number belongs is reported before anything is built.
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
#: annotations that train.py narrows
_OURS: Mapping[str, Mapping[str, Any]] = {
    "lightning.Trainer": {"precision": Literal[32, "32", "32-true", "bf16-mixed", "16-mixed", "auto"] | None}
}


def check_types(config: Any, key: str = "", types: Mapping[str, Any] | None = None) -> None:
    """Check every value of a configuration against the annotation of its argument.

    Parameters
    ----------
    config : resolved, of plain dictionaries and lists.
    key : its place in the whole configuration.
    types : types of its keys if no class is built from it.

    Raises
    ------
    InputError : on the first value of another type, and on NaN.
    """
    if isinstance(config, float) and math.isnan(config):
        raise InputError(f"{key}=nan is not a number; give one, or leave it out")
    if isinstance(config, list):
        for i, value in enumerate(config):
            check_types(value, f"{key}[{i}]")
    if not isinstance(config, dict):
        return
    known = types or (_arguments(str(config["_target_"])) if "_target_" in config else {})
    for name, value in config.items():
        where = f"{key}.{name}" if key else str(name)
        if name in known and not _fits(value, known[name]):
            shown = "null" if value is None else str(value)
            listed = _fits([value], known[name])  # such as 6 for [6]
            remedy = f"; write {where}=[{shown[:80]}]" if listed else ""
            raise InputError(f"{where}={shown[:80]} is not {' or '.join(dict.fromkeys(_words(known[name])))}{remedy}")
        check_types(value, where)


def _arguments(target: str) -> dict[str, Any]:
    """Return the annotations of the arguments of a target; none if it cannot be imported or has no annotations."""
    module, _, name = target.rpartition(".")
    try:
        called = getattr(importlib.import_module(module), name)
        hints = typing.get_type_hints(called.__init__ if inspect.isclass(called) else called)
        defaults = inspect.signature(called).parameters
        # some code annotates only the type, though the default is None
        types = {n: k | None if n in defaults and defaults[n].default is None else k for n, k in hints.items()}
        return {**types, **_OURS.get(target, {})}
    # a wrong target fails when it is built; annotations of other packages may not be importable
    except (ImportError, AttributeError, NameError, TypeError, ValueError):
        return {}


def _fits(value: Any, type_: Any) -> bool:
    origin, inner = typing.get_origin(type_), typing.get_args(type_)
    if isinstance(value, dict) and "_target_" in value:
        return True  # it may build anything, and a function even a list
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if type_ in _PLAIN:
        return isinstance(value, _PLAIN[type_][1]) and (type_ is bool or not isinstance(value, bool))
    if _is_list(type_):
        items = [one for one in inner if one is not Ellipsis]
        if not isinstance(value, list) or (origin is tuple and Ellipsis not in inner and len(value) != len(items)):
            return False
        return all(_fits(v, items[i % len(items)]) for i, v in enumerate(value)) if items else True
    # an object is built from a dictionary; what is not a class is not checked
    return type_ is Any or not inspect.isclass(origin or type_) or isinstance(value, dict)


def _is_list(type_: Any) -> bool:
    origin = typing.get_origin(type_) or type_
    return origin in (list, tuple, Sequence, Collection)


def _words(type_: Any) -> Iterator[str]:
    inner = typing.get_args(type_)
    if typing.get_origin(type_) in (Union, UnionType):
        for one in inner:
            yield from _words(one)
    elif typing.get_origin(type_) is Literal:
        yield from map(str, inner)
    elif type_ in _PLAIN:
        yield _PLAIN[type_][0]
    elif _is_list(type_):
        items = [one for one in inner if one is not Ellipsis]
        yield (
            f"a list, each {' or '.join(dict.fromkeys(w for one in items for w in _words(one)))}" if items else "a list"
        )
    else:
        yield f"a {getattr(type_, '__name__', str(type_))}"
