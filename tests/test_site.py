"""The site of ``make docs`` in a browser, and what its pages are made of."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Browser, find

ROOT = Path(__file__).parents[1]
SITE = ROOT / "docs" / "_build" / "html"
TEXTS = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "notebooks").glob("*.py")]
TEXTS = sorted(text for text in TEXTS if not {"generated", "_build"} & set(text.relative_to(ROOT).parts))
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    executable = find()
    if executable is None:
        pytest.skip("no Chromium on the PATH; Debian has it as the package chromium")
    if not (SITE / "index.html").is_file():
        pytest.skip("there is no site; make docs builds it")
    browser = Browser(executable, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_opens_without_an_error_or_a_request_and_fits_the_window(browser: Browser, width: int) -> None:
    browser.problems.clear()
    pages, wide, empty = sorted(SITE.rglob("*.html")), {}, []
    assert len(pages) > 40
    for page in pages:
        browser.open(page, width)
        if (found := browser.run("document.documentElement.scrollWidth")) > width:
            wide[page.name] = found
        broken = browser.run("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
        empty += broken + ([page.name] if browser.run("document.body.innerText.length") < 50 else [])
    assert browser.problems == [] and wide == {} and empty == []


def test_the_search_finds_a_word_of_the_pages(browser: Browser) -> None:
    browser.problems.clear()
    browser.send("Page.navigate", url=(SITE / "search.html").as_uri() + "?q=ESPIRiT")
    found = "[...document.querySelectorAll('#search-results li a')].map(a => a.getAttribute('href').split('?')[0])"
    wait = f"for (let i = 0; i < 500 && {found}.length < 2; i++) await new Promise(r => setTimeout(r, 20));"
    assert len(browser.run(f"(async () => {{ {wait} return {found}; }})()")) >= 2  # they come one after another
    assert browser.problems == []


def test_every_relative_link_of_the_documentation_leads_somewhere() -> None:
    assert len(TEXTS) > 20
    broken = []
    for text in TEXTS:
        prose = text.read_text(encoding="utf-8")
        if text.suffix == ".py":  # cells of text are comments
            prose = "\n".join(line for line in prose.splitlines() if line.startswith("# "))
        for target, anchor in LINK.findall(prose):
            path = (text.parent / target).resolve() if target else text
            if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
                broken.append(f"{text.relative_to(ROOT)}: {target}#{anchor}")
    assert broken == []


def anchors(path: Path) -> set[str]:
    """The anchors that a code host gives to the headings of a file."""
    code = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> object:
    pytest.importorskip("sphinx", reason="make docs installs Sphinx")
    monkeypatch.setattr(sys, "path", [str(ROOT / "docs" / "_ext"), *sys.path])
    import pages

    return pages


def test_links_of_a_code_host_become_those_of_the_site(pages: object) -> None:
    docs, linked = ROOT / "docs", pages.linked  # type: ignore[attr-defined]
    page = docs / "data.md"
    text = (
        "[a](training.md#x) [b](../CONTRIBUTING.md) [c](#here) [d](https://x.org/a.md) [e](../notebooks) "
        "[f](../src/spinwarp/recon) [g](../src)"
    )
    assert linked(text, page, page) == (
        "[a](training.md#x) [b](generated/contributing.md) [c](#here) [d](https://x.org/a.md) "
        "[e](generated/chapters/index.md) [f](generated/api/spinwarp.recon.rst) [g]{.elsewhere}"
    )
    chapter = ROOT / "notebooks" / "01.ipynb"
    assert linked("[a](../docs/data.md)", chapter, docs / "generated" / "chapters" / "01.ipynb") == "[a](../../data.md)"
    assert linked("[a](no.md)", page, page) == "[a](no.md)"  # the build warns of it


def test_docstrings_are_plain_text_and_what_follows_a_parameter_is_no_type(pages: object) -> None:
    from api import plain

    lines = ["``|x|`` and |A x|", "", "Parameters", "----------", "x, y : two * values", "    of them."]
    plain(None, "class", "name", None, None, lines)
    assert lines == [
        "``|x|`` and \\|A x\\|",
        "",
        "Parameters",
        "----------",
        "x, y",
        "    two \\* values",
        "    of them.",
    ]


def test_formulas_that_docutils_misreads_are_mended(pages: object) -> None:
    from docutils.utils.math import MathError
    from maths import mathml

    assert mathml(r"\tfrac12 x") == mathml(r"\tfrac{1}{2} x")
    assert mathml(r"\Big( x \Big)") == mathml("( x )")
    assert "\\" not in mathml(r"\operatorname{arg\,min}_x f(x)")
    assert '<msup><mo stretchy="false">‖</mo><mn>2</mn></msup>' in mathml(r"\| x \|^2")
    assert "munder" not in mathml(r"\hat x_i + \tilde{x}^2_j + \hat\theta_k") and mathml(r"\hat x y_i") == mathml(
        r"\hat{x} y_i"
    )
    with pytest.raises(MathError):
        mathml(r"\nosuchcommand")
