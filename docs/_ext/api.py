"""The API reference: a page for each public package, from its docstrings."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import spinwarp

PRIVATE = {"cli", "parallel", "lightning_internals", "renamed", "files", "errors"}  # no interface for users


def write_api(folder: Path) -> None:
    """Write a page for each package and one for the modules beside them, and their list."""
    folder.mkdir()
    found = [m for m in pkgutil.iter_modules(spinwarp.__path__, "spinwarp.") if m.name.split(".")[1] not in PRIVATE]
    packages = [m.name for m in found if m.ispkg and m.name != "spinwarp.weights"]
    pages = {"spinwarp": [m.name for m in found if not m.ispkg]}
    pages |= {name: list(_modules(importlib.import_module(name))) for name in packages}
    rows = []
    for name, modules in pages.items():
        parts = [_section(module, name) for module in modules]
        (folder / f"{name}.rst").write_text(f"{name}\n{'=' * len(name)}\n\n" + "\n".join(filter(None, parts)))
        about = (importlib.import_module(name).__doc__ or "").partition("\n")[0]
        rows.append(f"| [{name}]({name}.rst) | {about} |")
    listed = "\n".join(pages)
    (folder / "index.md").write_text(
        "# API reference\n\nWhatever a file in `conf/` names is a class or a function of these packages.\n\n"
        "| package | content |\n|:--|:--|\n" + "\n".join(rows) + f"\n\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"
    )


def _modules(package: ModuleType) -> list[str]:
    """Return a package and all modules below it, the package first."""
    below = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return [package.__name__, *(m.name for m in below if not m.name.endswith("__main__"))]


def _section(name: str, page: str) -> str:
    """Return the part of a module on a page; empty if the package itself shows all that it defines."""
    module = importlib.import_module(name)
    shown = set() if name == page else set(getattr(importlib.import_module(page), "__all__", ()))
    own = getattr(module, "__all__", None) or [
        key for key, value in vars(module).items()
        if not key.startswith("_") and getattr(value, "__module__", None) == name and inspect.getdoc(value)
    ]  # fmt: skip
    members = [key for key in own if key not in shown]
    if name != page and not members:
        return ""
    title = "" if name == page else f"{name}\n{'-' * len(name)}\n\n"
    if name.rpartition(".")[2] in shown:  # a function has the name of its module
        kinds = {key: "class" if inspect.isclass(getattr(module, key)) else "function" for key in members}
        return title + "\n".join(f".. auto{kind}:: {name}.{key}" for key, kind in kinds.items()) + "\n"
    options = f"   :members: {', '.join(members)}\n" if members else ""
    return f"{title}.. automodule:: {name}\n{options}"


def plain(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Turn a docstring into what Napoleon reads.

    It is plain text with ``code`` and :roles:, so ``|x|`` and ``a * b`` are no markup. Below ``Parameters``, what
    follows the colon says what the value is, and is no type.
    """
    code = re.compile(r"(``.*?``|:[\w:]+:`[^`]*`)")
    section, result = "", []
    for i, line in enumerate(lines):
        parts = code.split(line)
        parts[::2] = [re.sub(r"([|*]|\b_|_\b)", r"\\\1", part) for part in parts[::2]]
        line = "".join(parts)
        if i + 1 < len(lines) and re.fullmatch("-{3,}", lines[i + 1]):
            section = line
        names, colon, text = line.partition(" : ")
        if section in ("Parameters", "Attributes", "Raises") and colon and not line.startswith(" "):
            result += [names, f"    {text}"]
        elif section == "References" and line and line[0] not in " -":
            result.append(line if line == section else f"- {line}")
        else:
            result.append(line)
    lines[:] = result
