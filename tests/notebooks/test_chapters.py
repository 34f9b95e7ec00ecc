import re
import runpy
import warnings
from pathlib import Path

import jupytext
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

FOLDER = Path(__file__).parents[2] / "notebooks"
CHAPTERS = sorted(FOLDER.glob("[0-9]*.py"))
SHORT = [path for path in CHAPTERS if path.stem in ("01_k_space_to_image", "05_what_ssim_sees")]
DRAWS = re.compile(r"^(?:panel|comparison|uncertainty|reliability)\(|plt\.subplots\(", re.MULTILINE)


def read(path: Path) -> NotebookNode:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbformat's own deprecations
        return jupytext.read(path)


def execute(path: Path) -> NotebookNode:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the Jupyter libraries
        return runpy.run_path(str(FOLDER / "execute.py"))["execute"](path)


def has_picture(cell: NotebookNode) -> bool:
    return any("image/png" in output.get("data", {}) for output in cell.outputs)


def assert_pictures(notebook: NotebookNode) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    without = [cell.source for cell in code if DRAWS.search(cell.source) and not has_picture(cell)]
    assert not without, "these cells draw, but show no picture"
    assert sum(map(has_picture, code)) >= 5


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_and_its_notebook_hold_the_same_cells(path: Path) -> None:
    script, notebook = read(path), read(path.with_suffix(".ipynb"))
    assert [c["source"] for c in script.cells] == [c["source"] for c in notebook.cells], "run make notebooks"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_begins_with_a_title_and_a_summary(path: Path) -> None:
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    title, empty, *summary = first.source.splitlines()
    assert re.match(r"# \S", title) and not empty and summary[0].strip() and not summary[0].startswith("#")


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_stored_outputs_have_a_picture_for_every_cell_that_draws_and_nothing_unwanted(path: Path) -> None:
    notebook = read(path.with_suffix(".ipynb"))
    assert_pictures(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]  # warnings, progress bars
    assert not re.search(r"/(home|root|tmp|work|Users)/", path.with_suffix(".ipynb").read_text()), "a path of a machine"
    assert path.with_suffix(".ipynb").stat().st_size < 800_000


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_asserts_what_it_says(path: Path) -> None:
    source = path.read_text()
    assert len(re.findall(r"^ *assert ", source, re.MULTILINE)) >= 5


def test_all_chapters_are_there_and_together_they_stay_small() -> None:
    assert [path.stem[:2] for path in CHAPTERS] == [f"{number:02d}" for number in range(1, 10)]
    assert sum(path.with_suffix(".ipynb").stat().st_size for path in CHAPTERS) < 5_000_000


@pytest.mark.slow
@pytest.mark.parametrize("path", SHORT, ids=lambda path: path.stem)
def test_a_short_chapter_runs_in_a_fresh_kernel(path: Path) -> None:
    assert_pictures(execute(path))


@pytest.mark.notebooks
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_runs_in_a_fresh_kernel(path: Path) -> None:
    assert_pictures(execute(path))


@pytest.mark.slow
def test_a_claim_that_does_not_hold_fails(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("# %% [markdown]\n# # Wrong\n\n# %%\nassert 1 + 1 == 3\n")
    with pytest.raises(CellExecutionError, match="assert 1 \\+ 1 == 3"):
        execute(wrong)
