"""Raw files of small scans, written by the reference library of the format where there is one."""

import struct
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


def xml(**changes: Any) -> str:
    """A header of a matrix (nx, ny, nz) of 2 mm voxels without oversampling, 5 mm thick; any entry can be changed."""
    sizes = {"nx": 16, "ny": 12, "nz": 1}
    nx, ny, nz = (changes[k] if isinstance(changes.get(k), int) else n for k, n in sizes.items())
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


SETTINGS: dict[str, Any] = {
    "tProtocolName": '"tse"',
    "tSequenceFileName": '"%SiemensSeq%\\tse"',
    "sKSpace.lBaseResolution": 16,
    "sKSpace.lPhaseEncodingLines": 12,
    "sKSpace.ucDimension": 2,
    "sKSpace.ucTrajectory": 1,
    "sRXSPEC.alDwellTime[0]": 5000,
    "sSliceArray.asSlice[0].dReadoutFOV": 32.0,
    "sSliceArray.asSlice[0].dPhaseFOV": 24.0,
    "sSliceArray.asSlice[0].dThickness": 5.0,
}
COUNTERS = ("line", "average", "slice", "partition", "contrast", "phase", "repetition", "set", "segment")


def twix_readout(data: np.ndarray, bits: Sequence[int] = (), old: bool = False, **fields: Any) -> bytes:
    """A readout ``(coil, samples)`` as VD and later, or with ``old`` as VB, store it; fields by plain names."""
    coils, samples = data.shape
    flags = sum(1 << bit for bit in bits)
    counters = [fields.get(name, 0) for name in COUNTERS] + [0] * 5
    middle = struct.pack("<QHH14H", flags, samples, coils, *counters)
    middle += struct.pack("<HHHH", fields.get("pre", 0), fields.get("post", 0), fields.get("centre", samples // 2), 0)
    middle += struct.pack("<fIHH", 0.0, 0, fields.get("centre_line", 6), fields.get("centre_partition", 0))
    place = struct.pack(
        "<7f", *fields.get("position", (0, 0, 0)), *fields.get("quaternion", (0.5**0.5, 0, 0, 0.5**0.5))
    )
    lines = [np.ascontiguousarray(line, np.complex64).tobytes() for line in data]
    if old:
        start = struct.pack("<5I", 128 + 8 * samples, 0, 1, 0, 0)
        heads = [start + middle + bytes(16) + place + struct.pack("<HH", coil, 0) for coil in range(coils)]
        assert len(heads[0]) == 128
        return b"".join(head + line for head, line in zip(heads, lines, strict=True))
    length = 192 + coils * (32 + 8 * samples)
    head = struct.pack("<5I", length, 0, 1, 0, 0) + bytes(20) + middle + place + bytes(64)
    assert len(head) == 192
    return head + b"".join(bytes(32) + line for line in lines)


def twix_end(old: bool = False) -> bytes:
    return twix_readout(np.zeros((1, 16)), [0], old)


def write_twix(path: Path, readouts: Sequence[bytes], old: bool = False, prefix: str = "", **settings: Any) -> Path:
    """Write one measurement, or for ``readouts`` of two lists two: adjustments and the scan.

    ``prefix`` is text of the header; ``settings`` are those of the protocol.
    """
    several = [readouts] if isinstance(readouts[0], bytes) else list(readouts)
    text = "\n".join(f"{name}\t = \t{value}" for name, value in (SETTINGS | settings).items())
    factor = '<ParamDouble."flReadoutOSFactor"> { <Precision> 6  2.000000 }'
    text = f"{prefix}{factor}\n### ASCCONV BEGIN ###\n{text}\n### END"
    section = text.encode("latin-1")
    body = b"MeasYaps\0" + struct.pack("<I", len(section)) + section
    header = struct.pack("<II", max(len(body) + 8, 10_000), 1) + body
    header += bytes(max(10_000 - len(header), 0))
    parts = [header + b"".join(one) + twix_end(old) for one in several]
    if old:
        assert len(parts) == 1
        path.write_bytes(parts[0])
        return path
    at, entries, blocks = 10240, b"", b""
    for part in parts:
        entries += struct.pack("<IIQQ", 0, 0, at + len(blocks), len(part)) + bytes(128)
        blocks += part
    path.write_bytes((struct.pack("<II", 0, len(parts)) + entries).ljust(at, b"\0") + blocks)
    return path


def write_bruker(folder: Path, blocks: np.ndarray, acqp: dict[str, Any], method: dict[str, Any]) -> Path:
    """Write the scan of ``(readout in order of time, coil, samples)``, whole numbers, padded to whole kilobytes."""
    folder.mkdir()
    number, coils, samples = blocks.shape
    pairs = np.ascontiguousarray(blocks, np.complex64).view(np.float32).reshape(number, -1).astype("<i4")
    length = -(-4 * pairs.shape[1] // 1024) * 256
    np.pad(pairs, ((0, 0), (0, length - pairs.shape[1])), constant_values=77).tofile(folder / "fid")

    def text(parameters: dict[str, Any]) -> str:
        lines = ["##TITLE=Parameter List, ParaVision 6.0.1", "$$ a comment"]
        for name, value in parameters.items():
            if isinstance(value, list):
                lines += [f"##${name}=( {len(value)} )", " ".join(map(str, value))]
            else:
                lines.append(f"##${name}={value}")
        return "\n".join([*lines, "##END="])

    acqp = {"ACQ_size": [2 * samples, 12], "NI": 1, "NR": 1, "ACQ_phase_factor": 1, "BYTORDA": "little"} | acqp
    method = {"Method": "<Bruker:FLASH>", "PVM_EncNReceivers": coils, "PVM_Fov": [20.0, 30.0]} | method
    (folder / "acqp").write_text(text(acqp))
    (folder / "method").write_text(text(method))
    return folder
