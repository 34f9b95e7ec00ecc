"""The figure that compares methods: its pictures, windows, zoom and numbers, and that nothing overlaps."""

import numpy as np
import pytest
from drawn_figures import assert_tidy, case, texts

from spinwarp.errors import InputError
from spinwarp.figures import comparison, zoom_region


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


def test_a_note_stands_below_the_numbers_of_its_method() -> None:
    target, images, numbers, mask = case(48, 40, 2)
    notes = {next(iter(images)): "4.6 % outside the 90 % interval of a name that is long"}
    figure = comparison(target, images, numbers=numbers, notes=notes, mask=mask)
    assert_tidy(figure)
    assert any(text.startswith("4.6 % outside") for text in texts(figure))


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
