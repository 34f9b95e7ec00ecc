"""The comparison of methods on simulated heads: a run that resumes, its table and its figure."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import comparison

SMALL = ("data.source.matrices=[[48,40]]", "data.source.coils=[4]", "data.source.n_test=13", "data.source.snr=[80,80]")


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    y, x = np.linspace(-1, 1, 96)[:, None], np.linspace(-1, 1, 80)
    for name in ("1", "1901", *map(str, range(2201, 2214))):  # one to train, one to validate, 13 for tests
        head = np.where(x**2 / 0.5 + y**2 / 0.7 < 1, 150 + 60 * np.sin(9 * x + int(name)) * np.cos(7 * y), 3)
        (tmp_path / "heads").mkdir(exist_ok=True)
        Image.fromarray(head.astype(np.uint8)).save(tmp_path / "heads" / f"{name}.png")
    original = comparison.source_of
    monkeypatch.setattr(comparison, "source_of", lambda args, path, *more: original(args, path, *more, *SMALL))
    monkeypatch.setattr(comparison, "DRAWN", ("2201", "2213"))
    return [str(tmp_path / "out"), "--heads", str(tmp_path / "heads")]


def run(*options: str) -> int:
    with pytest.raises(SystemExit) as ended:
        comparison.main(options)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def results(tmp_path: Path, method: str) -> list[dict]:
    found: list[dict] = json.loads((tmp_path / "out" / f"{method}.json").read_text())
    return found


def test_a_folder_may_have_any_name(options: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "the heads, (all) = [it's]"
    (tmp_path / "heads").rename(folder)
    assert run(options[0], "--heads", str(folder)) == 0
    assert len(results(tmp_path, "zero_filled")) == 2


def test_a_run_goes_on_where_it_stopped_and_draws(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(*options) == 0
    zeros = results(tmp_path, "zero_filled")
    assert [(row["scan"], row["rate"]) for row in zeros] == [("2201", 4), ("2213", 8)]
    sense = ["--method", "CG-SENSE", "maps=espirit", "recon=cg_sense"]
    assert run(*options, *sense) == 0
    assert results(tmp_path, "zero_filled") == zeros
    first = results(tmp_path, "CG_SENSE")
    assert first[0]["psnr"] > zeros[0]["psnr"] + 1  # four coils at 4x
    monkeypatch.chdir(tmp_path)  # another name of the same folder is no other data
    assert run(options[0], "--heads", "heads", *sense) == 0
    assert results(tmp_path, "CG_SENSE") == first
    assert run(*options, *sense, "recon.weight=0.5") == 0
    (again, _) = results(tmp_path, "CG_SENSE")
    assert again["psnr"] != first[0]["psnr"]
    assert run(*options, "--draw", "CG-SENSE") == 0
    assert f"| heads, 4x | 1 | **{again['psnr']:.2f}** (" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "comparison.webp") as picture:
        assert picture.format == "WEBP"
    assert run(*options, "--draw", "CG-SENSE", "TV") == 2
    assert "TV was not run on heads_0_4x" in capsys.readouterr().err


def test_a_method_that_fails_does_not_stop_the_others(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = ["--method", "sense", "recon=cg_sense", "recon.maps=given"]  # but none are
    assert run(*options, *failing, "--method", "TV", "recon=tv", "recon.weight=0.01") == 1
    assert len(results(tmp_path, "TV")) == 2
    assert "sense, heads_0_4x: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["TV"], "TV takes recon=METHOD"),
        (["TV", "recon=tv", "data.maps=espirit"], "TV takes recon=METHOD"),
        (["TV", "recon=tv", "maps=foo"], "maps= of TV is one of"),
        (["zero filled", "recon=tv"], "differ in letters"),
    ],
)
def test_wrong_methods_end_in_a_sentence_before_anything_runs(
    more: list[str], message: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*options, "--method", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_ends_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tmp_path / "out"), "--heads", str(tmp_path / "no")) == 2
    assert f"there is no folder {tmp_path / 'no'}" in capsys.readouterr().err


def test_the_best_mean_is_bold_and_intervals_and_missing_slices_are_named() -> None:
    def row(method: str, psnr: float, covered: float | None = None) -> dict:
        return {"method": method, "group": "heads", "rate": 4, "psnr": psnr, "ssim": 0.5, "covered": covered}

    rows = [
        row("tv", 30.0),
        row("tv", 31.0),
        row("posterior", 31.0, 0.8),
        row("posterior", 33.0, 0.9),
        row("net", 40.0),
    ]
    wanted = "| heads, 4x | 2 | 30.50 (.500) | **32.00** (.500), covers 85 % | 40.00 (.500), 1 of 2 slices | not run |"
    assert wanted in comparison.table(rows, ["tv", "posterior", "net", "other"])
