"""Messages name keys and options that are there: what a message tells a user to set can be set."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from spinwarp.cli.app import conf_folder

CONF = conf_folder()
PACKAGE = Path(__file__).parents[1] / "src" / "spinwarp"
ROOTS = "|".join(sorted(path.name for path in CONF.iterdir() if path.is_dir()))
# neither part of a longer word nor of a path; after a + stands what is not there
KEY = re.compile(rf"(?<![\w./+-])((?:{ROOTS})(?:\.[a-z_0-9*]+)+)")
OPTION = re.compile(rf"(?<![\w./+-])((?:{ROOTS})(?:/[a-z]+)?)=([a-z]\w*)")


def sentences(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every string with a space in it but for docstrings; what is filled in is a ``*``."""
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            inside.add(id(node.value))  # a docstring
        elif isinstance(node, ast.JoinedStr):
            inside |= {id(value) for value in node.values}
    for node in ast.walk(tree):
        text = ""
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(v.value) if isinstance(v, ast.Constant) else "*" for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            text = node.value
        if " " in text:
            yield node.lineno, text


def keys(config: Any, prefix: str) -> Iterator[str]:
    if isinstance(config, dict):
        for key, value in config.items():
            yield f"{prefix}{key}"
            yield from keys(value, f"{prefix}{key}.")
    elif isinstance(config, list):
        for value in config:
            yield from keys(value, prefix)


@pytest.fixture(scope="module")
def known() -> str:
    """Every key of every YAML file and those of Hydra, a line each."""
    found: set[str] = set()
    for path in CONF.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        groups = () if "@package _global_" in text else path.relative_to(CONF).parts[:-1]
        # what begins with an underscore is a base of entries of these two groups
        for base in ("recon", "data") if path.parent == CONF and path.name.startswith("_") else ():
            found |= set(keys(yaml.safe_load(text), f"{base}."))
        found |= set(keys(yaml.safe_load(text), "".join(f"{group}." for group in groups)))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for override in ("hydra/sweeper=optuna", "hydra/launcher=slurm"):
            config = compose("train", [override], return_hydra_config=True)
            found |= set(keys(OmegaConf.to_container(config, resolve=False), ""))
    return "\n".join(sorted(found))


def complaints(text: str, known: str) -> list[str]:
    patterns = {key: "^" + key.replace(".", r"\.").replace("*", r"\w+") + "$" for key in KEY.findall(text)}
    wrong = [key for key, pattern in patterns.items() if not re.search(pattern, known, re.M)]
    options = OPTION.findall(text)
    return wrong + [f"{group}={name}" for group, name in options if not (CONF / group / f"{name}.yaml").is_file()]


def test_every_key_and_option_of_a_message_is_there(known: str) -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line} {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, text in sentences(ast.parse(path.read_text(encoding="utf-8")))
        for name in complaints(text, known)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("lower data.source.block (now 50)", []),
        ("lower data.block (now 50)", ["data.block"]),
        ("give data.source.files.*=FOLDER", []),
        ("use mask=random_4x, recon=tv or uncertainty=sure", []),
        ("use mask=random_5x", ["mask=random_5x"]),
        ("set hydra.run.dir and +trainer.anything, as in /home/data.block", []),
    ],
)
def test_a_key_that_is_not_there_is_noticed(text: str, wrong: list[str], known: str) -> None:
    assert complaints(text, known) == wrong
