"""Coil maps and masks of a user's own, in each format that they come in."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from numpy.random import RandomState
from PIL import Image
from scipy.io import savemat

from spinwarp.acquisition import Acquisition, Example
from spinwarp.data.given import FileMask, GivenMaps
from spinwarp.errors import InputError

COILS, H, W, SLICES = 3, 8, 6, 4


def drawn(*shape: int) -> np.ndarray:
    rng = np.random.RandomState(1)
    return (rng.randn(*shape) + 1j * rng.randn(*shape)).astype(np.complex64)


def write_cfl(path: Path, array: np.ndarray, dims: list[int]) -> None:
    """As BART's own ``cfl.py`` does: Fortran order, dimensions in the header."""
    array.astype(np.complex64).T.tofile(path)
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{' '.join(map(str, dims))}\n# Command\nbart ecalib\n")


def write_matlab_7_3(path: Path, name: str, array: np.ndarray) -> None:
    """As MATLAB does: the axes the other way round, complex numbers as pairs."""
    with h5py.File(path, "w", userblock_size=512) as file:
        pairs = np.empty(array.T.shape, [("real", "<f4"), ("imag", "<f4")])
        pairs["real"], pairs["imag"] = array.T.real, array.T.imag
        file[name] = pairs if np.iscomplexobj(array) else array.T


def example(n_coils: int = COILS, index: int = 2, volume: str = "scan.h5") -> Example:
    acquisition = Acquisition(torch.zeros(1, n_coils, H, W) + 0j, torch.ones(1, 1, 1, W) > 0)
    return Example(acquisition, None, torch.ones(1), (volume,), (index,))


def maps_of(path: Path, **which: int) -> np.ndarray:
    found = GivenMaps(str(path))(example(**which)).acquisition.maps
    assert found is not None and found.dtype == torch.complex64
    return found[0].numpy()


def normalised(maps: np.ndarray) -> np.ndarray:
    return maps / np.sqrt((np.abs(maps) ** 2).sum(-3, keepdims=True))


@pytest.mark.parametrize("volume", [False, True])
@pytest.mark.parametrize("kind", ["npy", "mat", "mat 7.3", "cfl"])
def test_maps_of_every_format_are_the_same(tmp_path: Path, kind: str, volume: bool) -> None:
    maps = drawn(SLICES, COILS, H, W) if volume else drawn(COILS, H, W)
    theirs = np.moveaxis(maps, (-2, -1, -3), (0, 1, 2))  # h, w, coil[, slice]
    path = tmp_path / f"maps.{kind[:3]}"
    if kind == "npy":
        np.save(path, maps)
    elif kind == "mat":
        savemat(path, {"sens": theirs})
    elif kind == "mat 7.3":
        write_matlab_7_3(path, "sens", theirs)
    else:
        write_cfl(path, theirs, [H, W, 1, COILS, *[1] * 9, SLICES if volume else 1])
    # rounding of one division
    np.testing.assert_allclose(maps_of(path), normalised(maps[2] if volume else maps), rtol=1e-5)


def test_slices_before_the_coils_as_bart_has_three_dimensions(tmp_path: Path) -> None:
    maps = drawn(SLICES, COILS, H, W)
    write_cfl(tmp_path / "maps.cfl", maps.transpose(2, 3, 0, 1), [H, W, SLICES, COILS])
    np.testing.assert_allclose(maps_of(tmp_path / "maps.cfl"), normalised(maps[2]), rtol=1e-5)


def test_a_folder_has_the_maps_of_each_volume(tmp_path: Path) -> None:
    for i, name in enumerate(("scan", "other.2")):
        np.save(tmp_path / f"{name}.npy", drawn(COILS, H, W) * (i + 1) + i)
    given = GivenMaps(str(tmp_path))
    for i, volume in enumerate(("scan.h5", "other.2.h5")):
        found = given(example(volume=volume)).acquisition.maps
        assert found is not None
        np.testing.assert_allclose(found[0].numpy(), normalised(drawn(COILS, H, W) * (i + 1) + i), rtol=1e-5)
    with pytest.raises(InputError, match=r"has no coil maps of third\.h5: no third\.npy"):
        given(example(volume="third.h5"))


def test_maps_are_zero_where_they_were_and_a_change_of_scale_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    maps = normalised(drawn(COILS, H, W))
    maps[:, :3] = 0
    np.save(tmp_path / "a.npy", maps)
    np.testing.assert_array_equal(maps_of(tmp_path / "a.npy"), maps)
    assert not caplog.text
    np.save(tmp_path / "b.npy", 7 * maps)
    np.testing.assert_allclose(maps_of(tmp_path / "b.npy"), maps, rtol=1e-5)
    assert "b.npy: the squares of its maps do not add up to one; they are divided" in caplog.text


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        (drawn(COILS, W, H), r"holds maps \(coil, h, w\) of \(3, 6, 8\); k-space is \(3, 8, 6\)"),
        (drawn(COILS + 1, H, W), r"of \(4, 8, 6\); k-space is \(3, 8, 6\)"),
        (drawn(2, COILS, H, W), "holds maps of 2 slices, but slice 2 is asked for"),
        (0 * drawn(COILS, H, W), "not finite, or zero everywhere"),
        (drawn(COILS, H, W) * np.nan, "not finite, or zero everywhere"),
        (np.array(["a"]), "holds no array of numbers"),
        (drawn(H, W), r"of \(8, 6\)"),
    ],
)
def test_maps_that_do_not_fit_are_told(tmp_path: Path, maps: np.ndarray, words: str) -> None:
    np.save(tmp_path / "maps.npy", maps)
    with pytest.raises(InputError, match=words):
        maps_of(tmp_path / "maps.npy")


def test_one_coil_needs_no_axis_for_it(tmp_path: Path) -> None:
    np.save(tmp_path / "maps.npy", drawn(H, W))
    np.testing.assert_allclose(np.abs(maps_of(tmp_path / "maps.npy", n_coils=1)), np.ones((1, H, W)), rtol=1e-5)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: savemat(path.with_suffix(".mat"), {"a": np.ones(3), "b": np.ones(3)}), "it holds a, b"),
        (lambda path: path.with_suffix(".mat").write_bytes(b"MATLAB 5.0" * 30), "is not a whole file of coil maps"),
        (lambda path: path.with_suffix(".cfl").write_bytes(b"\0" * 64), "is not a whole file|there is no file"),
        (lambda path: write_cfl(path.with_suffix(".cfl"), drawn(4), [5]), "which is not its size"),
        (lambda path: write_cfl(path.with_suffix(".cfl"), drawn(24), [2, 3, 1, 2, 2]), "are more than readout"),
        (lambda path: path.with_suffix(".txt").write_text("1 2"), r"coil maps come as \.npy, \.cfl, \.mat"),
    ],
)
def test_a_file_of_maps_that_cannot_be_read_is_told(
    tmp_path: Path, write: Callable[[Path], object], words: str
) -> None:
    write(tmp_path / "maps")
    (path,) = (p for p in tmp_path.iterdir() if p.suffix != ".hdr")
    with pytest.raises(InputError, match=words):
        maps_of(path)


def test_maps_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.maps=esprit is not low_resolution, espirit or none, nor a file or"):
        GivenMaps("esprit", "data.maps")


# ------------------------------------------------------------------------------------------------------- masks

PLANE = np.random.RandomState(0).rand(H, W) < 0.4
LINE = np.array([1, 0, 1, 1, 1, 0])  # the centre is column 3


def mask_of(path: Path, shape: tuple[int, int] = (H, W)) -> tuple[np.ndarray, int]:
    mask, n_center = FileMask(str(path))(shape, RandomState(0))
    assert mask.dtype == torch.bool
    return mask.numpy(), n_center


@pytest.mark.parametrize("kind", ["npy", "mat", "mat 7.3", "cfl", "png"])
def test_masks_of_every_format_are_the_same(tmp_path: Path, kind: str) -> None:
    for name, mask in (("plane", PLANE.astype(np.uint8)), ("line", LINE[None].astype(np.uint8))):
        path = tmp_path / f"{name}.{kind[:3]}"
        if kind == "npy":
            np.save(path, mask)
        elif kind == "mat":
            savemat(path, {"mask": mask})
        elif kind == "mat 7.3":
            write_matlab_7_3(path, "mask", mask)
        elif kind == "cfl":
            write_cfl(path, mask, list(mask.shape))
        else:
            Image.fromarray(mask * 255).save(path)
        np.testing.assert_array_equal(mask_of(path)[0], mask > 0)


@pytest.mark.parametrize("values", [LINE, LINE[None], np.tile(LINE, (H, 1)), LINE > 0, LINE * 2.5, LINE + 0j])
def test_lines_may_be_written_in_many_ways(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "mask.npy", values)
    mask, n_center = mask_of(tmp_path / "mask.npy")
    np.testing.assert_array_equal(mask, LINE[None] > 0)
    assert n_center == 3  # columns 2 to 4


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.ones((W, H)), r"has shape \(6, 8\); for this k-space it has to be \(8, 6\), or one line of 6 columns"),
        (np.ones(H), r"has shape \(1, 8\)"),
        (np.arange(H * W).reshape(H, W), "with 48 values; expected are"),
        (np.zeros((H, W)), "is no sampling mask"),
        (np.full((H, W), np.nan), "not finite"),
        (np.ones((2, H, W)), "is no sampling mask"),
        (np.ones((H, W)) * 1j, "is no sampling mask"),
    ],
)
def test_what_is_no_mask_is_told(tmp_path: Path, values: np.ndarray, words: str) -> None:
    np.save(tmp_path / "mask.npy", values)
    with pytest.raises(InputError, match=words):
        mask_of(tmp_path / "mask.npy")
    with pytest.raises(InputError, match=r"there is no file nowhere\.npy; give the mask as mask\.path=FILE"):
        FileMask("nowhere.npy")
