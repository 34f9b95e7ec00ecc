"""The script that draws the figures of the documentation, on a scan of a few pixels."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from spinwarp.fourier import fftc

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("article_figures", ROOT / "benchmarks" / "article_figures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["article_figures"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_row_shows_target_images_and_errors_in_one_window(figures: ModuleType, tmp_path: Path) -> None:
    image = torch.zeros(2, 12, 10, dtype=torch.complex64)
    image[0, 3:9, 2:8], image[1, 3:9, 2:8] = 3, 4j  # their root sum of squares is 5
    scan = figures.scan_of(fftc(image), "a square")
    assert np.allclose(scan.target[3:9, 2:8], 5, atol=1e-5) and np.allclose(scan.target[:3], 0, atol=1e-5)
    wrong = scan.target + np.float32(0.5)  # a tenth of the largest value, so 20 dB
    row, below = figures.compared(scan, {"tv": wrong}, errors=4)
    assert [title for title, _, _ in row] == ["fully sampled\n", "tv\n20.0 dB"]
    assert row[0][2] == row[1][2] == pytest.approx(figures.WINDOW * 5, rel=1e-5)
    assert np.allclose(below[1][1], 2, atol=1e-5)  # 4 x .5
    figures.draw([row, below], tmp_path / "made.webp", "a square")
    with Image.open(tmp_path / "made.webp") as picture:
        assert picture.format == "WEBP"
        pixels = np.asarray(picture.convert("L"))
    assert pixels[0, 0] == 0 and pixels.max() == 255


def test_a_figure_that_lacks_its_network_is_left_out_in_a_sentence(
    figures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "phantom", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path), "--demo", str(tmp_path / "no"), "--only", "methods/unet"])
    figures.main()
    assert re.search(r"methods/unet is left out: there is no .*best.ckpt; run make demo first", capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []


def test_the_documentation_has_the_pictures_of_the_script_and_they_are_small(figures: ModuleType) -> None:
    folder = ROOT / "docs" / "figures"
    found = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.webp")}
    assert found >= {name for name in figures.FIGURES if not name.startswith("local/")}
    assert all(path.stat().st_size < 200_000 for path in folder.rglob("*.webp"))
