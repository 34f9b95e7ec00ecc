"""Raw data of scanners and of other programs, one file a format; all deliver slices as :class:`Measured`."""

from pathlib import Path

import h5py

from spinwarp.data.fastmri.measured import Measurement
from spinwarp.data.measurement import Measured
from spinwarp.data.raw.mrd import is_readouts, open_mrd
from spinwarp.errors import InputError
from spinwarp.files import reading, user_path


def open_measurement(path: str | Path, variable: str | None = None) -> Measured:
    """Open a file of measured k-space, or a Bruker folder; what it is is told from its content.

    Parameters
    ----------
    path : the file or folder.
    variable : name of the array in a file that holds several.

    Raises
    ------
    InputError : if it cannot be read, or is of no format that is supported.
    """
    path = user_path(path)
    with reading(path, "file"), path.open("rb") as file:
        start = file.read(1024)  # noqa
    if h5py.is_hdf5(path):
        return _open_hdf5(path)
    return Measurement(str(path))


def _open_hdf5(path: Path) -> Measured:
    with reading(path, "HDF5 file", "copy or download it again"), h5py.File(path, "r") as file:
        mrd = any(isinstance(item, h5py.Group) and is_readouts(item.get("data")) for item in file.values())
    return open_mrd(path) if mrd else Measurement(str(path))
