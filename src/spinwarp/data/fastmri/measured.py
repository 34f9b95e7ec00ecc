"""Measured k-space without a reference, for reconstruction only: HDF5 in the fastMRI layout, or ``.npy``."""

from dataclasses import replace

import h5py
import numpy as np
import torch

from spinwarp.acquisition import Acquisition, Header
from spinwarp.data.fastmri.index import open_volume, scan
from spinwarp.data.fastmri.layout import read_geometry, read_maps
from spinwarp.data.measurement import Measured, coils_misplaced, in_order
from spinwarp.data.sampling import read_slice
from spinwarp.errors import InputError
from spinwarp.files import open_npy, user_path


class Measurement(Measured):
    """One file of k-space, read slice by slice; :func:`read_slice` finds out what was measured.

    HDF5 holds ``kspace`` (slice, [coil,] h, w) and may hold ``mask``, as fastMRI's test sets do, ``maps`` and
    ``geometry``. ``.npy`` holds complex (h, w), (coil, h, w) or (slice, coil, h, w), or axes in the order of ``axes``.

    Parameters
    ----------
    path : the file.
    axes : of a ``.npy`` file, see :func:`spinwarp.data.measurement.in_order`.

    Raises
    ------
    InputError : if the file cannot be read as k-space.
    """

    def __init__(self, path: str, axes: str | None = None) -> None:
        self.path = user_path(path)
        self._axes = axes
        self._suffix = self.path.suffix.lower()
        if self._suffix == ".npy":
            self.header = Header(source=self.path.name)
            n_slices = len(self._npy())
        elif self._suffix in (".h5", ".hdf5") or h5py.is_hdf5(self.path):
            entry = scan(self.path, "unknown")
            self.header, n_slices = entry.header, entry.n_slices
        else:
            raise InputError(f"{self.path.name}: .h5 (fastMRI layout) or .npy is expected; convert the file first")
        super().__init__(self.path, n_slices)

    def read(self, index: int) -> Acquisition:
        """Read one slice as a batch of one.

        Raises
        ------
        InputError : if its k-space is not finite, all slices are zero, or the mask in the file belongs to other data.
        """
        geometry, maps = None, None
        if self._suffix == ".npy":
            kspace, mask = read_slice(self.path, self._npy(), None, index)
        else:
            with open_volume(self.path) as file:
                columns = self.header.acquired_columns
                kspace, mask = read_slice(self.path, file["kspace"], file.get("mask"), index, columns)
                geometry = read_geometry(self.path, file, index)
                maps = read_maps(self.path, file, index)
        return Acquisition(
            kspace=torch.from_numpy(kspace)[None],
            mask=torch.from_numpy(mask)[None, None],
            maps=maps,
            headers=(replace(self.header, geometry=geometry),),
        )

    def _npy(self) -> np.ndarray:
        """Return the file as a memory-mapped array (slice, coil, h, w)."""
        if not self.path.is_file():
            raise InputError(f"there is no file {self.path}")
        array = open_npy(self.path)
        if not np.iscomplexobj(array) or not 2 <= array.ndim <= 4 or 0 in array.shape:
            raise InputError(
                f"{self.path} holds {array.dtype} of shape {array.shape}; complex (h, w), (coil, h, w) or "
                f"(slice, coil, h, w) is expected"
            )
        if self._axes is not None:
            return in_order(self.path, "its array", array, self._axes)
        array = array[(None,) * (4 - array.ndim)]
        _, n_coils, h, w = array.shape
        if coils_misplaced(n_coils, w):
            raise InputError(
                f"{self.path} would be {n_coils} coils of {h}x{w} pixels; are its axes in another order? Name it with "
                f"axes=, such as axes=hwc or axes=shwc with the coils last, or axes=chw or axes=schw if this is right"
            )
        return array
