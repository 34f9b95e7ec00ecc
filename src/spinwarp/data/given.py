"""Coil maps and sampling masks of the user's own: npy, MATLAB, BART's cfl, and for masks PNG."""

import logging
import math
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.random import RandomState
from PIL import Image
from scipy.io import loadmat, whosmat
from torch import Tensor

from spinwarp.acquisition import Example, acs_columns
from spinwarp.errors import InputError
from spinwarp.files import as_input_error, is_folder, list_files, open_npy, user_path, warn_once

log = logging.getLogger(__name__)
_ARRAYS = (".npy", ".cfl", ".mat")
_NORMALISED = 1e-3  # by which a sum of squares may miss one
_BART_SLICE = 13  # BART's dimensions: readout, two of phase encoding, coils, ..., slices


class GivenMaps:
    """Coil sensitivities from a file, or from a folder with a file named after each volume.

    The maps of a file are ``(coil, h, w)`` for all slices of a volume or ``(slice, coil, h, w)``; in MATLAB files they
    are ``(h, w, coil)`` or ``(h, w, coil, slice)``. They are divided by their root sum of squares, which the log says.

    Parameters
    ----------
    path : of an ``.npy``, ``.mat`` or ``.cfl`` file, or of a folder.
    key : of the configuration, for messages.

    Raises
    ------
    InputError : if there is no such file or folder.
    """

    def __init__(self, path: str, key: str = "maps") -> None:
        self.path = user_path(path)
        self._folder = is_folder(self.path)
        if not self._folder and not self.path.is_file():
            raise InputError(f"{key}={path} is not low_resolution, espirit or none, nor a file or folder of coil maps")

    def __call__(self, example: Example) -> Example:
        """Return an example, a batch of one, with its coil maps.

        Raises
        ------
        InputError : if the maps do not fit the k-space, are not finite, or are zero everywhere.
        """
        path = self._of(example.volume[0])
        maps = _array(path, "coil maps")
        if path.suffix.lower() != ".npy":
            maps = maps.T.swapaxes(-1, -2)  # in the order of MATLAB and BART: h, w, coil, slice
        n_coils, h, w = example.acquisition.kspace.shape[1:]
        maps = maps[None] if n_coils == 1 and maps.ndim == 2 else maps
        if maps.ndim == 4:
            index = 0 if len(maps) == 1 else example.slice[0]
            if index >= len(maps):
                raise InputError(f"{path} holds maps of {len(maps)} slices, but slice {index} is asked for")
            maps = maps[index]
        if maps.shape != (n_coils, h, w):
            raise InputError(f"{path} holds maps (coil, h, w) of {maps.shape}; k-space is {(n_coils, h, w)}")
        chosen = torch.from_numpy(np.array(maps, np.complex64))
        power = chosen.abs().square().sum(0)
        if not power.isfinite().all() or not power.any():
            raise InputError(f"{path}: the maps of slice {example.slice[0]} are not finite, or zero everywhere")
        inside = power > 0
        if (power[inside] - 1).abs().max() > _NORMALISED:
            warn_once(f"{path}: the squares of its maps do not add up to one; they are divided by their root sum")
            chosen = torch.where(inside, chosen / power.clamp_min(torch.finfo(power.dtype).tiny).sqrt(), 0)
        return replace(example, acquisition=replace(example.acquisition, maps=chosen[None]))

    def _of(self, volume: str) -> Path:
        if not self._folder:
            return self.path
        stem = volume.removesuffix(".h5").removesuffix(".hdf5").removesuffix(".npy")
        for path in list_files(self.path, _ARRAYS):
            if path.stem == stem:
                return path
        raise InputError(f"the folder {self.path} has no coil maps of {volume}: no {stem}.npy, {stem}.mat, {stem}.cfl")


class FileMask:
    """A sampling mask from a file, the same for every scan.

    Parameters
    ----------
    path : of an ``.npy``, ``.mat``, ``.cfl`` or ``.png`` file of shape (w,), (1, w) or (h, w), with one value, such as
        0, where k-space is left out and a larger one, such as 1 or 255, where it is sampled.

    Raises
    ------
    InputError : if there is no such file.
    """

    nominal_acceleration = math.nan  # the realised one is known for every scan

    def __init__(self, path: str) -> None:
        self.path = user_path(path)
        if not self.path.is_file():
            raise InputError(f"there is no file {path}; give the mask as mask.path=FILE")

    def __call__(self, shape: tuple[int, int], generator: RandomState) -> tuple[Tensor, int]:  # noqa: ARG002
        """Return the mask ``(1 or h, w)`` and its number of central columns.

        Raises
        ------
        InputError : if it does not fit k-space of ``shape`` = (h, w), or has more values than two.
        """
        mask = self._mask
        if tuple(mask.shape) not in (shape, (1, shape[1])):
            raise InputError(
                f"the mask in {self.path} has shape {tuple(mask.shape)}; for this k-space it has to be {shape}, or "
                f"one line of {shape[1]} columns"
            )
        if bool((mask == mask[:1]).all()):
            mask = mask[:1]  # lines, along which the transform can be left out
        return mask, int(acs_columns(mask[None, None])[0])

    @cached_property
    def _mask(self) -> Tensor:
        if self.path.suffix.lower() == ".png":
            with as_input_error(self.path, "picture"), Image.open(self.path) as picture:
                values = np.asarray(picture if len(picture.getbands()) == 1 else picture.convert("L"))
        else:
            values = np.asarray(_array(self.path, "sampling mask")).squeeze()
        values = values[None] if values.ndim == 1 else values
        found = np.unique(values) if values.ndim == 2 and np.isfinite(values).all() else np.zeros(0)
        if not 1 <= len(found) <= 2 or found.imag.any() or not found.real.max() > 0:
            raise InputError(
                f"{self.path} is no sampling mask: it holds {values.dtype} of shape {values.shape} with "
                f"{len(found) or 'not finite'} values; expected are (h, w) or one line, with 0 and 1"
            )
        return torch.from_numpy(values.real > (found.real.max() / 2))


def _array(path: Path, what: str) -> np.ndarray:
    """Return the array of a file, memory-mapped where the format allows it."""
    suffix = path.suffix.lower()
    if suffix not in _ARRAYS:
        raise InputError(f"{path}: {what} come as {', '.join(_ARRAYS)}")
    with as_input_error(path, f"file of {what}"):
        if suffix == ".npy":
            array = open_npy(path)
        elif suffix == ".cfl":
            array = _cfl(path)
        else:
            status = path.stat()
            array = _matlab(path, (status.st_mtime_ns, status.st_size))
        if array.dtype.kind not in "biufc" or not array.size:
            raise InputError(f"{path} holds no array of numbers")
    return array


def _cfl(path: Path) -> np.ndarray:
    """Read BART's format as (h, w, coil) or (h, w, coil, slice); the header beside it has the dimensions."""
    lines = path.with_suffix(".hdr").read_text().splitlines()
    dims = [int(number) for number in lines[lines.index("# Dimensions") + 1].split()]
    if math.prod(dims) * 8 != path.stat().st_size:
        raise ValueError(f"its header says {dims}, which is not its size")
    h, w, z, coils, *rest = [*dims, *[1] * (_BART_SLICE + 1 - len(dims))]
    slices = rest[_BART_SLICE - 4]
    if math.prod(rest) != slices or min(z, slices) > 1:
        raise ValueError(f"its dimensions {dims} are more than readout, phase encoding, coils and slices")
    array: np.ndarray = np.memmap(path, np.complex64, "r", shape=(h, w, z, coils, slices), order="F")
    array = array[:, :, 0] if z == 1 else array[..., 0].swapaxes(2, 3)
    return array[..., 0] if array.shape[-1] == 1 else array


@lru_cache(maxsize=2)
def _matlab(path: Path, version: tuple[int, int]) -> np.ndarray:  # noqa: ARG001
    """Read the one array of a MATLAB file of any version."""
    if h5py.is_hdf5(path):  # version 7.3
        with h5py.File(path, "r") as file:
            names = [name for name, item in file.items() if isinstance(item, h5py.Dataset)]
            array = np.asarray(file[_only(path, names)]).T
        return array["real"] + 1j * array["imag"] if array.dtype.names else array
    name = _only(path, [name for name, *_ in whosmat(path)])
    return np.asarray(loadmat(path, variable_names=[name])[name])


def _only(path: Path, names: list[str]) -> str:
    if len(names) != 1:
        found = ", ".join(names[:5]) or "none"
        raise InputError(f"{path} has to hold one variable; it holds {found}. Save the one that is meant by itself")
    return names[0]
