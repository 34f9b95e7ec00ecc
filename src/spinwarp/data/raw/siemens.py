"""Siemens raw data (twix, ``.dat``) of the software versions VB, VD, VE and XA.

A file of VB is one measurement; later ones begin with a list of measurements, of which the last is the scan and those
before it are its adjustments. A measurement is a header of text, then readouts, each with a binary header; in VB every
coil repeats it. Only headers are read at first. The structures and conventions are those that twixtools, pymapVBVD and
siemens_to_ismrmrd document.
"""

import logging
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spinwarp.acquisition import Header
from spinwarp.data.raw.epi import Ramps, corrected
from spinwarp.data.raw.lines import READOUT, Lines, Samples, Scan, both_directions
from spinwarp.data.raw.pulseq import unlabelled
from spinwarp.errors import InputError
from spinwarp.files import as_input_error
from spinwarp.geometry import Geometry

log = logging.getLogger(__name__)

_START = [("length", "<u4"), ("uid", "<i4"), ("scan", "<u4"), ("time", "<u4"), ("pulse_time", "<u4")]
_COUNTERS = ("line", "average", "slice", "partition", "contrast", "phase", "repetition", "set", "segment")
_MIDDLE = [
    ("flags", "<u8"),
    ("samples", "<u2"),
    ("coils", "<u2"),
    *((name, "<u2") for name in _COUNTERS),
    ("free", "<u2", (5,)),
    ("pre", "<u2"),
    ("post", "<u2"),
    ("centre", "<u2"),
    ("coil_select", "<u2"),
    ("offcentre", "<f4"),
    ("since_pulse", "<u4"),
    ("centre_line", "<u2"),
    ("centre_partition", "<u2"),
]
_PLACE = [("position", "<f4", (3,)), ("quaternion", "<f4", (4,))]
#: the header of a readout: 128 bytes in VB, where each coil has one, and 192 later, where a coil has 32 more
VB = np.dtype([*_START, *_MIDDLE, ("parameters", "<u2", (8,)), *_PLACE, ("coil", "<u2"), ("table", "<u2")])
VD = np.dtype([*_START, ("system", "V20"), *_MIDDLE, *_PLACE, ("parameters", "V64")])
_COIL = 32
_MEASUREMENT = np.dtype([("uid", "<u4"), ("file", "<u4"), ("offset", "<u8"), ("length", "<u8"), ("names", "V128")])
_MOST = 64  # measurements of a file

# bits of the flags
_END, _SYNC, _SIGN, _PHASE_CORRECTION, _CALIBRATION, _CALIBRATION_AND_IMAGE, _REVERSE, _NOISE = (
    0,
    5,
    17,
    21,
    22,
    23,
    24,
    25,
)
_NO_IMAGE = {
    1: "feedback",
    2: "feedback",
    14: "phase stabilisation",
    15: "phase stabilisation",
    21: "phase correction",
    51: "dummy scans",
}
_EVEN, _TRAPEZOID = 1, 2  # modes of regridding
_TRAJECTORIES = {2: "radial", 4: "spiral", 8: "PROPELLER (BLADE)"}
_SEPARATE = 4  # of sPat.ucRefScanMode: calibration lines apart from the image
_ROUNDING = 1e-3  # of the length of a quaternion
_SETTING = re.compile(r"^\s*([\w.\[\]]+)\s*=\s*(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class _Measured:
    """One measurement of a file: its settings, the headers of its readouts and where they begin."""

    settings: dict[str, str]
    oversampling: float
    regridding: int
    ramps: Ramps
    heads: np.ndarray
    offsets: np.ndarray

    def number(self, name: str, default: float) -> float:
        """Return a setting as a number from 0 up; ``default`` if it is missing or something else."""
        try:
            text = self.settings[name]
            value = float(int(text, 16)) if text.startswith("0x") else float(text)
        except (KeyError, ValueError):
            return default
        return value if 0 <= value < 2**31 else default


def is_twix(path: Path, start: bytes) -> bool:
    """Whether the first bytes of a file are those of raw data of Siemens."""
    if len(start) < 16:
        return False
    first, second = np.frombuffer(start[:8], "<u4").tolist()
    if first < 10_000:  # VD and later
        return 0 < second <= _MOST and path.suffix.lower() == ".dat"
    return 0 < second < 32 and start[8:14].isalpha() and first < path.stat().st_size  # the name of the first section


def open_twix(path: Path) -> Lines:
    """Open a raw data file of Siemens.

    Raises
    ------
    InputError : if it is damaged, or the scan is of a kind that is not supported.
    """
    with (
        as_input_error(path, "raw data file of Siemens", "copy it again"),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        layout, measured = _measurements(path, content)
    scan = measured[-1]
    if len(measured) > 1:
        log.info(
            "%s holds %d measurements; the last is the scan, the others may give its noise", path.name, len(measured)
        )
    return Lines(path, _scan(path, layout, scan, measured))


def _measurements(path: Path, content: mmap.mmap) -> tuple[np.dtype, list[_Measured]]:
    first, number = np.frombuffer(content[:8], "<u4").tolist()
    size = len(content)
    if first >= 10_000:
        return VB, [_measurement(path, content, VB, 0, size)]
    found = []
    entries = np.frombuffer(content[8 : 8 + number * _MEASUREMENT.itemsize], _MEASUREMENT)
    for entry in entries[["offset", "length"]].tolist():
        start, length = entry
        end = start + length if length else size
        if start + 8 > size or (length and end > size):
            raise InputError(f"{path} ends before its last measurement does: it is not whole; copy it again")
        found.append(_measurement(path, content, VD, start, end))
    return VD, found


def _measurement(path: Path, content: mmap.mmap, layout: np.dtype, start: int, end: int) -> _Measured:
    length = int(np.frombuffer(content[start : start + 4], "<u4")[0])
    if not 8 <= length <= end - start:
        raise InputError(
            f"{path}: the text header of a measurement is {length} bytes long, which cannot be; copy it again"
        )
    text = content[start : start + length].decode("latin-1")
    settings: dict[str, str] = {}
    for name, value in _SETTING.findall(text):  # the first is the scan as it was run, a later one as it was planned
        settings.setdefault(name, value)
    factor, mode = _first_number(text, "flReadoutOSFactor", 2.0), _first_number(text, "alRegridMode", 1)
    parts = ("Rampup", "Flattop", "Rampdown", "DelaySamples")
    up, flat, down, delay = (_first_number(text, f"alRegrid{part}Time", 0) for part in parts)
    ramps = Ramps(up, flat, down, delay, _first_number(text, "aflRegridADCDuration", 0))
    heads, offsets = _readouts(path, content, layout, start + length, end)
    return _Measured(settings, factor, int(mode), ramps, heads, offsets)


def _first_number(text: str, name: str, default: float) -> float:
    """Return the first number of a parameter of the XML-like part of the header; ``default`` if it has none."""
    found = re.search(rf'"{name}">\s*\{{\s*(?:<Precision>\s*\d+\s*)?(\d{{1,9}}(?:\.\d{{0,9}})?)\s', text)
    return float(found[1]) if found else default


def _readouts(path: Path, content: mmap.mmap, layout: np.dtype, at: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the headers of all readouts with samples and where they begin."""
    heads, offsets = [], []
    while at + layout.itemsize <= end:
        head = np.frombuffer(content[at : at + layout.itemsize], layout)[0]
        flags = int(head["flags"])
        if flags >> _END & 1:
            break
        if flags >> _SYNC & 1:
            length = int(head["length"]) % 2**25
        else:
            coil = layout.itemsize if layout == VB else _COIL
            length = int(head["coils"]) * (coil + 8 * int(head["samples"])) + (0 if layout == VB else layout.itemsize)
            heads.append(head)
            offsets.append(at)
        if length < layout.itemsize or at + length > end:
            raise InputError(f"{path} is damaged or not whole at byte {at} of {end}; copy it again")
        at += length
    else:
        log.warning("%s has no mark of its end; the scan was stopped, or the file is not whole", path.name)
    return np.array(heads, layout), np.array(offsets, np.int64)


def _scan(path: Path, layout: np.dtype, scan: _Measured, measured: list[_Measured]) -> Scan:
    trajectory = int(scan.number("sKSpace.ucTrajectory", 1))
    if trajectory in _TRAJECTORIES:
        raise InputError(
            f"{path}: its trajectory is {_TRAJECTORIES[trajectory]}, which is not supported; only Cartesian is"
        )
    if scan.number("sSliceAcceleration.lMultiBandFactor", 1) > 1:
        raise InputError(f"{path}: several slices were measured at once (SMS), which is not supported")
    flags = scan.heads["flags"]
    left_out = _has(flags, _NOISE)
    for bit, what in _NO_IMAGE.items():
        found = _has(flags, bit) & ~left_out
        if found.any():
            log.info("%s: %d readouts of %s are left out", path.name, found.sum(), what)
        left_out |= found
    chosen = np.flatnonzero(~left_out)
    heads = scan.heads[chosen]
    if not len(heads):
        raise InputError(f"{path} has no readouts of an image; was the scan stopped, or is it an adjustment?")
    if scan.regridding not in (_EVEN, _TRAPEZOID):
        raise InputError(
            f"{path}: its readouts were sampled under a gradient that is no trapezoid, which is not supported; correct "
            f"the raw data first, or use the vendor's images"
        )
    lines = np.zeros(len(chosen), READOUT)
    for name in ("slice", "contrast", "phase", "repetition", "set", "samples", "coils", "pre", "post", "centre"):
        lines[name] = heads[name]
    lines["reverse"] = _has(heads["flags"], _REVERSE)
    calibration = _has(heads["flags"], _CALIBRATION) & ~_has(heads["flags"], _CALIBRATION_AND_IMAGE)
    lines["calibration"] = calibration & (scan.number("sPat.ucRefScanMode", 1) == _SEPARATE)

    def measured_ones(indices: np.ndarray) -> Iterator[np.ndarray]:
        return _samples(path, layout, scan, indices)

    read: Samples = measured_ones
    if scan.regridding == _TRAPEZOID or both_directions(lines):
        read = _epi(path, scan, lines, chosen, read)

    def samples(indices: np.ndarray) -> Iterator[np.ndarray]:
        return read(chosen[indices])

    header = Header("scanner", path.name, contrast=scan.settings.get("tProtocolName", "").strip('"')[:200] or None)
    noise = _noise(path, layout, measured, int(heads["coils"][0]))
    is_pulseq = scan.settings.get("tSequenceFileName", "").strip('"').lower().endswith("pulseq")
    if is_pulseq and not heads["centre_line"].any() and heads["line"].max() > 0:
        return unlabelled(path, lines, heads["line"].astype(int), samples, header, noise)
    return _labelled(path, scan, heads, lines, samples, header, noise)


def _epi(path: Path, scan: _Measured, lines: np.ndarray, chosen: np.ndarray, samples: Samples) -> Samples:
    """Return what reads the readouts ``chosen`` of an EPI corrected; ``lines`` become what that makes of them."""
    base, n = int(scan.number("sKSpace.lBaseResolution", 0)), int(lines["samples"].max())
    if not 0 < base <= n or (lines["samples"] != n).any() or (lines["centre"] != n // 2).any():
        raise InputError(f"{path}: this is EPI with readouts whose echo is not in the middle, which is not supported")
    flags, names = scan.heads["flags"], ("slice", "contrast", "phase", "repetition", "set")
    keys = np.stack([scan.heads[name].astype(int) for name in names], axis=1)
    navigators = np.flatnonzero(_has(flags, _PHASE_CORRECTION) & (scan.heads["samples"] == n))
    ramps = scan.ramps if scan.regridding == _TRAPEZOID else None
    read = corrected(path, samples, _has(flags, _REVERSE), keys, chosen, navigators, (n, base), ramps)
    log.info("%s: this is EPI; ramps and the two directions are corrected by its reference lines", path.name)
    lines["samples"], lines["centre"], lines["pre"], lines["post"], lines["reverse"] = base, base // 2, 0, 0, False
    return read


def _labelled(
    path: Path,
    scan: _Measured,
    heads: np.ndarray,
    lines: np.ndarray,
    samples: Samples,
    header: Header,
    noise: np.ndarray | None,
) -> Scan:
    """Return the scan of a sequence that numbers its lines; the matrix is that of the protocol."""
    longest = int(lines["samples"].max())
    base = int(scan.number("sKSpace.lBaseResolution", 0))
    # without oversampling a readout has as many samples as the image has rows; an asymmetric echo has fewer
    n = longest if base in (0, longest) else max(round(base * scan.oversampling), longest)
    rows = n if base in (0, longest) else min(base, n)
    column = heads["line"].astype(int) - heads["centre_line"]
    columns, lines["column"] = _placed(int(scan.number("sKSpace.lPhaseEncodingLines", 0)), column)
    partition = heads["partition"].astype(int) - heads["centre_partition"]
    slab = scan.number("sKSpace.ucDimension", 2) == 4 and heads["partition"].max() > 0
    depth, lines["partition"] = _placed(int(scan.number("sKSpace.lPartitions", 0)) if slab else 1, partition)
    wider = 1 + scan.number("sKSpace.dPhaseOversamplingForDialog", 0)
    deeper = 1 + scan.number("sKSpace.dSliceOversamplingForDialog", 0) if depth > 1 else 1.0
    first = "sSliceArray.asSlice[0]"
    views = [scan.number(f"{first}.{name}", 0) for name in ("dReadoutFOV", "dPhaseFOV", "dThickness")]
    voxel = (views[0] / rows, views[1] * wider / columns, views[2] * deeper / depth)
    voxel_size = voxel if all(v > 0 for v in voxel) else None
    if voxel_size is None:
        log.warning(
            "%s: its header does not say how large the field of view is; the images have no geometry", path.name
        )
    height = max(round(columns / wider), 1)
    return Scan(
        readouts=lines,
        samples=samples,
        matrix=(n, columns, depth),
        rows=rows,
        partitions=max(round(depth / deeper), 1),
        header=replace(header, voxel_size=voxel_size, reconstruction_size=(rows, height) if height < columns else None),
        geometry=lambda i: _geometry(heads[i], voxel_size),
        noise=noise,
    )


def _placed(size: int, at: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the size of a matrix and the places in it of lines at ``at`` from the centre.

    The size is ``size`` if they fit, if need be moved by one line, as a sequence with the centre at N / 2 - 1 needs; a
    line is no more than a linear phase of the image. Otherwise it is the least even one that holds them.
    """
    low, high = int(at.min()), int(at.max())
    for move in (0, 1, -1):
        if low + move + size // 2 >= 0 and high + move + size // 2 < size:
            return size, at + move + size // 2
    size = 2 * max(-low, high + 1)
    return size, at + size // 2


def _geometry(head: np.ndarray, voxel_size: tuple[float, float, float] | None) -> Geometry | None:
    """Return where a slice lies; the columns of the rotation are the directions of phase, readout and slice.

    Images grow against the first two, since the Fourier transform of Siemens has the other sign; see
    :func:`spinwarp.data.raw.mrd._mirrored`.
    """
    w, x, y, z = (float(q) for q in head["quaternion"])
    if voxel_size is None or abs(w * w + x * x + y * y + z * z - 1) > _ROUNDING:
        return None
    phase = (1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y))
    readout = (2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x))
    normal = (2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y))
    position = tuple(float(p) for p in head["position"])
    return Geometry(position, _minus(readout), _minus(phase), normal, voxel_size)  # type: ignore[arg-type]


def _minus(vector: tuple[float, float, float]) -> tuple[float, float, float]:
    return -vector[0], -vector[1], -vector[2]


def _samples(path: Path, layout: np.dtype, scan: _Measured, indices: np.ndarray) -> Iterator[np.ndarray]:
    with (
        as_input_error(path, "raw data file of Siemens", "copy it again"),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        for index in indices.tolist():
            head, at = scan.heads[index], int(scan.offsets[index])
            coil = layout.itemsize if layout == VB else _COIL
            block = np.dtype([("head", f"V{coil}"), ("data", "<c8", (int(head["samples"]),))])
            start = at if layout == VB else at + layout.itemsize
            length = int(head["coils"]) * block.itemsize
            data = np.frombuffer(content[start : start + length], block)["data"]
            yield -data if int(head["flags"]) >> _SIGN & 1 else data


def _noise(path: Path, layout: np.dtype, measured: list[_Measured], coils: int) -> np.ndarray | None:
    """Read the noise scan of any measurement of the file, scaled to the bandwidth of the last one, the image."""
    image = measured[-1].number("sRXSPEC.alDwellTime[0]", 0)
    for one in reversed(measured):
        found = np.flatnonzero(_has(one.heads["flags"], _NOISE) & (one.heads["coils"] == coils))
        if len(found):
            dwell = one.number("sRXSPEC.alDwellTime[0]", 0)
            if not (dwell > 0 and image > 0):
                log.info("%s: the bandwidth of its noise scan is unknown and counts as that of the image", path.name)
            scale = (dwell / image) ** 0.5 if dwell > 0 and image > 0 else 1.0
            return np.concatenate(list(_samples(path, layout, one, found[:64])), axis=1) * np.float32(scale)
    return None


def _has(flags: np.ndarray, bit: int) -> np.ndarray:
    found: np.ndarray = flags >> np.uint64(bit) & np.uint64(1) > 0
    return found
