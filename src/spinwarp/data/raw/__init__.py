"""Raw data of scanners and of other programs, one file a format; all deliver slices as :class:`Measured`."""

from pathlib import Path

import h5py

from spinwarp.data.fastmri.measured import Measurement
from spinwarp.data.measurement import Measured
from spinwarp.data.raw.arrays import open_bart, open_matlab
from spinwarp.data.raw.bruker import open_bruker
from spinwarp.data.raw.mrd_file import is_readouts, open_mrd
from spinwarp.data.raw.siemens import is_twix, open_twix
from spinwarp.errors import InputError
from spinwarp.files import as_input_error, is_folder, user_path


def open_measurement(path: str | Path, variable: str | None = None, axes: str | None = None) -> Measured:
    """Open a file of measured k-space, or a Bruker folder; what it is is told by its content.

    Parameters
    ----------
    path : the file or folder.
    variable : name of the array in a MATLAB file.
    axes : order of the axes in a MATLAB or .npy file, see :func:`spinwarp.data.measurement.in_order`.

    Raises
    ------
    InputError : if it cannot be read or is of no format that is supported, or an option does not suit the format.
    """
    path = user_path(path)
    if is_folder(path):
        return open_bruker(path)
    if path.suffix.lower() in (".cfl", ".hdr"):
        return open_bart(path)
    with as_input_error(path, "file"), path.open("rb") as file:
        start = file.read(128)
    if start.startswith((b"MATLAB 5.0", b"MATLAB 7.3")) or path.suffix.lower() == ".mat":
        return open_matlab(path, variable, axes)
    if variable is not None:
        raise InputError(f"{path.name} is no MATLAB file; leave out variable")
    if start.startswith(b"\x93NUMPY"):
        return Measurement(str(path), axes)
    if axes is not None:
        raise InputError(f"{path.name} is neither a MATLAB nor a .npy file; leave out axes")
    if h5py.is_hdf5(path):
        return _open_hdf5(path)
    if path.name in ("fid", "ser", "rawdata.job0"):
        return open_bruker(path.parent)
    if is_twix(path, start):
        return open_twix(path)
    if path.suffix.lower() in (".npy", ".h5", ".hdf5"):  # damaged
        return Measurement(str(path))
    raise InputError(
        f"{path.name} is none of the formats that are read: the fastMRI layout or MRD (HDF5), raw data of Siemens "
        f"(.dat), a folder of Bruker, .cfl of BART, .mat of MATLAB, .npy"
    )


def _open_hdf5(path: Path) -> Measured:
    with as_input_error(path, "HDF5 file", "copy or download it again"), h5py.File(path, "r") as file:
        mrd = any(isinstance(item, h5py.Group) and is_readouts(item.get("data")) for item in file.values())
    return open_mrd(path) if mrd else Measurement(str(path))
