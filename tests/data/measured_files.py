"""Files of random k-space, and what each reader says was measured in them."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.random import RandomState

from spinwarp.acquisition import Acquisition
from spinwarp.data.fastmri.measured import Measurement
from spinwarp.data.fastmri.source import FastMRIFiles, Folders

LINES = np.arange(12) % 3 > 0
ROWS = np.arange(16) >= 5


def random_kspace(*shape: int, seed: int = 0) -> np.ndarray:
    rng = RandomState(seed)
    return (rng.randn(*shape) + 1j * rng.randn(*shape)).astype(np.complex64)


def acquisitions(tmp_path: Path, kspace: np.ndarray, mask: Any = None, **attributes: int) -> list[list[Acquisition]]:
    """The slices of a file as training and evaluation read them, and as reconstruct.py does."""
    path = tmp_path / "set" / "a.h5"
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        if mask is not None:
            file["mask"] = mask
        file.attrs.update(attributes)
    source = FastMRIFiles("x", Folders(str(tmp_path), val="set"))
    (volume,) = source.volumes("val")
    slices = list(range(len(kspace)))
    read = [source.read(volume, i).acquisition for i in slices]
    return [read, [e.acquisition for e in Measurement(str(path)).slices(slices)]]


def check(tmp_path: Path, kspace: np.ndarray, stored: Any, expected: np.ndarray, **attributes: int) -> None:
    """Both readers find ``expected`` (slice, h, w), leave k-space as it was there, and zero elsewhere."""
    for found in acquisitions(tmp_path, kspace, stored, **attributes):
        for one, k, m in zip(found, kspace, np.broadcast_to(expected, (len(kspace), 16, 12)), strict=True):
            np.testing.assert_array_equal(one.mask[0, 0].expand(16, -1).numpy(), m)
            np.testing.assert_array_equal(one.kspace[0].numpy(), np.where(m, k, 0).reshape(-1, 16, 12))
            first, last = attributes.get("padding_left", 0), attributes.get("padding_right", 12)
            assert float(one.acceleration()) == pytest.approx(16 * (last - first) / m[:, first:last].sum())
