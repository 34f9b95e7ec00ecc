"""Turns the errors of Hydra into one sentence: what was wrong, and the nearest correct names."""

import argparse
import difflib
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException


def sentence(error: BaseException, folder: Path, name: str, arguments: Sequence[str]) -> str:
    """Return an error of Hydra, several lines long, as one sentence.

    Parameters
    ----------
    error : raised while Hydra composed the configuration ``name`` of ``folder``.
    arguments : of the command line.
    """
    text = str(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be read: {_how_to_write(str(error.override), _is_sweep(arguments))}"
    if found := re.search(r"Ambiguous value for argument '(.+)'$", text, flags=re.MULTILINE):
        key = found[1].partition("=")[0]
        return f"{key} has several values, which need -m; if it is one, {_how_to_write(found[1], several=False)}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if group:
            return f"{group}={option} is no option of {group}; {_nearest(option, error.options)}"
    if found := re.search(r"An item is already at '([^']+)'", text):
        return f"the configuration already holds {found[1]}; leave out the + to set it"
    if found := re.search(r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'", text):
        key = found[1].partition("=")[0].lstrip("+~")
        if only := _only_some(folder, name, arguments, key):
            return only
        config = _composed(folder, name, arguments, key)
        groups = [path.name for path in folder.iterdir() if path.is_dir()]
        # what has a group is set there: logger=none, not trainer.logger=false
        if key.rpartition(".")[2] not in groups and _is_argument(config, key):
            return f"the configuration does not hold {key} yet; add it with a +: +{key}=VALUE"
        return f"there is no key {key}; {_nearest(key, [*groups, *_keys(config)])}"
    if isinstance(error, OmegaConfBaseException) or isinstance(error.__cause__, OmegaConfBaseException):
        cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
        key = getattr(cause, "full_key", None)
        if isinstance(cause, MissingMandatoryValue) and key:
            return f"{key} has no value yet; give {key}=VALUE"
        reason = str(getattr(cause, "msg", None) or cause).splitlines()[0]
        return f"{key} cannot have this value: {reason}" if key else reason
    return " ".join(text.split())[:400]


def instantiation(error: InstantiationException) -> str:
    """Return in one sentence what could not be built, and why."""
    text = str(error)
    target = re.search(r"(?:call to|locating) (?:target )?'([^']+)'", text)
    key = re.search(r"full_key: (\S+)", text)
    cause = error.__cause__ or error
    reason = " ".join(str(cause).split())[:300]
    if isinstance(cause, LookupError):  # its text is the key alone
        reason = f"{type(cause).__name__}: {reason}"
    where = f"{key[1]} " if key else ""
    if missing := re.search(r"No module named '([^']+)'", reason):
        reason = (
            f"there is no module {missing[1]}; correct the _target_, or put the folder that holds the module on "
            f"PYTHONPATH"
        )
    return f"{where}cannot be built as {target[1] if target else 'configured'}: {reason}"


def _is_sweep(arguments: Sequence[str]) -> bool:
    return not {"-m", "--multirun"}.isdisjoint(arguments)


def _how_to_write(argument: str, several: bool) -> str:
    """Return how to write an argument that Hydra cannot read: with its value, or each of several, in quotes."""
    key, equals, value = argument.partition("=")
    if not equals:
        return "give KEY=VALUE"
    opening, closing = ("[", "]") if value.startswith("[") and value.endswith("]") else ("", "")
    items = value[len(opening) : len(value) - len(closing)].split(",") if several or opening else [value]
    words = ",".join('"' + item.strip().replace('"', r"\"") + '"' for item in items)
    written = f"{key}={opening}{words}{closing}"
    try:
        OverridesParser.create().parse_overrides([written])
    except OverrideParseException:
        return "give KEY=VALUE, and quote a value that contains more than letters, digits and . - _ / :"
    odd = dict.fromkeys(re.sub(r"[\w./:\[\]-]" if not several else r"[\w./:,\[\]-]", "", value, flags=re.ASCII))
    signs = " ".join(map(repr, odd)) or "such a value"
    return f"{signs} needs quotes; write {shlex.quote(written)}"


def _only_some(folder: Path, name: str, arguments: Sequence[str], key: str) -> str:
    """Return a sentence if some of several options of a group have the key and others have not, else an empty one."""
    group, _, rest = key.partition(".")
    for argument in arguments:
        chosen, _, values = argument.partition("=")
        options = values.split(",")
        if chosen != group or len(options) < 2:
            continue
        others = [other for other in arguments if other != argument]
        have = [o for o in options if key in _keys(_composed(folder, name, [*others, f"{group}={o}"], key))]
        if have and len(have) < len(options):
            lack = ", ".join(f"{group}={option}" for option in options if option not in have)
            join = ", and compare their folders with python -m spinwarp.figures" if name == "evaluate" else ""
            return f"{lack} has no {rest}, {', '.join(f'{group}={o}' for o in have)} has; run them apart{join}"
    return ""


def _composed(folder: Path, name: str, arguments: Sequence[str], wrong: str) -> Any:
    """Return the configuration without the wrong override; an empty one if others are wrong too."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-dir", "-cd")
    options, rest = parser.parse_known_args(list(arguments))
    overrides = [a for a in rest if "=" in a and not a.startswith("-") and a.partition("=")[0].lstrip("+~") != wrong]
    if options.config_dir:
        overrides.append(f"hydra.searchpath=[file://{Path(options.config_dir).resolve()}]")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            # the first value of a sweep is enough
            first = [o if "[" in o else o.split(",")[0] for o in overrides]
            return OmegaConf.to_container(compose(name, first, return_hydra_config=True))
    except Exception:
        return {}


def _is_argument(config: Any, key: str) -> bool:
    """Whether a missing key is an argument of the class that its neighbours configure."""
    *parents, last = key.split(".")
    for part in parents:
        config = config.get(part) if isinstance(config, dict) else None
    if not isinstance(config, dict) or "_target_" not in config:
        return False
    module, _, name = config["_target_"].rpartition(".")
    try:
        return last in inspect.signature(getattr(importlib.import_module(module), name)).parameters
    except (ImportError, AttributeError, TypeError, ValueError):
        return False


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    for key, value in config.items() if isinstance(config, dict) else ():
        yield f"{prefix}{key}"
        yield from _keys(value, f"{prefix}{key}.")


def _nearest(word: str, names: Sequence[str]) -> str:
    """Return a hint with the nearest names; likeness averages that of the whole name and of its last part."""
    last = word.rpartition(".")[2]

    def likeness(name: str) -> float:
        parts = (word, name), (last, name.rpartition(".")[2])
        return sum(difflib.SequenceMatcher(None, one, other).ratio() for one, other in parts) / 2

    ranked = sorted(((likeness(name), name) for name in set(names)), key=lambda pair: (-pair[0], pair[1]))
    if near := [name for score, name in ranked[:3] if score > max(0.6, ranked[0][0] - 0.05)]:
        return f"did you mean {' or '.join(near)}?"
    siblings = [name for name in sorted(set(names)) if name.rpartition(".")[0] == word.rpartition(".")[0]]
    return f"choose from {', '.join(siblings[:30])}" if siblings else "--cfg job lists all keys"
