"""Part of a split evaluated by evaluate.py: it is named everywhere, and a method that fails keeps what was finished."""

from pathlib import Path

import pytest
from command_calls import Command
from failing import EVALUATE, failing, images

from spinwarp.results import read_rows


def test_part_of_a_split_is_evaluated_and_named_everywhere(command: Command, tmp_path: Path) -> None:
    done = command("evaluate", *EVALUATE, "n_volumes=2", "slices=[1]", "out=part", "by=contrast")
    assert done.code == 0, done.err
    assert "split test (2 of 3 volumes, slices 1)" in done.out and "contrast T1" in done.out
    rows = read_rows(tmp_path / "part" / "results.csv")
    assert [row.volume[-7:-3] for row in rows] == ["0000", "0001"]
    assert {(row.split, row.selection, row.n_slices, row.crop) for row in rows} == {
        ("test", "2 of 3 volumes, slices 1", 1, "48x48")
    }
    assert all(row.contrast for row in rows)
    assert images(tmp_path / "part" / "reconstructions" / rows[0].volume)[1] == [1]
    assert len({row.volume for row in rows}) == 2
    # nothing was left out: the whole, whatever is asked for
    done = command("evaluate", *EVALUATE, "n_volumes=9", "slices=:8", "out=whole", "crop=none")
    whole = read_rows(tmp_path / "whole" / "results.csv")
    assert {(row.selection, row.n_slices, row.crop) for row in whole} == {("", 2, "64x48")}
    # the whole is not mixed with the part, nor one method with another; the same call may be repeated
    for other in (["slices=[1]"], ["n_volumes=2"], ["n_volumes=2", "slices=[1]", "method=new"]):
        assert (
            "part holds results of zero_filled on phantom"
            in command("evaluate", *EVALUATE, *other, "out=part").sentence
        )
    assert command("evaluate", *EVALUATE, "n_volumes=2", "slices=[1]", "out=part").code == 0
    # images without a row are of a run that failed early: its own, or another's
    (tmp_path / "part" / "results.csv").unlink()
    assert command("evaluate", *EVALUATE, "n_volumes=2", "slices=[1]", "out=part").code == 0
    (tmp_path / "part" / "results.csv").unlink()
    assert "part holds images of something else" in command("evaluate", *EVALUATE, "out=part").sentence


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["n_volumes=0"], "n_volumes=0 must be at least 1"),
        (["slices=[0,5]"], "no volume has slices=[0, 5]; the longest has slices 0 to 1"),
        (["crop=square"], "crop=square is not fastmri or none"),
        (["by=colour"], "by=colour is not contrast or null"),
    ],
)
def test_a_selection_that_cannot_be_is_told(command: Command, overrides: list[str], message: str) -> None:
    assert message in command("evaluate", *EVALUATE, *overrides, "out=r").sentence


@pytest.mark.parametrize("error", ["diverged", "memory"])
def test_an_evaluation_that_fails_keeps_the_slices_before(command: Command, tmp_path: Path, error: str) -> None:
    assert command("evaluate", *EVALUATE, "slices=[0,1]", *failing(error), "out=r").code == 1
    (row,) = read_rows(tmp_path / "r" / "results.csv")
    assert row.n_slices == 2  # of the first volume; the first slice of the second failed
