"""Which result folders may be compared, and what the user reads about the others."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from spinwarp.errors import InputError
from spinwarp.results import EXAMPLES, RESULTS, ExampleSlice, Row, write_examples, write_rows
from spinwarp.results.comparison import compare

ROW = Row(
    method="varnet",
    dataset="knee",
    split="val",
    provenance="simulated",
    mask="equispaced_4x",
    acceleration_nominal=4.0,
    acceleration=3.72,
    volume="file1.h5",
    n_slices=3,
    target_type="rss",
    crop="32x24",
    nmse=0.1 / 3,
    psnr=31.25,
    ssim=0.875,
    seconds_per_slice=0.25,
    input_sha256="0123456789abcdef",
)


def change(**values: object) -> Row:
    return dataclasses.replace(ROW, **values)


def example(method: str = "varnet", volume: str = "file1.h5", index: int = 1, scale: float = 1.0) -> ExampleSlice:
    target = np.linspace(0, 1, 32 * 24, dtype=np.float32).reshape(32, 24)
    numbers = {"data_range": 1.0, "nmse": 0.1, "psnr": 30.0, "ssim": 0.9, "acceleration": 3.72}
    mask = np.arange(24)[None] % 4 == 0
    return ExampleSlice(volume, index, method, target, target * scale, provenance="simulated", mask=mask, **numbers)


def write_folder(folder: Path, rows: list[Row], examples: list[ExampleSlice]) -> Path:
    write_rows(folder / RESULTS, rows)
    write_examples(folder / EXAMPLES, examples)
    return folder


def test_folders_are_compared_and_a_repeated_method_gets_the_name_of_its_folder(tmp_path: Path) -> None:
    folders = [write_folder(tmp_path / n / "eval", [ROW], [example()]) for n in ("first", "second")]
    folders.append(write_folder(tmp_path / "tv", [change(method="tv")], [example("tv"), example("tv", index=2)]))
    comparison = compare(folders)
    names = ["varnet (first/eval)", "varnet (second/eval)", "tv"]
    assert [row.method for row in comparison.rows] == names
    assert [(p.volume, p.slice, list(p.examples)) for p in comparison.pictures] == [("file1.h5", 1, names)]
    assert comparison.warnings == []


def test_methods_with_and_without_a_standard_deviation_may_be_compared(tmp_path: Path) -> None:
    prediction = np.full((32, 24), 0.5, np.float32)
    silent = write_folder(tmp_path / "tv", [change(method="tv")], [example("tv")])
    predictions = [change(coverage=0.9, error_correlation=0.5)]
    predicting = write_folder(tmp_path / "dps", predictions, [dataclasses.replace(example(), std=prediction)])
    comparison = compare([silent, predicting])
    assert [row.coverage for row in comparison.rows][1] == 0.9
    (picture,) = comparison.pictures
    assert picture.examples["tv"].std is None
    np.testing.assert_array_equal(picture.examples["varnet"].std, prediction)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (change(method="tv", crop="16x16"), "differ in crop of volume file1.h5: 32x24 and 16x16"),
        (change(method="tv", target_type="esc"), "differ in target type"),
        (change(method="tv", n_slices=2), "differ in number of slices"),
        (change(method="tv", input_sha256="f" * 16), "differ in input hash"),
        (change(method="tv", volume="b"), "cover different volumes"),
    ],
)
def test_methods_measured_by_different_protocols_are_not_compared(tmp_path: Path, other: Row, message: str) -> None:
    write_rows(tmp_path / "a" / RESULTS, [ROW])
    write_rows(tmp_path / "b" / RESULTS, [other])
    with pytest.raises(InputError, match=message):
        compare([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize("field", ["dataset", "mask", "split", "acceleration_nominal"])
def test_folders_of_separate_groups_are_read_with_a_warning(tmp_path: Path, field: str) -> None:
    other = change(**{field: 8.0 if field == "acceleration_nominal" else "other"})
    write_folder(tmp_path / "a", [ROW], [example()])
    write_folder(tmp_path / "b", [other], [example()])
    comparison = compare([tmp_path / "a", tmp_path / "b"])
    assert [row.method for row in comparison.rows] == ["varnet", "varnet"]
    assert len(comparison.pictures) == 2
    assert any("nothing is compared" in warning for warning in comparison.warnings)


def test_what_a_folder_lacks_is_said(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", [ROW], [example()])
    write_rows(tmp_path / "b" / RESULTS, [change(method="tv")])
    assert any(
        "examples.h5 does not exist" in warning for warning in compare([tmp_path / "a", tmp_path / "b"]).warnings
    )
    write_examples(tmp_path / "b" / EXAMPLES, [example("tv", index=7)])
    comparison = compare([tmp_path / "a", tmp_path / "b"])
    assert comparison.pictures == [] and any("no example slice in common" in warning for warning in comparison.warnings)
    with pytest.raises(InputError, match=r"c.results\.csv does not exist"):
        compare([tmp_path / "a", tmp_path / "c"])
    write_rows(tmp_path / "b" / RESULTS, [])
    with pytest.raises(InputError, match="holds no volume"):
        compare([tmp_path / "b"])


def test_a_folder_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", [ROW, ROW], [example()])
    with pytest.raises(InputError, match="twice"):
        compare([tmp_path / "a"])
    write_folder(tmp_path / "a", [ROW], [example("tv")])
    with pytest.raises(InputError, match="csv lacks"):
        compare([tmp_path / "a"])
    with pytest.raises(InputError, match="given twice"):
        compare([tmp_path / "a", tmp_path / "b" / ".." / "a"])


def test_examples_with_different_targets_are_not_shown_together(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", [ROW], [example()])
    other = example("tv")
    write_folder(tmp_path / "b", [change(method="tv")], [dataclasses.replace(other, target=other.target * 2)])
    with pytest.raises(InputError, match="different targets"):
        compare([tmp_path / "a", tmp_path / "b"])
