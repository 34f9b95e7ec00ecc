"""The report page as text: what it holds, whether it is safe to open, and its size."""

import base64
import io
import json
import math
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from result_folders import HTML, SHAPE, SLICES, row, target, write_folder

from spinwarp.errors import InputError
from spinwarp.report import draw_images, write_report
from spinwarp.report.__main__ import main
from spinwarp.report.encoding import ENCODINGS
from spinwarp.results import (
    EXAMPLES,
    RECONSTRUCTIONS,
    RESULTS,
    TARGETS,
    ExampleSlice,
    write_examples,
    write_reconstruction,
    write_rows,
    write_target,
)


class Page(HTMLParser):
    """The elements of a page: scripts by their id, and everything that names an address."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self._script: str | None = None
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attributes)
        self.addresses += [str(found[name]) for name in ("src", "href", "action", "data", "srcset") if name in found]
        self._script = (found.get("id") or "program") if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def json(self, name: str) -> Any:
        return json.loads(self.scripts[name])


def pixels(uri: str) -> np.ndarray:
    kind, _, text = uri.partition(";base64,")
    assert kind in ("data:image/png", "data:image/webp")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def values(uri: str, top: float) -> np.ndarray:
    """What the page makes of a PNG: the root of each value was stored."""
    return top * (pixels(uri) / 255.0) ** 2


def test_images_errors_and_intervals_are_stored_on_one_scale_per_volume(tmp_path: Path) -> None:
    folders = [write_folder(tmp_path / "a", "tv", 0.1, std=0.04), write_folder(tmp_path / "b", "varnet", -0.02)]
    page = Page(write_report(folders, tmp_path / "page.html"))
    (about,), images = page.json("head")["volumes"], page.json("volume-0")
    assert about["methods"] == ["tv", "varnet"] and about["slices"] == list(range(SLICES))
    # half a code of the root: an error of top * 2 * root / 510 in the value, and as much again near zero
    near = {"atol": about["top"] / 255}
    np.testing.assert_allclose(values(images["target"][1], about["top"]), target()[1], **near)
    np.testing.assert_allclose(values(images["methods"][0][1]["image"], about["top"]), target()[1] + 0.1, **near)
    # the largest error is the top of the scale of all
    assert about["errorTop"] == pytest.approx(0.1, rel=1e-4) or about["errorTop"] == about["errorShown"]
    for method, error in ((0, 0.1), (1, 0.02)):
        found = values(images["methods"][method][2]["error"], about["errorTop"])
        np.testing.assert_allclose(found, error, atol=about["errorTop"] / 255)
    np.testing.assert_allclose(values(images["methods"][0][2]["half"], about["errorTop"]), 0.08, atol=2e-3)
    assert "half" not in images["methods"][1][0]


def test_the_pixels_outside_the_interval_are_those_of_the_foreground_with_a_larger_error(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", "tv", 0.1, std=0.04)
    images = np.array(target() + np.float32(0.1))
    images[:, :16, :24] -= 0.05  # within 2 std
    write_reconstruction(folder / RECONSTRUCTIONS, "file0.h5", images, np.full_like(images, 0.04))
    page = Page(write_report([folder], tmp_path / "page.html"))
    outside = pixels(page.json("volume-0")["methods"][0][0]["outside"])
    expected = np.zeros(SHAPE, bool)
    expected[:16, 24:] = expected[16:, :24] = True  # neither the quarter within, nor the air
    np.testing.assert_array_equal(outside > 0, expected)
    (about,) = page.json("head")["volumes"]
    assert about["missed"][0][0] == pytest.approx(2 / 3) and about["intervals"] == ["2 std"]


def test_the_psnr_of_a_slice_has_the_range_of_its_volume(tmp_path: Path) -> None:
    page = Page(write_report([write_folder(tmp_path / "a", "tv", 0.1)], tmp_path / "page.html"))
    # the largest value is 1, the squared error .01
    np.testing.assert_allclose(page.json("head")["volumes"][0]["psnr"], 20.0, rtol=1e-4)


def test_the_interval_of_a_conformal_method_is_its_own(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", "tv", 0.1)
    images = target() + np.float32(0.1)
    write_reconstruction(folder / RECONSTRUCTIONS, "file0.h5", images, np.full_like(images, 0.04), (5.0, 0.9))
    page = Page(write_report([folder], tmp_path / "page.html"))
    (about,) = page.json("head")["volumes"]
    assert about["intervals"] == ["the 90 % interval"] and about["missed"][0] == [0.0] * SLICES
    np.testing.assert_allclose(
        values(page.json("volume-0")["methods"][0][0]["half"], about["errorTop"]), 0.2, atol=4e-3
    )


def test_names_full_of_html_stay_text(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", HTML, 0.1, volumes=("<b>x.h5",), dataset=HTML, contrast=HTML)
    page = Page(write_report([folder], tmp_path / "page.html"))
    assert page.tags.count("script") == 3 and "b" in page.tags  # head, one volume, the program; the page's own bold
    assert "img" not in page.tags
    head = page.json("head")
    assert head["rows"][0]["method"] == HTML and head["volumes"][0]["name"] == "<b>x.h5"


def test_nothing_is_asked_of_a_network(tmp_path: Path) -> None:
    page = Page(write_report([write_folder(tmp_path / "a", "tv", 0.1)], tmp_path / "page.html"))
    assert page.addresses == []
    assert "default-src 'none'; img-src data:" in page.text
    # the only address is the name of SVG's elements, which no browser opens
    assert set(re.findall(r"https?://[^\s\"']+", page.text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"fetch\(|XMLHttpRequest|import\s*\(|url\(|@import|innerHTML", page.text)


def test_the_program_makes_no_element_from_text() -> None:
    for path in files("spinwarp.report").iterdir():
        if path.name.endswith(".js"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), path.name
            assert "</script" not in text and "<!--" not in text
            assert len(text.splitlines()) <= 400


def test_metrics_that_are_nan_or_infinite_are_kept_apart(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", "tv", 0.0, psnr=math.inf, ssim=math.nan)
    page = Page(write_report([folder], tmp_path / "page.html"))
    (line,) = page.json("head")["rows"]
    assert line["psnr"] == "inf" and line["ssim"] is None and line["nmse"] == 0.1
    assert page.json("head")["volumes"][0]["psnr"] == [["inf"] * SLICES]  # no error at all


def test_the_reader_is_warned_of_what_flatters(tmp_path: Path) -> None:
    names = ("a.h5", "b.h5")
    marks = {"a.h5": {"trained_on": "volume", "provenance": "simulated"}, "b.h5": {"trained_on": "patient"}}
    folders = [
        write_folder(tmp_path / "u", "unet", 0.1, volumes=names, values=marks),
        write_folder(tmp_path / "t", "tv", 0.1, volumes=names, values={"a.h5": {"provenance": "simulated"}}),
    ]
    warnings = Page(write_report(folders, tmp_path / "page.html")).json("head")["warnings"]
    assert warnings == [
        "1 of 2 volumes is simulated: k-space was made from images, which flatters every method",
        "unet was trained on what it is judged on: 1 of 2 volumes was in its training set",
        "unet has seen other scans of the patients: 1 of 2 volumes shows a patient of its training set",
    ]


def test_measured_data_and_an_unseen_test_set_need_no_warning(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", "tv", 0.1)
    assert Page(write_report([folder], tmp_path / "page.html")).json("head")["warnings"] == []
    write_folder(tmp_path / "b", "tv", 0.1, split="train", provenance="phantom")
    found = Page(write_report([tmp_path / "b"], tmp_path / "page.html")).json("head")["warnings"]
    assert found == [
        "the volume is computed by a program, not measured on a person",
        "tv is judged on training data: the volume belongs to the split train",
    ]


def test_without_targets_the_example_slice_alone_has_an_error(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", "tv", 0.1, targets=False)
    one = target()[2]
    numbers = {"data_range": 1.0, "nmse": 0.1, "psnr": 30.0, "ssim": 0.9, "acceleration": 4.0}
    write_examples(folder / EXAMPLES, [ExampleSlice("file0.h5", 2, "tv", one, one, provenance="scanner", **numbers)])
    page = Page(write_report([folder], tmp_path / "page.html"))
    images = page.json("volume-0")["methods"][0]
    assert ["error" in image for image in images] == [False, False, True, False]
    assert page.json("head")["warnings"] == [
        "3 of 4 slices show no error for want of a target; evaluate.py keeps the targets with report=true"
    ]


def test_without_saved_images_the_examples_are_shown(tmp_path: Path) -> None:
    one, folder = target()[0], tmp_path / "a"
    write_rows(folder / RESULTS, [row("tv", "file0.h5"), row("tv", "file1.h5")])
    numbers = {"data_range": 1.0, "nmse": 0.1, "psnr": 30.0, "ssim": 0.9, "acceleration": 4.0}
    extra = {"std": np.full_like(one, 0.01), "foreground": one > 0}
    example = ExampleSlice("file0.h5", 7, "tv", one, one + 0.1, provenance="scanner", **numbers, **extra)
    write_examples(folder / EXAMPLES, [example])
    page = Page(write_report([folder], tmp_path / "page.html"))
    (about,) = page.json("head")["volumes"]
    assert about["slices"] == [7] and about["missed"] == [[1.0]] and len(page.json("head")["rows"]) == 2
    assert page.json("head")["warnings"] == [
        "volumes that show example slices only, because their images were not saved: 1",
        "volumes in the tables only, because their images were not saved: 1",
    ]


def test_a_method_without_images_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "b" / RESULTS, [row("unet", "file0.h5")])
    folders = [write_folder(tmp_path / "a", "tv", 0.1), tmp_path / "b"]
    page = Page(write_report(folders, tmp_path / "page.html"))
    assert page.json("head")["volumes"][0]["methods"] == ["tv"]
    assert page.json("head")["warnings"] == ["volumes of which unet has no images: 1"]


def test_images_are_cropped_as_they_were_judged(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", "tv", 0.1, crop="32x48")
    tall = np.pad(target() + np.float32(0.1), ((0, 0), (5, 5), (0, 0)), constant_values=0.9)
    write_reconstruction(folder / RECONSTRUCTIONS, "file0.h5", tall)
    page = Page(write_report([folder], tmp_path / "page.html"))
    error = page.json("volume-0")["methods"][0][0]["error"]
    found = values(error, page.json("head")["volumes"][0]["errorTop"])
    assert found.shape == SHAPE
    np.testing.assert_allclose(found, 0.1, atol=2e-3)


def test_files_of_reconstruct_are_drawn_side_by_side_a_picture_for_each_scan_and_mask(tmp_path: Path) -> None:
    paths = []
    for method, mask in (("tv", "none"), ("unet", "none"), ("tv", "random_8x"), ("unet", "random_8x"), ("dip", "x")):
        folder = tmp_path / f"{method} {mask}"
        origin = {"method": method, "mask": mask, "input": "scan.h5"}
        std = 0.1 * target() if method == "unet" else None
        paths.append(write_reconstruction(folder, "scan", target(), std, origin=origin))
    drawn = draw_images(paths, tmp_path / "out")
    assert [path.name for path in drawn] == ["scan_0.png", "scan_1.png"]
    for path in drawn:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
    assert [path.name for path in draw_images(paths[:2], tmp_path / "out")] == ["scan.png"]
    assert draw_images(paths[1:3], tmp_path / "out") == []
    # a scan of the same name elsewhere is another one
    origin = {"method": "unet", "mask": "none", "input": "other/scan.h5"}
    other = write_reconstruction(tmp_path / "other", "scan", target(), origin=origin)
    assert draw_images([paths[0], other], tmp_path / "out") == []


def test_files_of_reconstruct_are_shown_without_a_reference(tmp_path: Path) -> None:
    for method in ("tv", "unet"):
        origin = {"method": method, "mask": "none", "acceleration": "3.57", "input": "/home/someone/scan.h5"}
        write_reconstruction(tmp_path / method, "scan", target(), origin=origin, slices=[3, 5, 7, 9])
    page = Page(write_report([tmp_path / "tv", tmp_path / "unet" / "scan.h5"], tmp_path / "page.html"))
    (about,) = page.json("head")["volumes"]
    assert about["methods"] == ["tv", "unet"] and about["slices"] == [3, 5, 7, 9] and about["targets"] == 0
    assert page.json("head")["rows"] == [] and "someone" not in page.text
    assert page.json("head")["title"] == "scan, as measured, R 3.57"
    assert page.json("head")["warnings"] == ["volumes without a reference image, whose errors are unknown: 1"]


def test_a_page_that_is_too_large_is_stored_with_loss_and_says_so(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(0.4, 0.6, (2, 128, 128)).astype(np.float32)
    folder = tmp_path / "a"
    write_reconstruction(folder / RECONSTRUCTIONS, "file0.h5", noise + 0.1)
    write_target(folder / TARGETS, "file0.h5", noise, noise > 0)
    write_rows(folder / RESULTS, [row("tv", "file0.h5", n_slices=2, crop="128x128")])
    whole = Page(write_report([folder], tmp_path / "whole.html"))
    n_bytes = len(whole.scripts["volume-0"]) - 1
    small = Page(write_report([folder], tmp_path / "small.html", n_bytes / 1e6))
    assert "without loss" in whole.json("head")["encoding"]
    assert "with loss (WebP, quality 90)" in small.json("head")["encoding"] and small.json("head")["gamma"] == 1
    assert len(small.scripts["volume-0"]) <= n_bytes
    about = small.json("head")["volumes"][0]
    found = about["top"] * pixels(small.json("volume-0")["target"][0])[..., 0] / 255.0
    # WebP at 90 leaves about two codes of 255 in noise
    assert np.sqrt(np.mean((found - noise[0]) ** 2)) < 4 * about["top"] / 255


def test_where_no_loss_suffices_fewer_volumes_are_shown_and_all_are_in_the_tables(tmp_path: Path) -> None:
    names = tuple(f"file{i}.h5" for i in range(8))
    folder = write_folder(tmp_path / "a", "tv", 0.1, volumes=names)
    all_lossy = Page(write_report([folder], tmp_path / "all.html", 0.001 * 8))
    assert len(all_lossy.json("head")["rows"]) == 8
    one = len(all_lossy.scripts["volume-0"])
    page = Page(write_report([folder], tmp_path / "few.html", 3.5 * one / 1e6))
    head = page.json("head")
    assert [volume["name"] for volume in head["volumes"]] == ["file0.h5", "file2.h5", "file5.h5"]
    assert len(head["rows"]) == 8 and sum(name.startswith("volume-") for name in page.scripts) == 3
    assert head["warnings"] == ["the images of 3 of 8 volumes are shown, for the size of the page"]


def test_every_encoding_is_smaller_than_the_one_before() -> None:
    noise = np.random.default_rng(0).uniform(0, 1, (64, 64))
    sizes = [len(encoding.text(noise, 1.0)) for encoding in ENCODINGS]
    assert sizes == sorted(sizes, reverse=True)


def test_pixels_that_are_not_numbers_are_black_and_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", "tv", 0.1)
    images = np.array(target())
    images[0, 0, 0], images[0, 0, 1] = np.nan, np.inf
    write_reconstruction(folder / RECONSTRUCTIONS, "file0.h5", images)
    page = Page(write_report([folder], tmp_path / "page.html"))
    assert page.json("head")["warnings"] == ["volumes in which tv has pixels that are no numbers, shown black: 1"]
    shown = pixels(page.json("volume-0")["methods"][0][0]["image"])
    assert shown[0, 0] == 0 and shown[0, 1] == 0 and shown[1, 1] > 0


def test_images_that_contradict_the_table_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", "tv", 0.1)
    write_reconstruction(folder / RECONSTRUCTIONS, "file0.h5", target(2))
    with pytest.raises(InputError, match=r"holds 2 slices, results.csv counts 4; evaluate tv again"):
        write_report([folder], tmp_path / "page.html")
    write_folder(folder, "tv", 0.1, crop="64x48")
    with pytest.raises(InputError, match=r"holds images of 32x48, results\.csv says 64x48"):
        write_report([folder], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere does not exist; give a folder of evaluate.py"),
        (["empty"], "empty has neither results.csv nor .h5 files"),
        (["a", "--out", "empty"], "--out empty does not end in .html"),
        (["a", "--megabytes", "0"], "--megabytes is 0; expected a number above 0"),
        (["broken.h5"], "broken.h5 is not a whole file of reconstructions"),
        (["a", "a"], "a is given twice"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(Path("a"), "tv", 0.1)
    Path("empty").mkdir()
    Path("broken.h5").write_bytes(b"nothing")
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert words in error and error.startswith("error: ") and error.count("\n") == 1


def test_the_command_writes_the_page_and_says_its_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "a", "tv", 0.1)
    assert main([str(folder), "--out", str(tmp_path / "page.html")]) == 0
    assert re.search(r"page\.html \(\d+\.\d MB\)", capsys.readouterr().out)
