"""The figures of panels, distributions over volumes, and the convergence of fits."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from drawn_figures import assert_tidy, head
from PIL import Image

from spinwarp.errors import InputError
from spinwarp.figures import convergence, distribution, panel, save
from spinwarp.figures.sheet import wrapped
from spinwarp.results import TRACE, Row, TraceRow, read_trace, write_trace


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


@pytest.mark.parametrize("titles", [[], ["target", "reconstruction", "error × 5"], [f"image {i}" for i in range(6)]])
def test_a_panel_takes_titles_for_columns_or_for_images(titles: list[str]) -> None:
    figure = panel(np.stack([head(40, 30)] * 6), titles)
    assert len(figure.axes) == 6
    assert [t.get_text() for t in figure.texts] == titles
    assert_tidy(figure)


def test_a_panel_takes_images_of_different_shapes() -> None:
    assert_tidy(panel([head(40, 30), head(30, 50), head(16, 90), head(20, 20)], ["a", "b", "c", "a long title " * 4]))


def test_every_row_of_a_panel_has_the_window_of_its_first_image() -> None:
    image = head(40, 30)
    figure = panel([image, 2 * image, 3 * image, 9 * image], columns=3)
    tops = [axes.images[0].get_clim()[1] / image.max() for axes in figure.axes]
    # The window ends at the 99.8th percentile, which in this image is its plateau.
    assert tops == pytest.approx([1, 1, 1, 9], rel=1e-9)


def test_a_panel_refuses_titles_that_fit_nothing() -> None:
    with pytest.raises(InputError, match="2 titles for 3 images"):
        panel([np.zeros((4, 4))] * 3, ["a", "b"])
    with pytest.raises(InputError, match="at least one image"):
        panel([])


def test_a_distribution_shows_every_volume_and_one_mean_a_method() -> None:
    figure = distribution([*rows("tv", 1.0), *rows("a_very_long_method_name_that_is_broken_somewhere", 3.0)])
    assert len(figure.axes) == 3
    for axes in figure.axes:
        dots = [len(c.get_offsets()) for c in axes.collections if len(c.get_offsets()) == 6]
        assert dots == [6, 6]
    assert_tidy(figure)


def test_a_distribution_separates_groups_and_bears_single_and_infinite_volumes() -> None:
    perfect = dataclasses.replace(rows("perfect", 1.0)[0], psnr=float("inf"), ssim=1.0, nmse=0.0)
    figure = distribution([*rows("tv", 1.0), perfect, *rows("tv", 1.0, mask="random_8x")])
    assert len(figure.axes) == 6
    assert_tidy(figure)
    with pytest.raises(InputError, match="no volume"):
        distribution([])


def test_a_saved_figure_is_a_png_of_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(panel([head(40, 30)]), tmp_path / "new" / name)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["a.png", "b.png"]
    assert (tmp_path / "new" / "a.png").read_bytes() == (tmp_path / "new" / "b.png").read_bytes()
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.format == "PNG" and min(image.size) > 100


def trace_rows(method: str, stop: int, n: int = 40) -> list[TraceRow]:
    return [
        TraceRow(method, i, 0.1 + 0.01 * (i - 20) ** 2 / 400, 1 / i, 2 / i, int(i == stop)) for i in range(1, n + 1)
    ]


def test_the_curve_of_a_fit_marks_its_stop_and_its_least_error(tmp_path: Path) -> None:
    write_trace(tmp_path / TRACE, trace_rows("convdecoder", 25) + trace_rows("dip", 18))
    rows = read_trace(tmp_path / TRACE)
    assert rows == trace_rows("convdecoder", 25) + trace_rows("dip", 18)
    figure = convergence(rows, "a head")
    (axes,) = figure.axes
    marks = {(line.get_marker(), *line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 1}
    assert marks == {("o", 20), ("D", 25), ("D", 18)}
    assert [text.get_text() for text in axes.get_legend().get_texts()][:2] == ["convdecoder", "dip"]
    save(figure, tmp_path / "convergence.png")
    assert (tmp_path / "convergence.png").stat().st_size > 10_000


def test_a_trace_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"trace\.csv is not a table of iterations"):
        read_trace(tmp_path / TRACE)
    (tmp_path / TRACE).write_text("method,iteration\ndip,one\n")
    with pytest.raises(InputError, match=r"trace\.csv is not a table of iterations"):
        read_trace(tmp_path / TRACE)
    with pytest.raises(InputError, match="no iterations to show"):
        convergence([])


def test_a_line_is_not_broken_within_a_number() -> None:
    text = "scan.npy, slice 0, R 8.04"
    for width in np.arange(0.6, 2.6, 0.1):
        assert "8.04" in wrapped(text, float(width), 9.0)
        assert "R\u00a0=\u00a08.04" in wrapped("scan.npy, R\u00a0=\u00a08.04", float(width), 9.0)
