"""The figures: what they show, and that nothing overlaps whatever they are given."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from spinwarp.errors import InputError
from spinwarp.figures import comparison, convergence, distribution, panel, reliability, save, uncertainty, zoom_region
from spinwarp.figures.sheet import wrapped
from spinwarp.results import (
    TRACE,
    CalibrationCurves,
    ExampleSlice,
    Row,
    TraceRow,
    VolumeCurves,
    read_trace,
    write_trace,
)

NAMES = [
    "zero-filled",
    "total variation",
    "VarNet",
    "a_very_long_method_name/with_joints_v2",
    "W" * 40,
    "$sigma$ model",
]


def head(h: int, w: int) -> np.ndarray:
    """Return an ellipse with a bright rim, smooth shading and stripes in its lower left."""
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    radius = (x / 0.8) ** 2 + (y / 0.9) ** 2
    image = np.where(radius < 1, 0.3 + 0.1 * np.cos(3 * x), 0.0)
    image[(radius < 1) & (radius > 0.85)] = 1.0
    stripes = (np.abs(x + 0.25) < 0.2) & (np.abs(y - 0.2) < 0.2) & (np.sin(40 * x) > 0)
    return np.where(stripes, 0.7, image) * 2e-4  # scanner units are small


def case(h: int, w: int, n: int) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, dict[str, float]], np.ndarray]:
    target = head(h, w)
    images = {name: target + np.roll(target, 5 + i, axis=1) / (3 + i) for i, name in enumerate(NAMES[:n])}
    numbers = {
        name: {"psnr": 20.0 + i, "ssim": 0.8 + i / 100, "ssim_foreground": 0.9 - i / 100, "nmse": 0.1 / (1 + i)}
        for i, name in enumerate(images)
    }
    return target, images, numbers, np.arange(w + 10)[None] % 4 == 0


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


def assert_tidy(figure: Figure) -> None:
    """No text leaves the figure or touches another text or a picture."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = [t for t in figure.texts if t.get_text()]
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts]
    for axes in figure.axes:
        box = axes.get_tightbbox(renderer)
        assert box is not None
        boxes.append(("axes", box))
    for i, (name, box) in enumerate(boxes):
        # Half a pixel: antialiasing of glyphs at the edge.
        assert box.x0 > -0.5 and box.y0 > -0.5, name
        assert box.x1 < figure.bbox.x1 + 0.5 and box.y1 < figure.bbox.y1 + 0.5, name
        for other, second in boxes[i + 1 :]:
            across = min(box.x1, second.x1) - max(box.x0, second.x0)
            down = min(box.y1, second.y1) - max(box.y0, second.y0)
            # Two pixels of 1/150 inch: boxes of texts include room above the letters.
            assert across <= 2 or down <= 2, f"{name!r} overlaps {other!r} by {across:.1f} x {down:.1f} pixels"


def texts(figure: Figure) -> dict[str, str]:
    return {str(t.get_text()): str(t.get_fontweight()) for t in figure.texts}


@pytest.mark.parametrize(("h", "w"), [(48, 48), (128, 196), (41, 33), (100, 30), (16, 128)])
@pytest.mark.parametrize("n", [1, 6])
def test_nothing_overlaps_in_a_comparison(h: int, w: int, n: int) -> None:
    target, images, numbers, mask = case(h, w, n)
    title, small = "equispaced_4x, R = 3.72: file1000001, slice 17", "knee val (1 of 6 volumes, slices 3:4), simulated"
    assert_tidy(comparison(target, images, data_range=3e-4, numbers=numbers, mask=mask, title=title, subtitle=small))
    assert_tidy(comparison(target, images, mask=mask, subtitle=small))
    assert_tidy(comparison(None, images, numbers=numbers, mask=mask, title=title))
    assert_tidy(comparison(None, images))


@pytest.mark.parametrize(("h", "w"), [(48, 48), (128, 196), (100, 30), (16, 128)])
@pytest.mark.parametrize("n", [1, 3])
def test_nothing_overlaps_where_methods_predict_deviations(h: int, w: int, n: int) -> None:
    target, images, numbers, mask = case(h, w, n)
    std = dict.fromkeys(list(images)[::-1][:2], 0.1 * target)
    for truth in (target, None):
        assert_tidy(comparison(truth, images, data_range=3e-4, std=std, numbers=numbers, mask=mask, title="knee"))
        assert_tidy(comparison(truth, images, std=std, numbers=numbers))
        assert_tidy(comparison(truth, images, std=std, mask=mask))


def test_twice_the_deviation_stands_under_the_error_on_its_scale() -> None:
    target, images, numbers, mask = case(48, 40, 3)
    first, _, third = images
    std = {first: 0.1 * target, third: 0.2 * target}
    figure = comparison(target, images, std=std, numbers=numbers, mask=mask)
    assert "2 std" in texts(figure)
    maps = [axes for axes in figure.axes if axes.images and axes.images[0].get_cmap().name == "inferno"]
    assert len(maps) == 5 and len({axes.images[0].get_clim() for axes in maps}) == 1
    errors, predictions = dict(zip(images, maps[:3], strict=True)), dict(zip((first, third), maps[3:], strict=True))
    for name, axes in predictions.items():
        np.testing.assert_array_equal(axes.images[0].get_array(), 2 * std[name])
        assert axes.get_position().x0 == errors[name].get_position().x0
        assert axes.get_position().y1 < errors[name].get_position().y0
    # the scale is that of the same figure without predictions, however large they are
    plain = comparison(target, images)
    (window,) = {a.images[0].get_clim() for a in plain.axes if a.images and a.images[0].get_cmap().name == "inferno"}
    assert maps[0].images[0].get_clim() == window


def test_without_a_prediction_a_comparison_is_what_it_was() -> None:
    target, images, numbers, mask = case(48, 40, 2)
    bare, empty = (comparison(target, images, std=std, numbers=numbers, mask=mask) for std in (None, {}))
    assert "2 std" not in texts(bare)
    assert len(bare.axes) == len(empty.axes) and tuple(bare.get_size_inches()) == tuple(empty.get_size_inches())


def test_a_prediction_without_a_target_has_a_scale_of_its_own() -> None:
    _, images, _, _ = case(48, 40, 1)
    ((name, image),) = images.items()
    figure = comparison(None, images, std={name: 0.01 * image})
    (prediction,) = [axes for axes in figure.axes if axes.images and axes.images[0].get_cmap().name == "inferno"]
    # 2 % of the image at the most, so that it is shown from 20 to 50 times brighter
    assert 0.4 < prediction.images[0].get_array().max() / prediction.images[0].get_clim()[1] < 1.5


def test_a_comparison_has_a_picture_a_zoom_and_an_error_of_each_method() -> None:
    target, images, numbers, mask = case(48, 40, 2)
    figure = comparison(target, images, data_range=3e-4, numbers=numbers, mask=mask)
    pictures = [axes for axes in figure.axes if axes.images]
    # 3 images, 3 zooms, 2 errors, 1 mask; the colour bar is no picture.
    assert len(pictures) == 9
    assert len(figure.axes) == 10
    assert len([axes for axes in comparison(None, images).axes if axes.images]) == 4


def test_images_share_the_targets_window_and_errors_share_theirs() -> None:
    target, images, _, _ = case(48, 40, 3)
    figure = comparison(target, images)
    windows = {(axes.images[0].get_cmap().name, axes.images[0].get_clim()) for axes in figure.axes if axes.images}
    (grey,) = [w for name, w in windows if name == "gray"]
    (error,) = [w for name, w in windows if name == "inferno"]
    factor = next(int(text.split()[-1]) for text in texts(figure) if text.startswith("error"))
    assert error[1] == pytest.approx(grey[1] / factor, rel=1e-12)
    assert grey == (0, pytest.approx(float(np.percentile(target, 99.8)), rel=1e-12))


def test_the_best_number_is_bold() -> None:
    target, images, numbers, _ = case(48, 40, 2)
    shown = texts(comparison(target, images, numbers=numbers))
    assert shown["PSNR 21.00 dB"] == shown["NMSE 0.0500"] == "bold"
    assert shown["PSNR 20.00 dB"] == shown["NMSE 0.1000"] == "normal"


def test_the_ssim_of_the_foreground_is_bold_and_that_of_the_whole_image_only_without_it() -> None:
    target, images, numbers, _ = case(48, 40, 2)
    shown = texts(comparison(target, images, numbers=numbers))
    assert (shown["SSIM fg 0.9000"], shown["SSIM fg 0.8900"]) == ("bold", "normal")
    assert shown["SSIM 0.8100"] == shown["SSIM 0.8000"] == "normal"
    for of in numbers.values():  # as in results of older versions
        del of["ssim_foreground"]
    shown = texts(comparison(target, images, numbers=numbers))
    assert (shown["SSIM 0.8100"], shown["SSIM 0.8000"]) == ("bold", "normal")


def test_the_mask_stands_below_the_zoom_of_the_target_and_the_label_of_the_errors_beside_them() -> None:
    target, images, _, mask = case(48, 40, 2)
    figure = comparison(target, images, mask=mask)
    zoom, error = figure.axes[1], next(a for a in figure.axes if a.images and a.images[0].get_cmap().name == "inferno")
    drawn = next(axes for axes in figure.axes if axes.images and axes.images[0].get_array().shape == mask.shape)
    label = next(text for text in figure.texts if text.get_text().startswith("error"))
    assert drawn.get_position().x0 == pytest.approx(zoom.get_position(original=True).x0)
    assert drawn.get_position().y1 < zoom.get_position().y0
    assert drawn.get_position().x1 < label.get_position()[0] < error.get_position().x0


def test_the_zoom_finds_the_stripes() -> None:
    image = np.full((90, 60), 0.2)
    image[55:75, 30:45:3] = 1.0
    rows_, columns = zoom_region(image)
    assert rows_.start <= 55 and rows_.stop >= 75
    assert columns.start <= 30 and columns.stop >= 44  # the last stripe is column 42, its edge one further
    assert (rows_.stop - rows_.start, columns.stop - columns.start) == (30, 20)


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (2, 90)])
def test_the_zoom_stays_inside_tiny_images(shape: tuple[int, int]) -> None:
    assert np.zeros(shape)[zoom_region(np.zeros(shape))].size > 0
    assert_tidy(comparison(np.ones(shape), {"a": np.ones(shape)}))


def test_empty_and_diverged_images_are_drawn_without_a_warning() -> None:
    zero = np.zeros((20, 24))
    bad = zero.copy()
    bad[:3], bad[4] = np.nan, np.inf
    assert_tidy(comparison(zero, {"zero": zero, "bad": bad, "lost": np.full((20, 24), np.nan)}))
    assert_tidy(comparison(bad, {"bad": bad}))
    assert_tidy(comparison(None, {"lost": np.full((20, 24), np.nan)}))
    assert_tidy(comparison(None, {"zero": zero}, std={"zero": zero}))
    assert_tidy(comparison(zero, {"zero": zero, "bad": bad}, std={"zero": zero, "bad": bad}))


def test_complex_images_are_shown_by_their_magnitude() -> None:
    target, _, _, _ = case(20, 24, 1)
    figure = comparison(target, {"x": (target * 1j).astype(np.complex64)})
    error = next(axes.images[0] for axes in figure.axes if axes.images and axes.images[0].get_cmap().name == "inferno")
    # One rounding to float32 of values up to 2e-4.
    assert float(error.get_array().max()) < 2e-4 * 1e-6


def test_shapes_that_do_not_fit_are_input_errors() -> None:
    with pytest.raises(InputError, match="target 20x24, a 20x20"):
        comparison(np.zeros((20, 24)), {"a": np.zeros((20, 20))})
    with pytest.raises(InputError, match="a 20x24, standard deviation of a 20x20"):
        comparison(None, {"a": np.zeros((20, 24))}, std={"a": np.zeros((20, 20))})
    with pytest.raises(InputError, match="one slice"):
        comparison(None, {"a": np.zeros((3, 20, 20))})
    with pytest.raises(InputError, match="at least one image"):
        comparison(None, {})


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


# ------------------------------------------------------------------------------------------------ convergence


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


# ------------------------------------------------------------------------------------------------ predictions


def predicting(shape: tuple[int, int], n: int, level: float = math.nan) -> dict[str, ExampleSlice]:
    """Examples with errors of a tenth of the target, and a std of a twentieth on the left, none on the right."""
    target = head(*shape) / 2e-4
    std = np.where(np.arange(shape[1]) < shape[1] // 2, target / 19, 0)
    numbers = {"data_range": 1.0, "nmse": 0.1, "psnr": 30.0, "ssim": 0.9, "acceleration": 3.72}
    return {
        name: ExampleSlice(
            "f", 1, name, target, 1.1 * target, provenance="phantom", std=std, foreground=target > 0.05, level=level,
            **numbers,
        )
        for name in NAMES[:n]
    }  # fmt: skip


@pytest.mark.parametrize("shape", [(48, 48), (128, 196), (100, 30), (16, 128)])
@pytest.mark.parametrize("n", [1, 6])
def test_nothing_overlaps_where_image_error_and_prediction_stand_side_by_side(shape: tuple[int, int], n: int) -> None:
    title, small = "equispaced_4x, R = 3.72: file1000001, slice 17", "knee val, simulated"
    assert_tidy(uncertainty(predicting(shape, n, level=0.9), title, small))
    assert_tidy(uncertainty(predicting(shape, n)))


@pytest.mark.parametrize(
    ("level", "deviations", "words"), [(math.nan, 2.0, "2 std"), (0.95, 1.959964, "95 % interval")]
)
def test_error_and_prediction_share_a_scale_and_what_lies_outside_is_marked(
    level: float, deviations: float, words: str
) -> None:
    examples = predicting((40, 30), 2, level)
    first = examples[NAMES[0]]
    figure = uncertainty(examples)
    maps = [axes.images[0] for axes in figure.axes if axes.images and axes.images[0].get_cmap().name == "inferno"]
    maps = [image for image in maps if image.get_array().shape == (40, 30)]
    assert len(maps) == 4 and len({image.get_clim() for image in maps}) == 1
    np.testing.assert_allclose(maps[0].get_array(), 0.1 * first.target, atol=1e-12)  # doubles
    np.testing.assert_allclose(maps[1].get_array(), deviations * first.std, rtol=1e-6)  # digits of 1.959964
    (marks, _) = [axes.images[1].get_array() for axes in figure.axes if len(axes.images) == 2]
    # 2 / 19 and 1.96 / 19 cover a tenth; no prediction covers none
    expected = first.foreground & (np.arange(30) >= 15)
    np.testing.assert_array_equal(marks[..., 3] > 0, expected)
    share = f"{100 * expected.sum() / first.foreground.sum():.1f} % outside"
    assert any(share in text.replace("\n", " ") and words in text.replace("\n", " ") for text in texts(figure))


def test_a_figure_of_predictions_needs_a_prediction() -> None:
    with pytest.raises(InputError, match="there is nothing to show"):
        uncertainty({})
    (silent,) = (dataclasses.replace(example, std=None) for example in predicting((20, 20), 1).values())
    with pytest.raises(InputError, match="zero-filled predicts no standard deviation for f"):
        uncertainty({"zero-filled": silent})
    with pytest.raises(InputError, match="there is nothing to show"):
        reliability({})


def test_a_note_stands_below_the_numbers_of_its_method() -> None:
    target, images, numbers, mask = case(48, 40, 2)
    notes = {next(iter(images)): "4.6 % outside the 90 % interval of a name that is long"}
    figure = comparison(target, images, numbers=numbers, notes=notes, mask=mask)
    assert_tidy(figure)
    assert any(text.startswith("4.6 % outside") for text in texts(figure))


def curves(method: str, power: float, ranks: list[int] | None = None) -> CalibrationCurves:
    levels, shares = [0.5, 0.9], [0.0, 0.5]
    volumes = [
        VolumeCurves(name, 10, [x**p for x in levels], levels, [1, 0.5 * p], [1, 0.2], [1, 0.9], ranks, [4, 3, 3])
        for name, p in (("a", power - 0.25), ("b", power + 0.25))
    ]
    empty = VolumeCurves("air", 0, *[[math.nan] * 2] * 5, ranks and [0] * len(ranks), [0, 0, 0])
    return CalibrationCurves(method, "knee", "val", "random", 4.0, levels, shares, [1.0, 2.0], [*volumes, empty])


@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("ranks", [None, [3, 3, 4]])
def test_nothing_overlaps_in_a_figure_of_reliability(n: int, ranks: list[int] | None) -> None:
    methods = {name: curves(name, 1 + i / 4, ranks) for i, name in enumerate(NAMES[:n])}
    figure = reliability(methods, "knee val equispaced_4x")
    assert len(figure.axes) == (2 if ranks is None else 3)
    assert_tidy(figure)


def test_reliability_shows_means_over_the_volumes_that_were_measured() -> None:
    figure = reliability({"a": curves("a", 1.0, [2, 6]), "b": curves("b", 2.0)})
    coverage, sparsification, ranks = figure.axes
    lines = [line for line in coverage.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 3]
    expected = [0, (0.5**0.75 + 0.5**1.25) / 2, (0.9**0.75 + 0.9**1.25) / 2]
    np.testing.assert_allclose(lines[0].get_ydata(), expected, rtol=1e-12)  # doubles
    falls = [list(line.get_ydata()) for line in sparsification.lines]
    assert falls[:3] == [[1, 0.2], [1, 0.9], [1, 0.5]] and falls[5] == [1, 1.0]
    (stairs,) = ranks.patches
    assert list(stairs.get_data().values) == [0.5, 1.5]  # of two ranks, relative to a half each


def test_nothing_but_air_is_drawn_without_a_warning() -> None:
    whole = curves("a", 1.0)
    assert_tidy(reliability({"air": dataclasses.replace(whole, volumes=whole.volumes[2:])}))
