"""Measured k-space without any reference, for reconstruction only: HDF5 of the fastMRI layout, or ``.npy``."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from spinwarp.acquisition import Acquisition, Example, Header
from spinwarp.data.index import open_volume, scan
from spinwarp.errors import InputError
from spinwarp.files import reading


class Measurement:
    """One file of k-space, read slice by slice; its sampling mask is where the data is not zero.

    HDF5 holds ``kspace`` (slice, [coil,] h, w) and may hold ``mask``, as fastMRI's test sets do. ``.npy`` holds complex
    (h, w), (coil, h, w) or (slice, coil, h, w).

    Parameters
    ----------
    path : the file.

    Raises
    ------
    InputError : if the file cannot be read as k-space.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).expanduser()
        if self.path.suffix == ".npy":
            self.header = Header(source=self.path.name)
            self.n_slices = len(self._npy())
        elif self.path.suffix in (".h5", ".hdf5"):
            entry = scan(self.path, "unknown")
            self.header, self.n_slices = entry.header, entry.n_slices
        else:
            raise InputError(f"{self.path.name}: .h5 (fastMRI layout) or .npy is expected; convert the file first")

    def slices(self, indices: list[int]) -> Iterator[Example]:
        """Read slices one after the other, each as a batch of one without a target.

        Raises
        ------
        InputError : if a slice does not exist, or its k-space is not finite or all zero.
        """
        for index in indices:
            if not 0 <= index < self.n_slices:
                raise InputError(f"{self.path.name} has slices 0 to {self.n_slices - 1}; slice {index} does not exist")
            kspace = self._kspace(index)
            if not np.isfinite(kspace).all():
                raise InputError(f"{self.path} has NaN or infinite k-space in slice {index}")
            if self.n_slices == 1 and not kspace.any():
                raise InputError(f"{self.path} has nothing but zeros in slice {index}")
            yield Example(
                acquisition=Acquisition(
                    kspace=torch.from_numpy(kspace)[None],
                    mask=torch.from_numpy(sampling_mask(kspace))[None, None],
                    headers=(self.header,),
                ),
                target=None,
                data_range=torch.ones(1),
                volume=(self.path.name,),
                slice=(index,),
            )

    def _kspace(self, index: int) -> np.ndarray:
        if self.path.suffix == ".npy":
            kspace = self._npy()[index]
        else:
            with open_volume(self.path) as file:
                kspace = file["kspace"][index]
        kspace = np.array(kspace, dtype=np.complex64)
        return kspace if kspace.ndim == 3 else kspace[None]

    def _npy(self) -> np.ndarray:
        """The file as (slice, coil, h, w), mapped and not read."""
        if not self.path.is_file():
            raise InputError(f"there is no file {self.path}")
        with reading(self.path, ".npy file of numbers"):
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise InputError(f"{self.path} is an archive of arrays (.npz); save the k-space alone as .npy")
        if not np.iscomplexobj(array) or not 2 <= array.ndim <= 4 or 0 in array.shape:
            raise InputError(
                f"{self.path} holds {array.dtype} of shape {array.shape}; complex (h, w), (coil, h, w) or "
                f"(slice, coil, h, w) is expected"
            )
        return array[(None,) * (4 - array.ndim)]


def sampling_mask(kspace: np.ndarray) -> np.ndarray:
    """Where ``(coil, h, w)`` was measured: bool ``(1, w)`` if its columns are sampled alike, else ``(h, w)``."""
    sampled = (kspace != 0).any(axis=0)
    columns = sampled.any(axis=0)
    rows = sampled.any(axis=1)
    if (sampled == columns & rows[:, None]).all() and rows.mean() > 0.5:
        return columns[None]
    return sampled
