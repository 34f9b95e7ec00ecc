"""The result files and the table made of them."""

import dataclasses
import math
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from rich.console import Console

from spinwarp.errors import InputError
from spinwarp.files import atomic_write
from spinwarp.results import (
    EXAMPLES,
    RESULTS,
    ExampleSlice,
    Row,
    group_of,
    markdown_table,
    read_examples,
    read_reconstruction,
    read_rows,
    read_target,
    summarise,
    table,
    write_examples,
    write_reconstruction,
    write_rows,
    write_target,
)

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
    coverage=0.9375,  # set, since nan would make a row differ from itself
    error_correlation=0.1 + 0.2,
    coverage_50=0.5,
    coverage_80=0.75,
    coverage_90=0.875,
    coverage_95=1 / 3,
    calibration_error=0.0625,
    sparsification=0.625,
    sparsification_oracle=0.25,
    intensity_calibration_error=0.125,
    intensity_sparsification=0.75,
    intensity_correlation=0.375,
    ssim_foreground=0.8125,
    contrast="AXT2",
    selection="",
)
NUMBERS = [f.name for f in dataclasses.fields(Row) if f.default is not dataclasses.MISSING and f.type is float]
SILENT = {name: math.nan for name in NUMBERS if name != "ssim_foreground"}


def change(**values: object) -> Row:
    return dataclasses.replace(ROW, **values)


def example(method: str = "varnet", volume: str = "file1.h5", index: int = 1, scale: float = 1.0) -> ExampleSlice:
    target = np.linspace(0, 1, 32 * 24, dtype=np.float32).reshape(32, 24)
    numbers = {"data_range": 1.0, "nmse": 0.1, "psnr": 30.0, "ssim": 0.9, "acceleration": 3.72}
    mask = np.arange(24)[None] % 4 == 0
    return ExampleSlice(volume, index, method, target, target * scale, provenance="simulated", mask=mask, **numbers)


def test_rows_come_back_bit_for_bit(tmp_path: Path) -> None:
    rows = [ROW, change(volume='a, "quoted"\nname', psnr=math.inf, n_slices=12), change(volume="", ssim=-1e-300)]
    write_rows(tmp_path / "new" / RESULTS, rows)
    assert read_rows(tmp_path / "new" / RESULTS) == rows


def test_numpy_numbers_are_written_as_plain_ones(tmp_path: Path) -> None:
    write_rows(tmp_path / RESULTS, [change(nmse=np.float64(0.25), n_slices=np.int64(3), psnr=np.float32(2))])
    assert "np." not in (tmp_path / RESULTS).read_text()
    assert read_rows(tmp_path / RESULTS)[0] == change(nmse=0.25, psnr=2.0)


def test_a_nominal_acceleration_that_is_unknown_stays_nan(tmp_path: Path) -> None:
    write_rows(tmp_path / RESULTS, [change(acceleration_nominal=math.nan)])
    assert math.isnan(read_rows(tmp_path / RESULTS)[0].acceleration_nominal)


def test_a_file_of_an_older_version_may_lack_what_came_later(tmp_path: Path) -> None:
    write_rows(tmp_path / RESULTS, [ROW])
    lines = (tmp_path / RESULTS).read_text().splitlines()
    names = lines[0].split(",")
    later = names[names.index("version") + 1 :]
    assert later[:3] == ["coverage", "error_correlation", "coverage_50"] and len(later) == 16
    (tmp_path / RESULTS).write_text("".join(line.rsplit(",", 16)[0] + "\n" for line in lines))
    (row,) = read_rows(tmp_path / RESULTS)
    assert all(math.isnan(getattr(row, name)) for name in NUMBERS) and row.contrast == row.selection == ""
    assert "SSIM fg" not in markdown_table([row])
    assert dataclasses.replace(row, **{name: getattr(ROW, name) for name in later}) == ROW


def test_a_column_of_a_later_version_is_left_out(tmp_path: Path) -> None:
    write_rows(tmp_path / RESULTS, [ROW])
    header, line = (tmp_path / RESULTS).read_text().splitlines()
    (tmp_path / RESULTS).write_text(f"{header},lpips\n{line},0.5\n")
    assert read_rows(tmp_path / RESULTS) == [ROW]


def test_what_pandas_and_spreadsheets_write_again_is_read(tmp_path: Path) -> None:
    write_rows(tmp_path / RESULTS, [change(acceleration_nominal=math.nan)])
    text = (tmp_path / RESULTS).read_text().replace(",nan,", ",,")
    (tmp_path / RESULTS).write_text(f"\ufeff{text}", encoding="utf-8")
    (row,) = read_rows(tmp_path / RESULTS)
    assert math.isnan(row.acceleration_nominal) and row.method == "varnet"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("equispaced_4x", "equispaced, 4x", "line 2 of .* more cells than the header"),
        ("provenance", "split", "has the column split twice"),
        ("psnr,", "", "has no column psnr"),
        ("31.25", "high", "line 2 of .* psnr is 'high', expected a number"),
        (",3,rss", ",3.5,rss", "n_slices is '3.5', expected a whole number"),
        ("0.875,0.25,", "0.875\n", "seconds_per_slice is None, expected a number"),
    ],
)
def test_a_broken_table_is_named_with_its_fault(tmp_path: Path, old: str, new: str, message: str) -> None:
    write_rows(tmp_path / RESULTS, [ROW])
    (tmp_path / RESULTS).write_text((tmp_path / RESULTS).read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        read_rows(tmp_path / RESULTS)


def test_a_file_that_is_missing_or_not_text_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"results\.csv does not exist"):
        read_rows(tmp_path / RESULTS)
    (tmp_path / RESULTS).write_bytes(b"\x89HDF\r\n\xff\xfe")
    with pytest.raises(InputError, match="cannot be read as a table"):
        read_rows(tmp_path / RESULTS)
    with pytest.raises(InputError, match="cannot be read as a table"):
        read_rows(tmp_path)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    write_rows(tmp_path / RESULTS, [ROW])
    with pytest.raises(RuntimeError), atomic_write(tmp_path / RESULTS) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == [RESULTS]
    assert read_rows(tmp_path / RESULTS) == [ROW]


@pytest.mark.parametrize("name", ["file1.h5", "file1"])
def test_a_reconstruction_has_the_submission_layout_whatever_its_name(tmp_path: Path, name: str) -> None:
    images = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    assert write_reconstruction(tmp_path, name, images) == tmp_path / "file1.h5"
    with h5py.File(tmp_path / "file1.h5") as file:
        assert list(file) == ["reconstruction"]
        assert file["reconstruction"].dtype == np.float32
        np.testing.assert_array_equal(file["reconstruction"][()], images)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_reconstruction_that_fits_no_submission_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected magnitudes \(slice, h, w\)"):
        write_reconstruction(tmp_path, "a", np.zeros((3, 4)))
    with pytest.raises(InputError, match="complex64"):
        write_reconstruction(tmp_path, "a", np.zeros((2, 3, 4), np.complex64))
    with pytest.raises(InputError, match="outside"):
        write_reconstruction(tmp_path, "../a", np.zeros((2, 3, 4)))


def test_the_deviation_stands_beside_the_images_and_fits_them(tmp_path: Path) -> None:
    images = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    write_reconstruction(tmp_path, "a", images, images / 8)
    with h5py.File(tmp_path / "a.h5") as file:
        assert sorted(file) == ["reconstruction", "std"]
        assert file["std"].dtype == np.float32
        np.testing.assert_array_equal(file["std"][()], images / 8)
    for bad in (images[:1], images.astype(np.complex64)):
        with pytest.raises(
            InputError, match=r"the standard deviation of b is .* expected real numbers of shape \(2, 3, 4\)"
        ):
            write_reconstruction(tmp_path, "b", images, bad)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_a_reconstruction_comes_back_with_the_half_width_of_its_interval(tmp_path: Path) -> None:
    images = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    found = read_reconstruction(write_reconstruction(tmp_path, "plain", images, slices=[4, 7]))
    np.testing.assert_array_equal(found.images, images)
    assert found.slices == [4, 7] and found.half_width is None and found.interval == ""
    found = read_reconstruction(write_reconstruction(tmp_path, "std", images, images / 8))
    np.testing.assert_array_equal(found.half_width, images / 4)  # type: ignore[arg-type]
    assert found.slices == [0, 1] and found.interval == "2 std"
    found = read_reconstruction(write_reconstruction(tmp_path, "conformal", images, images / 8, (1.5, 0.9)))
    np.testing.assert_allclose(found.half_width, 1.5 * images / 8)  # type: ignore[arg-type]
    assert found.interval == "the 90 % interval"


def test_targets_come_back_as_they_were(tmp_path: Path) -> None:
    images = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    write_target(tmp_path, "a", images, images > 5)
    target, foreground = read_target(tmp_path / "a.h5")
    np.testing.assert_array_equal(target, images)
    np.testing.assert_array_equal(foreground, images > 5)
    with pytest.raises(InputError, match="names a file outside"):
        write_target(tmp_path, "../a", images, images > 5)


@pytest.mark.parametrize("name", ["reconstruction", "target"])
def test_files_of_images_that_are_missing_or_broken_are_input_errors(tmp_path: Path, name: str) -> None:
    read = {"reconstruction": read_reconstruction, "target": read_target}[name]
    with pytest.raises(InputError, match=r"there is no file .*a\.h5"):
        read(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[name] = np.zeros((2, 3, 4), np.float32)
        file["foreground"] = file["std"] = np.zeros((1, 3, 4), np.float32)
    with pytest.raises(InputError, match="differ in"):
        read(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[name] = np.zeros((3, 4), np.float32)
        file["foreground"] = np.zeros((3, 4), bool)
    with pytest.raises(InputError, match=r"of shape \(3, 4\)"):
        read(tmp_path / "a.h5")


def test_examples_come_back_as_they_were_in_the_order_of_slices(tmp_path: Path) -> None:
    plain = dataclasses.replace(example(index=10), mask=None, std=np.full((32, 24), 0.5, np.float32))
    write_examples(tmp_path / EXAMPLES, [plain, example(index=2), example(volume="sub/a", scale=0.5)])
    back = read_examples(tmp_path / EXAMPLES)
    assert [(e.volume, e.slice) for e in back] == [("file1.h5", 2), ("file1.h5", 10), ("sub/a", 1)]
    for found, written in zip(back, [example(index=2), plain, example(volume="sub/a", scale=0.5)], strict=True):
        for field in dataclasses.fields(ExampleSlice):
            ours, theirs = getattr(found, field.name), getattr(written, field.name)
            assert (ours is None) == (theirs is None), field.name
            np.testing.assert_array_equal(ours, theirs)
            assert not isinstance(theirs, np.ndarray) or ours.dtype == theirs.dtype


def test_example_files_that_are_missing_or_broken_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_examples(tmp_path / EXAMPLES)
    (tmp_path / EXAMPLES).write_bytes(b"no HDF5")
    with pytest.raises(InputError, match="not a whole file of example slices"):
        read_examples(tmp_path / EXAMPLES)
    write_examples(tmp_path / EXAMPLES, [example()])
    with h5py.File(tmp_path / EXAMPLES, "a") as file:
        del file["file1.h5/1/target"]
    with pytest.raises(InputError, match="not a whole file of example slices"):
        read_examples(tmp_path / EXAMPLES)


def test_the_summary_holds_mean_and_standard_error_of_each_method_in_each_group() -> None:
    rows = [change(volume=str(i), psnr=p) for i, p in enumerate((30.0, 32.0, 37.0))]
    rows += [change(mask="equispaced_8x", acceleration_nominal=8.0), change(method="tv", acceleration_nominal=math.nan)]
    first, second, third = summarise(rows)
    assert (first.n_volumes, first.psnr.mean) == (3, 33.0)
    assert first.psnr.error == pytest.approx(math.sqrt(13.0 / 3), rel=1e-12)  # variance (9 + 1 + 16) / 2, over n = 3
    assert (second.group, second.n_volumes, second.psnr.error) == (group_of(rows[3]), 1, None)
    assert third.group.nominal == "nan"
    assert second.psnr.text(2) == "31.25"


def test_an_infinite_psnr_does_not_break_the_summary() -> None:
    (summary,) = summarise([change(psnr=math.inf), change(volume="b")])
    assert summary.psnr.mean == math.inf


def test_the_best_mean_of_a_group_is_bold_and_ties_are_shared() -> None:
    rows = [change(method="a", ssim=0.90001), change(method="b", ssim=0.90002, psnr=20.0, nmse=0.5)]
    rows.append(change(method="alone", mask="other"))
    lines = markdown_table(rows).splitlines()
    line = {name: next(li for li in lines if f"| {name} |" in li) for name in ("a", "b", "alone")}
    assert "**31.25** | **0.9000** | **0.0333** | **0.8125** |" in line["a"]
    assert "| 20.00 | **0.9000** | 0.5000 | **0.8125** |" in line["b"]
    assert "**" not in line["alone"]


def test_a_diverged_method_is_never_the_best() -> None:
    lines = markdown_table([change(method="bad", psnr=math.nan), change(method="good")]).splitlines()
    assert "| nan |" in next(li for li in lines if "| bad |" in li)
    assert "**31.25**" in next(li for li in lines if "| good |" in li)


def test_columns_of_claims_appear_with_the_first_claim_and_are_never_bold() -> None:
    silent = [change(method=m, **SILENT) for m in ("tv", "zero-filled")]
    for text in (markdown_table(silent), printed(silent, 120)):
        assert "cov." not in text and "ECE" not in text and "intensity" not in text
    rows = [*silent, change(method="best", coverage=0.954, error_correlation=0.7, psnr=40.0), change(method="dps")]
    lines = markdown_table(rows).splitlines()
    assert "| SSIM fg | s/slice | cov. | ECE | spars |" in lines[2] and lines[3].count("--:") == 9
    assert next(li for li in lines if "| best |" in li).endswith("| 0.25 | 0.95 | 0.06 | 0.62 |")
    assert lines[lines.index(next(li for li in lines if "| best |" in li)) + 1] == (
        "| by intensity |  |  |  |  |  |  | - | 0.12 | 0.75 |"
    )
    assert "**40.00" in next(li for li in lines if "| best |" in li)
    assert next(li for li in lines if "| tv |" in li).endswith("| 0.25 | - | - | - |")
    assert sum("by intensity |" in line for line in lines) == 2
    assert "within 2 std" in markdown_table(rows) and "within 2 std" in printed(rows, 120)


def test_the_mean_of_claims_leaves_out_volumes_where_nothing_was_measured() -> None:
    numbers = [0.25, math.nan, 0.5]
    (summary,) = summarise([change(volume=str(i), coverage=c, sparsification=c) for i, c in enumerate(numbers)])
    assert (summary.n_volumes, summary.coverage.mean, summary.sparsification.mean) == (3, 0.375, 0.375)
    (silent,) = summarise([change(volume=str(i), coverage=math.nan) for i in range(3)])
    assert math.isnan(silent.coverage.mean)


def printed(rows: list[Row], width: int) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table(rows))
    return capture.get()


@pytest.mark.parametrize("claims", [SILENT, {}])
@pytest.mark.parametrize("n_volumes", [1, 2])
def test_the_table_fits_eighty_columns_and_names_the_provenance(claims: dict[str, float], n_volumes: int) -> None:
    methods = ("zero-filled", "x" * 40)
    rows = [
        change(method=m, mask=k, volume=str(i), **claims)
        for k in ("equispaced_4x", "random_8x")
        for m in methods
        for i in range(n_volumes)
    ]
    text = printed(rows, 80)
    assert "provenance simulated" in text and re.search(r"random_\s*8x", text)
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    assert "zero-filled" in text and text.count("x") > 2 * 40  # no name is cut
    assert text.count("0.8750 ±" if n_volumes > 1 else "0.8750") == 4 and "± -" not in text


def test_a_table_says_that_data_without_a_mask_are_as_measured() -> None:
    assert "mask none (as measured), " in markdown_table([change(mask="none", acceleration_nominal=math.nan)])


def test_the_table_is_split_by_the_contrast_where_that_is_asked_for() -> None:
    rows = [
        change(volume=str(i), contrast=c, psnr=p) for i, (c, p) in enumerate([("AXT2", 30), ("", 20), ("AXT2", 32)])
    ]
    whole, split = markdown_table(rows), markdown_table(rows, "contrast")
    assert "27.33 ± " in whole and "contrast" not in whole
    assert "| contrast AXT2, volumes 2 | varnet | 3.72 | 31.00 ± 1.00 |" in split
    assert "| contrast unknown, volumes 1 | varnet | 3.72 | 20.00 |" in split
    assert "contrast AXT2" in markdown_table(rows[:1], "contrast").splitlines()[0]


def test_a_part_of_a_split_is_a_group_of_its_own_and_named() -> None:
    rows = [ROW, change(method="tv", selection="2 of 10 volumes, slices 3 to 4")]
    assert group_of(rows[0]) != group_of(rows[1])
    text = markdown_table(rows)
    assert "| split val (2 of 10 volumes, slices 3 to 4) | tv |" in text and "**" not in text


def test_a_mean_that_leaves_volumes_out_says_so() -> None:
    rows = [change(volume="a"), change(volume="b", ssim_foreground=math.nan), change(volume="c", ssim_foreground=0.5)]
    (summary,) = summarise(rows)
    assert summary.ssim_foreground.mean == (0.8125 + 0.5) / 2 and summary.n_volumes == 3
    assert "leave out volumes" in markdown_table(rows) and "leave out volumes" not in markdown_table(rows[:1])


def test_a_vertical_bar_in_a_name_does_not_break_the_markdown() -> None:
    text = markdown_table([change(method="a|b")])
    assert "a\\|b" in text
