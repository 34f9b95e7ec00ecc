"""Write measured slices as MRD."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np

from spinwarp.acquisition import Acquisition
from spinwarp.data.fastmri.layout import header_xml
from spinwarp.data.raw.mrd import HEAD
from spinwarp.errors import InputError
from spinwarp.files import atomic_write, warn_once

_READOUT = np.dtype([("head", HEAD), ("traj", h5py.vlen_dtype("<f4")), ("data", h5py.vlen_dtype("<f4"))])
_FIRST_IN_SLICE, _LAST_IN_SLICE, _LAST = 7, 8, 25


def write_mrd(path: Path, slices: Iterable[Acquisition], n_slices: int) -> None:
    """Write slices, one readout for each measured column; the write is atomic.

    Parameters
    ----------
    path : the file to write.
    slices : batches of one; all of one matrix.
    n_slices : their number.

    Raises
    ------
    InputError : if single points were measured, which readouts cannot express, or the slices differ in their matrix.
    """
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        data = file.create_dataset("dataset/data", (0,), _READOUT, maxshape=(None,))
        xml = ""
        for index, acquisition in enumerate(slices):
            header = acquisition.headers[0]
            if acquisition.maps is not None:
                warn_once(f"{path.name}: MRD has no place for coil maps, and those of the scan are left out")
            h, w = acquisition.kspace.shape[-2:]
            written = header_xml((h, w), header, n_slices)
            if xml and written != xml:
                raise InputError(
                    f"slice {index} differs from those before it in its matrix, field of view or acquired columns, and "
                    f"one MRD file has one encoding for all; write the fastMRI layout instead"
                )
            xml = written
            readouts = list(_readouts(acquisition, index, index == n_slices - 1))
            data.resize(len(data) + len(readouts), 0)
            data[len(data) - len(readouts) :] = np.array(readouts, _READOUT)
        file["dataset"].create_dataset("xml", (1,), h5py.string_dtype())[0] = xml


def _readouts(acquisition: Acquisition, index: int, last: bool) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    kspace, mask, header = acquisition.kspace[0].numpy(), acquisition.mask[0, 0], acquisition.headers[0]
    coils, h, w = kspace.shape
    measured = mask.expand(h, w).numpy()
    columns, rows = np.flatnonzero(measured.any(axis=0)), np.flatnonzero(measured.any(axis=1))
    span = slice(rows[0], rows[-1] + 1)
    if not measured[span][:, columns].all():
        raise InputError(
            f"of slice {index} single points were measured, not lines, which readouts of MRD cannot express; write the "
            f"fastMRI layout instead"
        )
    head = np.zeros((), HEAD)
    head["version"], head["idx"]["slice"] = 1, index
    head["number_of_samples"], head["center_sample"] = rows[-1] + 1 - rows[0], h // 2 - rows[0]
    head["available_channels"] = head["active_channels"] = coils
    if (known := header.geometry) is not None:
        head["position"], head["slice_dir"] = known.position, known.slice
        head["read_dir"], head["phase_dir"] = known.readout, known.phase
    first = (header.acquired_columns or (0, w))[0]
    for column in columns:
        one = head.copy()
        one["idx"]["kspace_encode_step_1"] = column - first
        flags = {_FIRST_IN_SLICE: column == columns[0], _LAST_IN_SLICE: column == columns[-1]}
        flags[_LAST] = last and column == columns[-1]
        one["flags"] = sum(1 << (number - 1) for number, set_ in flags.items() if set_)
        line = np.ascontiguousarray(kspace[:, span, column])
        yield one, np.empty(0, np.float32), line.view(np.float32).reshape(-1)
