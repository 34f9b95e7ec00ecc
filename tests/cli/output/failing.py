"""A method that fails at its third slice, and what the tests of results share."""

import errno
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Generator

from spinwarp.acquisition import Acquisition, Reconstruction
from spinwarp.errors import InputError
from spinwarp.recon import Reconstructor, ZeroFilled

EVALUATE = [f"data.source.files.{key}={value}" for key, value in {
    "n_train": 1, "n_val": 1, "n_test": 3, "n_slices": 2, "height": 64, "width": 48, "n_coils": 2,
}.items()] + ["mask=random_2x", "save_reconstructions=true"]  # fmt: skip


class Failing(Reconstructor):
    """Zero-filled, until its third call."""

    def __init__(self, error: str, pocs: int = 0) -> None:
        self.error = error
        self.calls = 0

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        self.calls += 1
        result = ZeroFilled()(acquisition)
        if self.calls < 3:
            return result
        if self.error == "diverged":
            return Reconstruction(result.image * torch.nan)
        raise {
            "input": InputError("this slice is odd"),
            "memory": torch.OutOfMemoryError("CUDA out of memory"),
            "interrupt": KeyboardInterrupt(),
            "disk": OSError(errno.ENOSPC, "No space left on device"),
            "bug": ZeroDivisionError("a bug"),
        }[self.error]


def failing(error: str) -> list[str]:
    return ["recon._target_=failing.Failing", f"+recon.error={error}"]


def images(path: Path) -> tuple[np.ndarray, list[int]]:
    with h5py.File(path) as file:
        return file["reconstruction"][()], file["reconstruction"].attrs["slices"].tolist()
