"""The commands take raw data."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from raw_files import random_kspace, twix_readout, write_twix
from scipy.io import savemat

from spinwarp.cli.convert import main
from spinwarp.cli.reconstruct import main as reconstruct


def rss(kspace: np.ndarray) -> np.ndarray:
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    return np.sqrt((np.abs(images) ** 2).sum(-3))


def test_an_array_of_matlab_is_reconstructed_by_name_and_axes(run: Any, tmp_path: Path) -> None:
    kspace = random_kspace(2, 1, 16, 12)  # slice, coil, h, w
    savemat(tmp_path / "scan.mat", {"other": random_kspace(3, 3), "k": kspace.transpose(2, 3, 0, 1)})
    done = run(reconstruct, "input=scan.mat", "variable=k", "axes=hwsc", "recon=zero_filled", "out=out")
    assert done.code == 0, done.err
    with h5py.File(tmp_path / "out" / "scan.h5") as file:
        np.testing.assert_allclose(file["reconstruction"][()], rss(kspace), rtol=1e-4, atol=1e-5)


def test_a_converted_scan_is_reconstructed_like_the_scan_itself(run: Any, tmp_path: Path) -> None:
    kspace = random_kspace(2, 32, 12)
    write_twix(tmp_path / "meas.dat", [twix_readout(kspace[:, :, c], line=c) for c in range(12)])
    assert main([str(tmp_path / "meas.dat"), str(tmp_path / "meas.mrd")]) == 0
    images = []
    for name in ("meas.dat", "meas.mrd"):
        done = run(reconstruct, f"input={name}", "recon=zero_filled", f"out={name}_out")
        assert done.code == 0, done.err
        with h5py.File(tmp_path / f"{name}_out" / "meas.h5") as file:
            images.append(file["reconstruction"][()])
    np.testing.assert_array_equal(*images)
