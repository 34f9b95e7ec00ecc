"""K-space as one array: BART's ``.cfl`` and MATLAB's ``.mat``. Neither says where the scan lies in the patient."""

import itertools
import logging
import math
from pathlib import Path

import h5py
import numpy as np
import torch
from scipy.io import loadmat, whosmat

from spinwarp.acquisition import Acquisition, Header
from spinwarp.data.measurement import Measured, in_order
from spinwarp.data.sampling import read_slice
from spinwarp.errors import InputError
from spinwarp.files import LARGEST_RATIO, as_input_error
from spinwarp.fourier import ifftc

log = logging.getLogger(__name__)

# the dimensions of BART (src/misc/mri.h)
_READ, _PHASE, _PARTITION, _COIL, _MAPS = range(5)
_NAMES = {5: "echoes", 10: "time points", 11: "second time points", 13: "slices", 14: "averages"}
_LONGEST = 4096  # bytes of a header of BART
_NUMBERS = {"double", "single", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}


class Array(Measured):
    """An array of k-space; what was measured is what is not zero.

    Parameters
    ----------
    path : of the file.
    kspace : ``(slice, coil, h, w)`` complex.
    """

    def __init__(self, path: Path, kspace: np.ndarray) -> None:
        super().__init__(path, len(kspace))
        self.kspace = kspace

    def read(self, index: int) -> Acquisition:
        """Read one slice as a batch of one; see :meth:`Measured.read`."""
        kspace, mask = read_slice(self.path, self.kspace, None, index)
        return Acquisition(
            torch.from_numpy(kspace)[None], torch.from_numpy(mask)[None, None], headers=(Header(source=self.path.name),)
        )


def open_bart(path: Path) -> Array:
    """Open a pair of files ``.cfl`` and ``.hdr`` by the name of either.

    Dimension 0 is the readout, 1 and 2 are phase encoding, 3 the coils; all others become further slices. With a
    readout and two phase encodings, slices are taken along the readout, where nothing is missing. Without a readout,
    the two phase encodings are the plane.

    Raises
    ------
    InputError : if a file of the pair is missing or damaged, or it holds several sets of maps.
    """
    path, described = path.with_suffix(".cfl"), path.with_suffix(".hdr")
    with as_input_error(described, "header of BART"), described.open("rb") as file:
        lines = file.read(_LONGEST).decode("ascii").splitlines()
        numbers = next(line for title, line in itertools.pairwise(lines) if title.strip() == "# Dimensions")
        sizes = [int(word) for word in numbers.split()]
    sizes += [1] * (16 - len(sizes))
    count = math.prod(sizes)
    with as_input_error(path, "file of BART"):
        stored = path.stat().st_size
    if len(sizes) > 16 or min(sizes) < 1 or 8 * count != stored:
        raise InputError(
            f"{described} says {'x'.join(map(str, sizes[:5]))}... numbers, but {path.name} has {stored} bytes, eight "
            f"to a number; they do not belong together, or one is not whole"
        )
    if sizes[_MAPS] > 1:
        raise InputError(
            f"{path} has {sizes[_MAPS]} sets of maps: it holds coil maps or images, and k-space is expected"
        )
    array = np.memmap(path, np.complex64, "r", shape=tuple(sizes), order="F")
    further = {axis: n for axis, n in enumerate(sizes) if axis > _MAPS and n > 1}
    if further:
        named = ", ".join(f"{n} {_NAMES.get(axis, f'of dimension {axis}')}" for axis, n in further.items())
        log.info("%s: %s follow each other as slices", path.name, named)
    # (slice, coil, read, phase, partition)
    kspace = array.reshape(*sizes[:4], -1, order="F").transpose(4, 3, 0, 1, 2)
    if sizes[_PARTITION] == 1:
        return Array(path, kspace[..., 0])
    if sizes[_READ] == 1:
        log.info("%s has no readout; its two phase encodings are the plane of the slices", path.name)
        return Array(path, kspace[:, :, 0])
    log.info(
        "%s is a slab; slices are taken along its readout, and both their directions are phase encoding", path.name
    )
    apart = ifftc(torch.from_numpy(np.ascontiguousarray(kspace)), (-3,)).numpy()
    return Array(path, apart.transpose(0, 2, 1, 3, 4).reshape(-1, *apart.shape[1:2], *apart.shape[3:]))


def open_matlab(path: Path, variable: str | None, axes: str | None) -> Array:
    """Open a MATLAB file of version 5 or 7.3.

    Parameters
    ----------
    path : the file.
    variable : name of the array; None: the only complex one of two or more dimensions.
    axes : a letter for each axis of the array: h (readout), w (phase encoding), c (coils), s (slices). None: hw for a
        matrix.

    Raises
    ------
    InputError : if the file is damaged, the array is not found or not complex, or its axes are not known.
    """
    with as_input_error(path, "MATLAB file", "save it again"):
        arrays = _version_73(path, variable) if h5py.is_hdf5(path) else _version_5(path, variable)
    if len(arrays) != 1:
        found = ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in sorted(arrays.items())[:8])
        what = f"holds several complex arrays ({found}); name one with variable=NAME" if arrays else (
            f"holds no complex array {'named ' + variable if variable else 'of two or more dimensions'}; save complex "
            f"k-space"
        )  # fmt: skip
        raise InputError(f"{path} {what}")
    ((name, array),) = arrays.items()
    return Array(path, in_order(path, name, array, axes))


def _version_5(path: Path, variable: str | None) -> dict[str, np.ndarray]:
    listed = [name for name, shape, kind in whosmat(path) if len(shape) > 1 and min(shape) > 0 and kind in _NUMBERS]
    wanted = [name for name in listed if variable in (None, name)]
    found = loadmat(path, variable_names=wanted) if wanted else {}
    return {
        name: np.asarray(found[name])
        for name in wanted
        if name in found and np.iscomplexobj(found[name]) and (variable or np.sum(np.array(found[name].shape) > 1) > 1)
    }


def _version_73(path: Path, variable: str | None) -> dict[str, np.ndarray]:
    """Read complex arrays, which MATLAB stores as pairs of numbers with reversed axes."""
    found = {}
    with h5py.File(path, "r") as file:
        for name, item in file.items():
            if not isinstance(item, h5py.Dataset) or variable not in (None, name):
                continue
            pairs = set(item.dtype.names or ()) == {"real", "imag"}
            if not (pairs or item.dtype.kind == "c") or item.ndim < 2 or 0 in item.shape:
                continue
            if item.nbytes > LARGEST_RATIO * max(item.id.get_storage_size(), 1):
                raise InputError(f"{path}: {name} is {item.shape}, but hardly any bytes are stored; save it again")
            values = item[()]
            found[name] = (values["real"] + 1j * values["imag"] if pairs else values).astype(np.complex64).T
    return found
