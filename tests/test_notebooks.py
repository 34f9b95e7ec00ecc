import runpy
import warnings
from pathlib import Path

import jupytext
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path) -> None:
    runpy.run_path(str(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_and_its_twin_hold_the_same_cells(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbformat's own deprecations
        script, twin = jupytext.read(path), jupytext.read(path.with_suffix(".ipynb"))
    assert [c["source"] for c in script.cells] == [c["source"] for c in twin.cells], "run make notebooks"
