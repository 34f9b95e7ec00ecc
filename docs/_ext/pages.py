"""Pages made from files elsewhere in the repository: chapters, API, CONTRIBUTING and CHANGELOG; and links to them.

All of them go to ``docs/generated``. Links are written for a code host; here they are turned into those of the site.
"""

import io
import json
import os
import re
import shutil
from base64 import b64decode
from pathlib import Path
from typing import Any

from api import plain, write_api
from PIL import Image
from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
SOURCE = ROOT / "src" / "spinwarp"
GENERATED = DOCS / "generated"
CHAPTERS = GENERATED / "chapters"
_THUMBNAIL = (480, 320)
_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]*)(#[^)\s]*)?\)")


def place_of(path: Path) -> Path | None:
    """Return where a file of the repository is on the site; None if it is not there."""
    if path.is_relative_to(DOCS) and path.is_file():
        return DOCS / "index.md" if path == DOCS / "README.md" else path
    if path.parent == ROOT / "notebooks" and path.with_suffix(".ipynb").is_file():
        return CHAPTERS / f"{path.stem}.ipynb"
    if path == ROOT / "notebooks":
        return CHAPTERS / "index.md"
    if path.is_relative_to(SOURCE) and path != SOURCE:
        return GENERATED / "api" / f"spinwarp.{path.relative_to(SOURCE).parts[0]}.rst"
    return {
        ROOT / "README.md": DOCS / "index.md",
        ROOT / "CONTRIBUTING.md": GENERATED / "contributing.md",
        ROOT / "CHANGELOG.md": GENERATED / "changelog.md",
    }.get(path)


def linked(text: str, source: Path, page: Path) -> str:
    """Turn the relative links of ``source`` into those of ``page``; what the site does not have stays as text."""

    def turn(match: re.Match[str]) -> str:
        target = (source.parent / match[1]).resolve() if match[1] else source
        if not target.exists():
            return match[0]  # the build then warns of it
        place = place_of(target)
        if place is None:
            return "]{.elsewhere}"
        return f"]({Path(os.path.relpath(place, page.parent)).as_posix()}{match[2] or ''})"

    return _LINK.sub(turn, text)


def write_pages(app: Sphinx) -> None:
    """Make ``docs/generated`` anew."""
    shutil.rmtree(GENERATED, ignore_errors=True)
    CHAPTERS.mkdir(parents=True)
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        page = GENERATED / name.lower()
        page.write_text(linked((ROOT / name).read_text(encoding="utf-8"), ROOT / name, page), encoding="utf-8")
    cards = [_chapter(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    names = "\n".join(path.stem for path in sorted(CHAPTERS.glob("*.ipynb")))
    (CHAPTERS / "index.md").write_text(
        "# Chapters\n\nNotebooks to read, or to run: `jupyter lab notebooks/`.\n\n"
        ":::::{grid} 1 2 2 3\n:gutter: 3\n\n" + "\n".join(cards) + ":::::\n\n"
        f"```{{toctree}}\n:hidden:\n\n{names}\n```\n",
        encoding="utf-8",
    )
    write_api(GENERATED / "api")


def _chapter(path: Path) -> str:
    """Copy a notebook with its links turned and return its card: title, first picture, first sentence."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    page = CHAPTERS / path.name
    pictures = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            cell["source"] = linked(source, path, page)
        for output in cell.get("outputs", []):
            pictures += [data for kind, data in output.get("data", {}).items() if kind in ("image/png", "image/jpeg")]
    page.write_text(json.dumps(notebook), encoding="utf-8")
    title, _, rest = "".join(notebook["cells"][0]["source"]).partition("\n")
    summary = re.split(r"(?<=[.?!])\s", rest.strip().replace("\n", " "))[0]
    options = f":link: {path.stem}\n:link-type: doc\n"
    if pictures:
        options += f":img-top: {_thumbnail(pictures[0], path.stem)}\n"
    return f"::::{{grid-item-card}} {title.lstrip('# ')}\n{options}\n{summary}\n::::\n"


def _thumbnail(picture: Any, name: str) -> str:
    """Write a small copy of a stored picture and return its name."""
    with Image.open(io.BytesIO(b64decode("".join(picture)))) as image:
        small = image.convert("RGB")
        small.thumbnail(_THUMBNAIL)
        small.save(CHAPTERS / f"{name}.webp", quality=80)
    return f"{name}.webp"


def _turn_links(app: Sphinx, name: str, content: list[str]) -> None:
    """Turn the links of a page as it is read; those of generated pages are turned already."""
    path = Path(app.env.doc2path(name))
    if path.suffix == ".md" and not path.is_relative_to(GENERATED):
        content[0] = linked(content[0], path, path)


def _turn_included(app: Sphinx, relative: Path, name: str, content: list[str]) -> None:
    content[0] = linked(content[0], DOCS / relative, DOCS / relative)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of it."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", _turn_links)
    app.connect("include-read", _turn_included)
    app.connect("autodoc-process-docstring", plain, priority=400)
    return {"parallel_read_safe": True}
