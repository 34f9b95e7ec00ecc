"""The report page in a browser: what its canvases show after keys, mouse and wheel."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import Browser, find
from matplotlib import colormaps
from result_folders import HTML, SLICES, row, write_folder

from spinwarp.report import write_report
from spinwarp.results import CALIBRATION, RESULTS, CalibrationCurves, VolumeCurves, write_calibration, write_rows

# places in the quarters of the image: upper left (.2 and rising with the slice), upper right (.5), lower left (1), air
UPPER_LEFT, UPPER_RIGHT, LOWER_LEFT, AIR = (0.2, 0.2), (0.8, 0.2), (0.2, 0.8), (0.8, 0.8)
OFFSET, STD = 0.1, 0.04  # error and predicted standard deviation of tv; varnet has half the error and no prediction


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    executable = find()
    if executable is None:
        pytest.skip("no Chromium on the PATH; Debian has it as the package chromium")
    browser = Browser(executable, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    chromium.problems.clear()
    yield chromium
    assert chromium.problems == []  # no error in the console, no request


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods on three volumes of two contrasts; a PSNR is infinite and an SSIM unknown."""
    folder = tmp_path_factory.mktemp("report")
    names = ("file0.h5", "file1.h5", "file2.h5")
    tv = {
        "file0.h5": {"psnr": 31.0, "contrast": "AXT2"},
        "file1.h5": {"psnr": 29.0, "ssim": math.nan, "contrast": "AXT2"},
        "file2.h5": {"psnr": 30.0, "contrast": "AXFLAIR", "provenance": "simulated"},
    }
    varnet = {name: {**values, "psnr": 35.0} for name, values in tv.items()}
    varnet["file1.h5"]["psnr"] = math.inf
    folders = [
        write_folder(folder / "tv", "tv", OFFSET, STD, volumes=names, values=tv),
        write_folder(folder / "varnet", "varnet", OFFSET / 2, volumes=names, values=varnet),
    ]
    return write_report(folders, folder / "report.html")


def grey(value: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """What a value is drawn as; the brightest of the target, 1, is the top of the first window."""
    return [255 * min(max((value - low) / (high - low), 0), 1)] * 3


def assert_shown(browser: Browser, pane: int, place: tuple[float, float], expected: list[float], near: int = 4) -> None:
    """A pane shows a colour. A code of 8 bits of the root is up to two greys wide, and rounded twice."""
    found = browser.pixel(pane, *place)
    assert np.abs(np.subtract(found, expected)).max() <= near, (found, expected)


def test_each_pane_shows_its_method_in_one_window(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run("panes.map(p => p.caption.querySelector('b').textContent)") == ["target", "tv", "varnet"]
    for pane, offset in ((0, 0.0), (1, OFFSET), (2, OFFSET / 2)):
        assert_shown(browser, pane, UPPER_RIGHT, grey(0.5 + offset))
        assert_shown(browser, pane, UPPER_LEFT, grey(0.4 + offset))  # the middle slice, the third
        assert_shown(browser, pane, LOWER_LEFT, grey(1.0 + offset))
        assert_shown(browser, pane, AIR, grey(offset))


def test_keys_and_wheel_and_slider_scroll_through_the_slices(browser: Browser, page: Path) -> None:
    browser.open(page)
    for key, index in (("ArrowRight", 3), ("ArrowDown", 3), ("ArrowLeft", 2), ("Home", 0), ("ArrowUp", 0), ("End", 3)):
        browser.key(key)
        assert_shown(browser, 0, UPPER_LEFT, grey(0.2 + 0.1 * index))
        assert f"({index + 1} of {SLICES})" in browser.run("$('slice-name').textContent")
    x, y = browser.middle("#panes canvas")
    for _ in range(2):
        browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=-50)
    browser.settle()
    assert_shown(browser, 1, UPPER_LEFT, grey(0.3 + OFFSET))
    browser.run("$('slice').value = 2; $('slice').dispatchEvent(new Event('input'))")
    browser.settle()
    assert_shown(browser, 1, UPPER_LEFT, grey(0.4 + OFFSET))


def test_fast_scrolling_ends_at_the_slice_that_was_asked_for_last(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("for (const s of [0, 1, 2, 3, 2, 1]) { state.slice = s; update(); }")
    browser.settle()
    assert_shown(browser, 0, UPPER_LEFT, grey(0.3))


def test_flicker_shows_two_pictures_in_turn(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.key("f")
    assert browser.run("panes.length") == 1
    browser.run("$('a').value = 0; $('a').dispatchEvent(new Event('change'))")
    browser.run("$('b').value = 1; $('b').dispatchEvent(new Event('change'))")
    browser.settle()
    for _ in range(2):
        assert_shown(browser, 0, UPPER_RIGHT, grey(0.5 + OFFSET / 2))
        assert browser.run("panes[0].caption.firstChild.textContent") == "B: varnet"
        browser.key(" ")
        assert_shown(browser, 0, UPPER_RIGHT, grey(0.5 + OFFSET))
        browser.key(" ")
    seen = """(async () => { const seen = new Set(); for (let i = 0; i < 60; i++) {
        await new Promise(r => setTimeout(r, 25)); seen.add(panes[0].caption.firstChild.textContent); }
        return [...seen].sort(); })()"""
    browser.key("p")
    assert browser.run(seen) == ["A: tv", "B: varnet"]
    browser.key("f")
    assert browser.run("panes.length") == 3


def test_dragging_changes_window_and_level_of_all_panes(browser: Browser, page: Path) -> None:
    browser.open(page)
    start = browser.middle("#panes canvas")
    browser.drag(start, (60, 0))
    width = math.exp(60 / 150)  # wider to the right, about the same level
    low, high = 0.5 - width / 2, 0.5 + width / 2
    for pane, offset in ((0, 0.0), (1, OFFSET)):
        assert_shown(browser, pane, UPPER_LEFT, grey(0.4 + offset, low, high))
    browser.drag(start, (0, 60))  # downwards the level rises
    assert_shown(browser, 1, UPPER_LEFT, grey(0.4 + OFFSET, low + 0.2, high + 0.2))
    shown = browser.run("$('window').textContent")
    assert shown.startswith(f"window {100 * (low + 0.2):.3g}") and f"{100 * (high + 0.2):.3g} %" in shown
    browser.key("0")
    assert_shown(browser, 0, UPPER_LEFT, grey(0.4))


def test_zooming_and_moving_are_linked(browser: Browser, page: Path) -> None:
    browser.open(page)
    script = "panes.slice(0, 1).map(p => p.canvas.getBoundingClientRect()).map(b => [b.left, b.top, b.width, b.height])"
    ((left, top, wide, tall),) = browser.run(script)
    # about the lower left corner, until its quarter fills every pane
    browser.mouse("mouseWheel", left + 2, top + tall - 2, deltaX=0, deltaY=-400, modifiers=2)
    browser.settle()
    for pane, offset in ((0, 0.0), (2, OFFSET / 2)):
        for place in (UPPER_LEFT, UPPER_RIGHT, LOWER_LEFT, AIR):
            assert_shown(browser, pane, place, grey(1.0 + offset))
    # shift moves; the air comes in from the right, for a pane is as wide as a quarter of the image
    for _ in range(2):
        browser.drag((left + wide - 5, top + tall / 2), (-wide + 10, 0), modifiers=8)
    assert_shown(browser, 2, AIR, grey(OFFSET / 2))
    browser.key("0")
    assert_shown(browser, 2, UPPER_RIGHT, grey(0.5 + OFFSET / 2))
    browser.key("+")
    assert browser.run("state.zoom") == 1.25


def test_one_finger_changes_the_window_and_two_zoom(browser: Browser, page: Path) -> None:
    browser.open(page, 360, 800)
    x, y = browser.middle("#panes canvas")
    browser.touch([(x, y)], [(x + 20, y)], [(x + 40, y)])
    width = browser.run("state.high - state.low")
    assert width == pytest.approx(math.exp(40 / 150), rel=1e-3) and browser.run("state.zoom") == 1
    browser.key("0")
    browser.touch([(x - 20, y), (x + 20, y)], [(x - 30, y), (x + 30, y)], [(x - 40, y), (x + 40, y)])
    assert browser.run("state.zoom") == pytest.approx(2, rel=0.02)  # fingers twice as far apart
    assert browser.run("state.high - state.low") == pytest.approx(1, rel=0.01)
    assert browser.run("fingers.size") == 0


def test_errors_of_all_methods_have_one_colour_scale(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.key("e")
    shown = browser.run("state.shown")
    assert_shown(browser, 0, UPPER_RIGHT, grey(0.5))  # the target stays grey
    for pane, error in ((1, OFFSET), (2, OFFSET / 2)):
        color = [255 * part for part in colormaps["inferno"](error / shown)[:3]]
        # ten colours stand for the 256 of matplotlib
        assert_shown(browser, pane, UPPER_RIGHT, color, near=14)
    assert f"error 0 to {100 * shown:.3g}" in browser.run("$('colors-name').textContent")
    browser.run("$('opacity').value = 0.5; $('opacity').dispatchEvent(new Event('input'))")
    browser.settle()
    color = [0.5 * 255 * part for part in colormaps["inferno"](OFFSET / shown)[:3]]
    assert_shown(browser, 1, UPPER_RIGHT, list(np.add(color, np.multiply(grey(0.5 + OFFSET), 0.5))), near=9)
    browser.key("u")  # the interval, on the same scale
    color = [0.5 * 255 * part for part in colormaps["inferno"](2 * STD / shown)[:3]]
    assert_shown(browser, 1, UPPER_RIGHT, list(np.add(color, np.multiply(grey(0.5 + OFFSET), 0.5))), near=9)
    assert "no predicted interval here" in browser.run("panes[2].caption.textContent")
    assert browser.run("$('colors-name').textContent").startswith("half width (2 std) 0 to ")


def test_the_axes_of_the_distribution_have_round_numbers(browser: Browser, page: Path) -> None:
    browser.open(page)
    labels = [
        ((19.8, 37.26), ["20", "25", "30", "35"]),
        ((0.0005, 0.0017), ["0.0005", "0.0010", "0.0015"]),
        ((0.95, 1.05), ["0.95", "1.00", "1.05"]),
        ((-3.0, 3.0), ["-2", "0", "2"]),
        ((31.01, 31.02), ["31.010", "31.015", "31.020"]),
    ]
    for (low, high), expected in labels:
        assert browser.run(f"ticks({low}, {high}).map(([, label]) => label)") == expected
        assert all(low - 1e-9 <= x <= high + 1e-9 for x in browser.run(f"ticks({low}, {high}).map(([x]) => x)"))


def test_an_image_and_its_caption_are_in_sight_however_few_methods_there_are(browser: Browser, page: Path) -> None:
    browser.open(page, 1600, 700)
    for hidden in ([], [-1], [-1, 0]):
        browser.run(f"state.hidden = new Set({hidden}); layOut()")
        browser.settle()
        assert browser.run("panes[0].figure.getBoundingClientRect().height") < 0.75 * 700
    caption = browser.run("panes[0].caption.textContent")
    assert "slice: PSNR\u00a0" in caption and "volume: PSNR\u00a0" in caption and "SSIM\u00a0" in caption


def test_pixels_outside_the_interval_are_red(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.key("x")
    assert_shown(browser, 1, UPPER_RIGHT, [255, 48, 32], near=0)
    assert_shown(browser, 1, AIR, grey(OFFSET))  # not in the foreground
    assert "100.0 % outside 2 std" in browser.run("panes[1].caption.textContent")
    browser.key("o")  # the last overlay: none again
    assert_shown(browser, 1, UPPER_RIGHT, grey(0.5 + OFFSET))


def test_the_value_under_the_mouse_is_read_out(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.key("e")
    box = "(b => [b.left, b.top, b.width, b.height])(panes[1].canvas.getBoundingClientRect())"
    left, top, wide, tall = browser.run(box)
    browser.mouse("mouseMoved", left + UPPER_RIGHT[0] * wide, top + UPPER_RIGHT[1] * tall)
    found = browser.run("$('readout').textContent").split(" · ")
    assert found[0] == "row 6, column 38"  # of 32 and 48
    for part, word, value in ((found[1], "tv", 50 + 100 * OFFSET), (found[2], "error", 100 * OFFSET)):
        assert part.startswith(f"{word} ") and float(part.split()[-2]) == pytest.approx(value, abs=0.5), part


def column(browser: Browser, n: int) -> list[str]:
    found: list[str] = browser.run(
        f"[...document.querySelectorAll('#rows tbody tr')].map(r => r.cells[{n}].textContent)"
    )
    return found


def test_the_table_is_sorted_with_unknown_values_last(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.click("[data-sort=psnr]")
    assert column(browser, 2) == ["∞", "35.00", "35.00", "31.00", "30.00", "29.00"]
    browser.key("Enter")  # the heading keeps the focus
    assert column(browser, 2) == ["29.00", "30.00", "31.00", "35.00", "35.00", "∞"]
    browser.click("[data-sort=ssim]")
    assert column(browser, 3) == ["0.9000"] * 4 + ["–"] * 2
    browser.click("[data-sort=ssim]")
    assert column(browser, 3) == ["0.9000"] * 4 + ["–"] * 2
    browser.click("[data-sort=volume]")
    assert column(browser, 0) == ["file0.h5"] * 2 + ["file1.h5"] * 2 + ["file2.h5"] * 2


def test_filters_change_table_means_and_distribution(browser: Browser, page: Path) -> None:
    browser.open(page)
    choose = "(s => { s.value = '=AXT2'; s.dispatchEvent(new Event('change')); })"
    browser.run(f"{choose}(document.querySelector('[data-filter=contrast]'))")
    assert len(column(browser, 0)) == 4 and "file2.h5" not in column(browser, 0)
    means = browser.run("[...$('means').tBodies[0].rows].map(r => [...r.cells].map(c => c.textContent))")
    best = browser.run("[...$('means').querySelectorAll('.best')].map(c => c.textContent)")
    # by line: tv shares SSIM and NMSE with varnet, whose PSNR is infinite
    assert best == ["0.9000", "0.1000 ± 0.0000", "∞", "0.9000", "0.1000 ± 0.0000"]
    # 31 and 29 dB: their standard error is 1; the SSIM is of one volume
    assert means[0][:4] == ["tv", "2", "30.00 ± 1.00", "0.9000"]
    assert browser.run("document.querySelectorAll('#distribution svg:first-of-type circle').length") == 3  # not ∞
    browser.run("$('find').value = 'FILE1'; $('find').dispatchEvent(new Event('input'))")
    assert column(browser, 0) == ["file1.h5"] * 2
    browser.click("#rows tbody tr")
    assert browser.run("about().name") == "file1.h5"
    browser.key("b")
    assert browser.run("about().name") == "file0.h5"
    browser.run("$('rows').tBodies[0].rows[1].focus()")
    browser.key("Enter")
    assert browser.run("about().name") == "file1.h5"
    browser.key("n")
    assert browser.run("about().name") == "file2.h5"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 360])
def test_the_page_fits_a_window_and_a_phone_in_dark_and_light(
    browser: Browser, page: Path, width: int, dark: bool
) -> None:
    browser.open(page, width, 800, dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    light = "parseInt(getComputedStyle(document.body).backgroundColor.slice(4)) > 128"
    assert browser.run(light) is not dark
    browser.key("t")
    assert browser.run(light) is dark
    for mode in ("side", "flicker"):
        browser.run(f"setMode('{mode}')")
        browser.settle()
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert_shown(browser, 0, UPPER_RIGHT, grey(0.5))
    assert browser.run("$('warnings').textContent").startswith("1 of 3 volumes is simulated")


def test_one_volume_of_one_method_with_a_name_full_of_html(browser: Browser, tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "a", HTML, OFFSET, volumes=(f"{HTML.replace('/', '')}.h5",), ssim=math.nan, contrast=HTML, mask=HTML
    )
    browser.open(write_report([folder], tmp_path / "page.html"), 360, 800)
    assert browser.run("panes[1].caption.querySelector('b').textContent") == HTML
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert column(browser, 3) == ["–"] and column(browser, 1) == [HTML]
    assert browser.run("document.documentElement.scrollWidth") <= 360
    browser.key("x")
    assert "no interval with a target here" in browser.run("panes[1].caption.textContent")
    assert_shown(browser, 1, UPPER_RIGHT, grey(0.5 + OFFSET))


def test_a_reconstruction_without_reference_has_its_images_alone(browser: Browser, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", "tv", OFFSET, STD)
    browser.open(write_report([folder / "reconstructions" / "file0.h5"], tmp_path / "page.html"))
    assert browser.run("[panes.length, $('results').hidden, $('mode').disabled]") == [1, True, True]
    assert_shown(browser, 0, UPPER_RIGHT, grey(0.5 + OFFSET, high=1 + OFFSET))
    browser.key("f")
    assert browser.run("[panes.length, state.mode]") == [1, "side"]
    browser.key("u")
    color = [255 * part for part in colormaps["inferno"](min(2 * STD / browser.run("state.shown"), 1))[:3]]
    assert_shown(browser, 0, UPPER_RIGHT, color, near=14)


def test_images_stored_with_loss_look_the_same(browser: Browser, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", "tv", OFFSET, STD)
    browser.open(write_report([folder], tmp_path / "page.html", megabytes=0.001))
    assert "quality 50" in browser.run("$('encoding').textContent")
    # WebP of constant quarters is off by a few of 255 codes, which stand for 125 % of the range
    assert_shown(browser, 1, UPPER_RIGHT, grey(0.5 + OFFSET), near=8)
    browser.key("x")
    assert_shown(browser, 1, UPPER_RIGHT, [255, 48, 32], near=0)  # this map has no loss


def test_results_without_images_leave_the_tables(browser: Browser, tmp_path: Path) -> None:
    write_rows(tmp_path / "a" / RESULTS, [row("tv", "file0.h5")])
    folder = tmp_path / "a"
    browser.open(write_report([folder], tmp_path / "page.html"))
    assert browser.run("[$('viewer').hidden, $('no-images').hidden, $('rows').rows.length]") == [True, False, 2]
    browser.key("ArrowRight")


def test_coverage_is_drawn_over_what_was_promised_for_methods_that_predict_it(browser: Browser, tmp_path: Path) -> None:
    folders = [write_folder(tmp_path / name, name, OFFSET, STD) for name in ("ensemble", "varnet")]
    unknown = [math.nan] * 2
    measured = ((9, [0.2, 0.6]), (9, [0.4, 0.8]), (0, unknown))  # the last has no foreground
    volumes = [
        VolumeCurves(f"file{i}.h5", n, coverage, unknown, unknown, unknown, unknown, None, [n, 0, 0])
        for i, (n, coverage) in enumerate(measured)
    ]
    group = ("knee", "test", "equispaced_4x", 4.0)
    curves = CalibrationCurves("ensemble", *group, [0.5, 0.9], [0.0, 0.5], [1.0, 2.0], volumes)
    write_calibration(folders[0] / CALIBRATION, curves)
    browser.open(write_report(folders, tmp_path / "report.html"))
    assert browser.run("[...document.querySelectorAll('#reliability polyline')].length") == 1  # varnet has no file
    points = browser.run("document.querySelector('#reliability polyline').getAttribute('points')")
    x, y = np.array([point.split(",") for point in points.split()], float).T
    # a square of 220: the origin, half the way to the right and .3 up, then .9 and .7
    assert np.allclose(x - x[0], [0, 110, 198], atol=0.1) and np.allclose(y[0] - y, [0, 66, 154], atol=0.1)
    browser.run("const method = document.querySelector('[data-filter=method]'); method.value = '=varnet'")
    browser.run("document.querySelector('[data-filter=method]').dispatchEvent(new Event('change'))")
    assert browser.run("document.querySelector('#intervals').hidden")
