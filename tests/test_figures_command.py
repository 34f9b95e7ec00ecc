"""``python -m spinwarp.figures``: result folders in, one table and its figures out."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spinwarp.errors import InputError
from spinwarp.figures.__main__ import main
from spinwarp.results import (
    CALIBRATION,
    EXAMPLES,
    RESULTS,
    CalibrationCurves,
    ExampleSlice,
    Row,
    VolumeCurves,
    read_examples,
    read_rows,
    write_calibration,
    write_examples,
    write_reconstruction,
    write_rows,
)
from spinwarp.results.comparison import compare


def rows(method: str, quality: float, **values: object) -> list[Row]:
    numbers = np.random.default_rng(0).normal(size=6)
    base = Row(method, "knee", "val", "simulated", "equispaced_4x", 4.0, 3.7, "", 2, "rss", "48x40", 0, 0, 0, 0.1, "ab")
    return [
        dataclasses.replace(
            base,
            volume=f"file{i}.h5",
            nmse=0.1 / quality + 0.01 * x**2,
            psnr=30 + quality + x,
            ssim=0.9 + x / 100,
            **values,
        )
        for i, x in enumerate(numbers)
    ]


def write_folder(folder: Path, method: str, quality: float, n_slices: int = 2, **values: object) -> Path:
    target = np.linspace(0, 1, 48 * 40, dtype=np.float32).reshape(48, 40) ** 2
    write_rows(folder / RESULTS, rows(method, quality, **values))
    numbers = {"data_range": float(target.max()), "nmse": 0.1, "psnr": 30.0, "ssim": 0.9, "acceleration": 3.7}
    image = target + np.roll(target, 3, axis=1) / (2 + quality)
    examples = [
        ExampleSlice("file0.h5", i, method, target, image, provenance="simulated", mask=np.eye(1, 48) > 0, **numbers)
        for i in range(n_slices)
    ]
    write_examples(folder / EXAMPLES, examples)
    return folder


def test_the_command_joins_folders_into_a_table_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folders = [write_folder(tmp_path / n, m, q) for n, m, q in (("a", "tv", 1), ("b", "tv", 2), ("c", "varnet", 5))]
    assert main([*map(str, folders), "--out", str(tmp_path / "out"), "--slices", "1"]) == 0
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {RESULTS, "results.md", "distribution.png", "knee_val_equispaced_4x_file0_000.png"}
    assert {row.method for row in read_rows(tmp_path / "out" / RESULTS)} == {"tv (a)", "tv (b)", "varnet"}
    assert "varnet" in (tmp_path / "out" / "results.md").read_text()
    out, err = capsys.readouterr()
    assert "tv (b)" in out and "1 more slice with --slices 2" in out and err == ""


def test_figures_name_methods_in_words_and_what_is_special_of_a_slice_in_the_title(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    drawing = sys.modules["spinwarp.figures.draw"]  # the function hides its module
    monkeypatch.setattr(drawing, "save", lambda figure, _: figures.append(figure))
    folders = [write_folder(tmp_path / m, m, q, n_slices=1) for m, q in (("zero_filled", 1), ("tv", 2), ("mine", 3))]
    drawing.draw(compare(folders), tmp_path / "out")
    for figure in figures:
        shown = {text.get_text() for text in figure.texts}
        assert {"zero-filled", "total variation", "mine"} <= shown
    first = {text.get_text() for text in figures[0].texts}
    assert {"equispaced_4x, R\u00a0=\u00a03.70: file0, slice\u00a00", "knee val, simulated"} <= first
    # a method of the user's own may have the name
    other = write_folder(tmp_path / "other", "total variation", 2, n_slices=1)
    drawing.draw(compare([*folders, other]), tmp_path / "out")
    assert {"zero_filled", "tv", "total variation"} <= {text.get_text() for text in figures[-1].texts}


def test_the_table_may_be_split_by_the_contrast(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folders = [str(write_folder(tmp_path / name, name, 1, contrast="AXT2")) for name in ("tv", "varnet")]
    assert main([*folders, "--out", str(tmp_path / "out"), "--by", "contrast", "--slices", "0"]) == 0
    assert "contrast AXT2" in capsys.readouterr().out
    assert "contrast AXT2" in (tmp_path / "out" / "results.md").read_text()


def test_predicted_deviations_reach_the_table_and_the_figures(tmp_path: Path) -> None:
    plain = write_folder(tmp_path / "a", "tv", 1, n_slices=1)
    predicting = write_folder(tmp_path / "b", "dps", 2, n_slices=1, coverage=0.9, error_correlation=0.5)
    figure = "knee_val_equispaced_4x_file0_000.png"
    heights = []
    for name in ("without", "with"):
        assert main([str(plain), str(predicting), "--out", str(tmp_path / name)]) == 0
        with Image.open(tmp_path / name / figure) as picture:
            heights.append(picture.height)
        examples = read_examples(predicting / EXAMPLES)
        write_examples(predicting / EXAMPLES, [dataclasses.replace(e, std=0.1 * e.target) for e in examples])
    assert heights[1] > heights[0]  # by the row of deviations
    assert "| cov. | ECE | spars |" in (tmp_path / "with" / "results.md").read_text()
    assert [row.coverage for row in read_rows(tmp_path / "with" / RESULTS)][6:] == [0.9] * 6


def test_the_command_ends_with_one_sentence_where_the_input_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    good = str(write_folder(tmp_path / "a", "tv", 1))
    other = str(write_folder(tmp_path / "b", "varnet", 1, crop="9x9"))
    images = tmp_path / "c"
    write_reconstruction(images, "scan", np.ones((1, 8, 8), np.float32))
    out = ["--out", str(tmp_path / "out")]
    for arguments, message in [
        ([good, other, *out], "differ in crop"),
        ([str(tmp_path / "none"), *out], "none/results.csv does not exist"),
        ([str(images), *out], "side: python -m spinwarp.report FOLDER FOLDER --out report.html"),
        ([good, "--out", good], "one of the result folders"),
        ([good, "--out", f"{good}/{RESULTS}"], "is a file"),
        ([good, *out, "--slices", "-1"], "--slices is -1"),
    ]:
        assert main(arguments) == 1
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_separate_groups_are_warned_of_and_drawn_apart(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = write_folder(tmp_path / "a", "tv", 1, n_slices=1)
    second = write_folder(tmp_path / "b", "tv", 2, n_slices=1, mask="random", acceleration_nominal=8.0)
    assert main([str(first), str(second), "--out", str(tmp_path / "out")]) == 0
    assert "warning: no two folders" in capsys.readouterr().err
    names = {p.name for p in (tmp_path / "out").glob("knee*")}
    assert names == {"knee_val_equispaced_4x_file0_000.png", "knee_val_random_8x_file0_000.png"}


def test_help_needs_neither_matplotlib_nor_torch() -> None:
    code = (
        "import sys\nfrom spinwarp.figures.__main__ import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n"
        "    assert not {'matplotlib', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "--slices" in done.stdout


def test_calibrations_of_compared_folders_are_drawn_by_group_under_the_names_of_the_table(tmp_path: Path) -> None:
    numbers = {"coverage": 0.9, "error_correlation": 0.5}
    volume = VolumeCurves("file0.h5", 4, [0.5], [0.4], [1.0], [1.0], [1.0], [2, 2], [4, 0])
    for name in ("a", "b"):
        folder = write_folder(tmp_path / name, "dps", 2, n_slices=1, **numbers)
        curves = CalibrationCurves("dps", "knee", "val", "equispaced_4x", 4.0, [0.5], [0.0], [1.0], [volume])
        write_calibration(folder / CALIBRATION, curves)
        examples = read_examples(folder / EXAMPLES)
        write_examples(folder / EXAMPLES, [dataclasses.replace(e, std=0.1 * e.target) for e in examples])
    silent = write_folder(tmp_path / "c", "tv", 2, n_slices=1)
    folders = [tmp_path / "a", tmp_path / "b", silent]
    assert list(compare(folders).calibrations.popitem()[1]) == ["dps (a)", "dps (b)"]
    assert main([*map(str, folders), "--out", str(tmp_path / "out")]) == 0
    figure = "knee_val_equispaced_4x_file0_000"
    assert {p.name for p in (tmp_path / "out").glob("*.png")} == {
        "distribution.png", "reliability_knee_val_equispaced_4x.png", f"{figure}.png", f"{figure}_uncertainty.png",
    }  # fmt: skip
    write_calibration(silent / CALIBRATION, curves)
    with pytest.raises(InputError, match=r"calibration\.json of c is of dps on knee .* results\.csv lacks"):
        compare(folders)
