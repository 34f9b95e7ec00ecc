"""The figures of predicted deviations: error and prediction side by side, and reliability."""

import dataclasses
import math

import numpy as np
import pytest
from drawn_figures import NAMES, assert_tidy, head, texts

from spinwarp.errors import InputError
from spinwarp.figures import reliability, uncertainty
from spinwarp.results import CalibrationCurves, ExampleSlice, VolumeCurves


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
