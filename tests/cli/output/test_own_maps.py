"""Coil maps and a mask of the user's own, for reconstruct.py and evaluate.py."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from command_calls import Command
from failing import EVALUATE, images

from spinwarp.results import read_rows


def test_own_maps_and_an_own_mask_are_what_the_method_gets(command: Command, tmp_path: Path) -> None:
    """Two slices with maps of their own; the answer of CG-SENSE is computed from its operator written out."""
    rng = np.random.default_rng(3)
    maps = (rng.normal(size=(2, 3, 16, 12)) + 1j * rng.normal(size=(2, 3, 16, 12))).astype(np.complex64)
    maps /= np.sqrt((np.abs(maps) ** 2).sum(1, keepdims=True))
    truth = rng.normal(size=(2, 16, 12)) + 1j * rng.normal(size=(2, 16, 12))
    shift = lambda function, x: np.fft.fftshift(function(np.fft.ifftshift(x, (-2, -1)), norm="ortho"), (-2, -1))  # noqa: E731
    mask = np.arange(12) % 2 == 0
    np.save(tmp_path / "scan.npy", shift(np.fft.fft2, maps * truth[:, None]).astype(np.complex64))
    np.save(tmp_path / "maps.npy", maps)
    np.save(tmp_path / "mask.npy", mask)
    call = ["input=scan.npy", "recon=cg_sense", "recon.weight=0", "mask=file", "mask.path=mask.npy"]
    done = command("reconstruct", *call, "recon.maps=maps.npy", "out=r")
    assert done.code == 0, done.err
    # three coils at twice the speed: the least squares problem has one solution, the truth
    np.testing.assert_allclose(images(tmp_path / "r" / "scan.h5")[0], np.abs(truth), atol=1e-3)
    with h5py.File(tmp_path / "r" / "scan.h5") as file:
        assert file.attrs["mask"] == "file mask.npy"
    assert (
        "recon.maps=eslirit is not one of espirit, low_resolution, given, and there is no such file"
        in command("reconstruct", *call, "recon.maps=eslirit", "out=s").sentence
    )
    assert (
        "maps=no is not low_resolution, espirit or none, nor a file or folder"
        in command("reconstruct", *call, "maps=no", "out=s").sentence
    )
    assert not (tmp_path / "s").exists()


def test_an_evaluation_takes_own_maps_and_an_own_mask_too(command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.arange(48) % 2 == 0)
    maps = np.ones((2, 64, 48), np.complex64)
    np.save(tmp_path / "maps.npy", maps)
    own = ["mask=file", "mask.path=mask.npy", "n_volumes=1", "recon=cg_sense", "recon.weight=0.01"]
    done = command("evaluate", *EVALUATE[:-2], *own, "recon.maps=maps.npy", "out=r")
    assert done.code == 0, done.err
    assert "maps.npy: the squares of its maps do not add up to one" in done.out
    (row,) = read_rows(tmp_path / "r" / "results.csv")
    assert row.mask == "file mask.npy" and row.acceleration == pytest.approx(2)
    np.save(tmp_path / "maps.npy", maps[..., :-1])
    sentence = command("evaluate", *EVALUATE[:-2], *own, "recon.maps=maps.npy", "out=s").sentence
    assert "maps.npy holds maps (coil, h, w) of (2, 64, 47); k-space is (2, 64, 48)" in sentence
