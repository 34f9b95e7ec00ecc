"""Measured k-space without a reference, for reconstruction only: HDF5 in the fastMRI layout, or ``.npy``."""

from collections.abc import Iterator

import numpy as np
import torch

from spinwarp.acquisition import Acquisition, Example, Header
from spinwarp.data.fastmri.index import open_volume, scan
from spinwarp.data.sampling import read_slice
from spinwarp.errors import InputError
from spinwarp.files import as_input_error, user_path


class Measurement:
    """One file of k-space, read slice by slice; :func:`read_slice` finds out what was measured.

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
        self.path = user_path(path)
        self._suffix = self.path.suffix.lower()
        if self._suffix == ".npy":
            self.header = Header(source=self.path.name)
            self.n_slices = len(self._npy())
        elif self._suffix in (".h5", ".hdf5"):
            entry = scan(self.path, "unknown")
            self.header, self.n_slices = entry.header, entry.n_slices
        else:
            raise InputError(f"{self.path.name}: .h5 (fastMRI layout) or .npy is expected; convert the file first")

    def slices(self, indices: list[int]) -> Iterator[Example]:
        """Read slices one after the other, each as a batch of one without a target.

        Raises
        ------
        InputError : if a slice does not exist, its k-space is not finite, all slices are zero, or the mask in the file
            belongs to other data.
        """
        for index in indices:
            if not 0 <= index < self.n_slices:
                raise InputError(f"{self.path.name} has slices 0 to {self.n_slices - 1}; slice {index} does not exist")
            kspace, mask = self._read(index)
            yield Example(
                acquisition=Acquisition(
                    kspace=torch.from_numpy(kspace)[None],
                    mask=torch.from_numpy(mask)[None, None],
                    headers=(self.header,),
                ),
                target=None,
                data_range=torch.ones(1),
                volume=(self.path.name,),
                slice=(index,),
            )

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if self._suffix == ".npy":
            return read_slice(self.path, self._npy(), None, index)
        with open_volume(self.path) as file:
            return read_slice(self.path, file["kspace"], file.get("mask"), index, self.header.acquired_columns)

    def _npy(self) -> np.ndarray:
        """Return the file as a memory-mapped array (slice, coil, h, w)."""
        if not self.path.is_file():
            raise InputError(f"there is no file {self.path}")
        with as_input_error(self.path, ".npy file of numbers"):
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise InputError(f"{self.path} is an archive of arrays (.npz); save the k-space alone as .npy")
        if not np.iscomplexobj(array) or not 2 <= array.ndim <= 4 or 0 in array.shape:
            raise InputError(
                f"{self.path} holds {array.dtype} of shape {array.shape}; complex (h, w), (coil, h, w) or "
                f"(slice, coil, h, w) is expected"
            )
        return array[(None,) * (4 - array.ndim)]
