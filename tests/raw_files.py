"""Raw files of small scans, written by the reference library of the format where there is one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np

XML = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
  <measurementInformation><protocolName>T2 TSE</protocolName></measurementInformation>
  <acquisitionSystemInformation><systemVendor>{vendor}</systemVendor></acquisitionSystemInformation>
  <experimentalConditions><H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz></experimentalConditions>
  <encoding>
    <encodedSpace>
      <matrixSize><x>{nx}</x><y>{ny}</y><z>{nz}</z></matrixSize>
      <fieldOfView_mm><x>{fx}</x><y>{fy}</y><z>{fz}</z></fieldOfView_mm>
    </encodedSpace>
    <reconSpace>
      <matrixSize><x>{rx}</x><y>{ry}</y><z>{rz}</z></matrixSize>
      <fieldOfView_mm><x>{gx}</x><y>{gy}</y><z>{gz}</z></fieldOfView_mm>
    </reconSpace>
    <encodingLimits>
      <kspace_encoding_step_1><minimum>{first}</minimum><maximum>{last}</maximum><center>{centre}</center>
      </kspace_encoding_step_1>
      <kspace_encoding_step_2><minimum>0</minimum><maximum>{last2}</maximum><center>{centre2}</center>
      </kspace_encoding_step_2>
    </encodingLimits>
    <trajectory>{trajectory}</trajectory>
    <parallelImaging><accelerationFactor><kspace_encoding_step_1>1</kspace_encoding_step_1>
      <kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>
      <calibrationMode>{mode}</calibrationMode></parallelImaging>
  </encoding>
</ismrmrdHeader>"""


def xml(nx: int = 16, ny: int = 12, nz: int = 1, **changes: Any) -> str:
    """A header of an encoded matrix of 2 mm voxels without oversampling, 5 mm thick; any entry can be changed."""
    values: dict[str, Any] = {
        "vendor": "Other", "nx": nx, "ny": ny, "nz": nz, "fx": 2 * nx, "fy": 2 * ny, "fz": 5 * nz,
        "rx": nx, "ry": ny, "rz": nz, "gx": 2 * nx, "gy": 2 * ny, "gz": 5 * nz,
        "first": 0, "last": ny - 1, "centre": ny // 2, "last2": nz - 1, "centre2": nz // 2,
        "trajectory": "cartesian", "mode": "embedded",
    }  # fmt: skip
    return XML.format(**(values | changes))


def acquisition(data: np.ndarray, flags: Sequence[int] = (), **fields: Any) -> ismrmrd.Acquisition:
    """A readout ``(coil, samples)``; ``fields`` are those of the header, and counters by their names."""
    made = ismrmrd.Acquisition.from_array(np.ascontiguousarray(data, np.complex64))
    made.center_sample = data.shape[1] // 2
    made.sample_time_us = 10.0
    made.read_dir[:], made.phase_dir[:], made.slice_dir[:] = (1, 0, 0), (0, 1, 0), (0, 0, 1)
    for name, value in fields.items():
        if hasattr(made.idx, name):
            setattr(made.idx, name, value)
        elif isinstance(value, tuple):
            getattr(made, name)[:] = value
        else:
            setattr(made, name, value)
    for flag in flags:
        made.set_flag(flag)
    return made


def write_mrd(path: Path, header: str, acquisitions: Sequence[ismrmrd.Acquisition]) -> Path:
    """Write a file with the reference library."""
    with ismrmrd.Dataset(str(path), mode="w") as dataset:
        dataset.write_xml_header(header.encode())
        for one in acquisitions:
            dataset.append_acquisition(one)
    return path


def random_kspace(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.RandomState(seed)
    return (rng.randn(*shape) + 1j * rng.randn(*shape)).astype(np.complex64)


def lines_of(kspace: np.ndarray, flags: Callable[[int], Sequence[int]] = lambda _: (), **fields: Any) -> list[Any]:
    """The readouts of ``(coil, rows, columns)``, one for each column."""
    return [
        acquisition(kspace[:, :, column], flags(column), kspace_encode_step_1=column, **fields)
        for column in range(kspace.shape[-1])
    ]
