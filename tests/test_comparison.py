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
    monkeypatch.setattr(comparison, "FIGURE", (0, 12))
    return [str(tmp_path / "out"), "--heads", str(tmp_path / "heads")]


def test_a_run_goes_on_where_it_stopped_and_draws(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "out" / "results.json"
    comparison.main(options)
    first = json.loads(results.read_text())
    assert [(row["method"], row["slice"], row["rate"]) for row in first] == [
        ("zero-filled", 0, 4),
        ("zero-filled", 12, 8),
    ]
    comparison.main([*options, "--method", "sense", "maps=espirit", "recon=cg_sense"])
    rows = json.loads(results.read_text())
    assert rows[:2] == first
    by_method = {name: [row["psnr"] for row in rows if row["method"] == name] for name in ("zero-filled", "sense")}
    assert by_method["sense"][0] > by_method["zero-filled"][0] + 1  # four coils at 4x
    comparison.main([*options, "--method", "sense", "maps=espirit", "recon=cg_sense", "recon.weight=0.5"])
    again = json.loads(results.read_text())
    assert len(again) == 4 and all(row["run_as"].endswith("recon.weight=0.5: no weights") for row in again[2:])
    by_method["sense"] = [row["psnr"] for row in again[2:]]
    comparison.main([*options, "--draw", "sense"])
    line = f"| heads, 4x | 1 | **{by_method['sense'][0]:.2f}** ("
    assert line in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "comparison.webp") as picture:
        assert picture.format == "WEBP"


def test_the_best_mean_is_bold_and_intervals_are_named() -> None:
    def row(method: str, i: int, psnr: float, covered: float | None = None) -> dict:
        return {"method": method, "set": "heads", "slice": i, "rate": 4, "psnr": psnr, "ssim": 0.5, "covered": covered}

    rows = [row("tv", 0, 30.0), row("tv", 1, 31.0), row("posterior", 0, 31.0, 0.8), row("posterior", 1, 33.0, 0.9)]
    assert "| heads, 4x | 2 | 30.50 (.500) | **32.00** (.500), covers 85 % | not run |" in comparison.table(
        rows, ["tv", "posterior", "other"]
    )
