"""What the headers of MRD say, the format of ISMRMRD version 1, in files as on a connection.

Specification: https://ismrmrd.readthedocs.io; the structures are those of ``ismrmrd.h``.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from spinwarp.acquisition import Header
from spinwarp.data.fastmri.ismrmrd import count, header_root, number, whole
from spinwarp.data.raw.lines import READOUT, Samples, Scan, acquired
from spinwarp.errors import InputError
from spinwarp.geometry import Geometry

log = logging.getLogger(__name__)

_ONE = "kspace_encode_step_1 kspace_encode_step_2 average slice contrast phase repetition set segment"
_COUNTERS = np.dtype([*((name, "<u2") for name in _ONE.split()), ("user", "<u2", (8,))])
#: the header of a readout, 340 bytes
HEAD = np.dtype(
    [
        ("version", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("scan_counter", "<u4"),
        ("acquisition_time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", (3,)),
        ("number_of_samples", "<u2"),
        ("available_channels", "<u2"),
        ("active_channels", "<u2"),
        ("channel_mask", "<u8", (16,)),
        ("discard_pre", "<u2"),
        ("discard_post", "<u2"),
        ("center_sample", "<u2"),
        ("encoding_space_ref", "<u2"),
        ("trajectory_dimensions", "<u2"),
        ("sample_time_us", "<f4"),
        ("position", "<f4", (3,)),
        ("read_dir", "<f4", (3,)),
        ("phase_dir", "<f4", (3,)),
        ("slice_dir", "<f4", (3,)),
        ("patient_table_position", "<f4", (3,)),
        ("idx", _COUNTERS),
        ("user_int", "<i4", (8,)),
        ("user_float", "<f4", (8,)),
    ]
)
# numbers of the flags; the bit of flag n has the value 2 ** (n - 1)
NOISE, CALIBRATION, CALIBRATION_AND_IMAGE, REVERSE = 19, 20, 21, 22
_NO_IMAGE = {
    23: "navigators",
    24: "phase correction",
    26: "feedback",
    27: "dummy scans",
    28: "feedback",
    29: "surface coil correction",
    30: "phase stabilisation",
    31: "phase stabilisation",
}
_SHOWN = ("slice", "contrast", "phase", "repetition", "set")


@dataclass(frozen=True)
class Encoding:
    """What the XML header says of one encoding.

    Parameters
    ----------
    matrix : encoded (readout, phase, partition).
    centre : the counters of phase and partition at the centre of k-space.
    rows, partitions : of the matrix that are left without oversampling.
    header : of the slices.
    voxel_size : (readout, phase, slice or partition) in mm; None if a field of view is missing.
    separate : whether calibration lines were measured apart from the image.
    mirrored : whether images grow against the directions of readout and phase; see :func:`_mirrored`.
    """

    matrix: tuple[int, int, int]
    centre: tuple[int, int]
    rows: int
    partitions: int
    header: Header
    voxel_size: tuple[float, float, float] | None
    separate: bool
    mirrored: bool

    def field_of_view(self) -> tuple[int, ...] | None:
        """Return the encoded field of view, rounded to whole mm."""
        if self.voxel_size is None:
            return None
        return tuple(round(size * n) for size, n in zip(self.voxel_size, self.matrix, strict=True))


def mrd_scan(path: Path, xml: object, heads: np.ndarray, samples: Samples) -> Scan:
    """Return what an XML header and the headers of all readouts say.

    Parameters
    ----------
    path : of the file, or the name of the connection, for messages.
    xml : text or bytes.
    heads : array of :data:`HEAD`.
    samples : reads readouts one after the other, each ``(coil, samples)``.

    Raises
    ------
    InputError : if they contradict each other, or the trajectory is not supported.
    """
    flags = heads["flags"]
    ignored = np.zeros(len(heads), bool)
    for bit, what in _NO_IMAGE.items():
        found = _has(flags, bit)
        if found.any():
            log.info("%s: %d readouts of %s are left out", path.name, found.sum(), what)
        ignored |= found
    noise = _has(flags, NOISE) & ~ignored
    image = ~noise & ~ignored
    calibration = _has(flags, CALIBRATION) & ~_has(flags, CALIBRATION_AND_IMAGE)
    spaces, counts = np.unique(heads["encoding_space_ref"][image & ~calibration], return_counts=True)
    if not len(spaces):
        raise InputError(f"{path} has no readouts of an image; was the scan stopped, or is it an adjustment?")
    space = int(spaces[np.argmax(counts)])
    encoding = read_encoding(path, xml, space, heads)
    centres = {space: encoding.centre}
    for another in np.unique(heads["encoding_space_ref"][image & calibration]).tolist():
        if another != space and encoding.separate:
            apart = read_encoding(path, xml, another, heads)
            if apart.field_of_view() == encoding.field_of_view():
                centres[another] = apart.centre
    other = image & ~np.isin(heads["encoding_space_ref"], list(centres))
    if other.any():
        log.warning(
            "%s: its %d readouts of other encodings are left out; encoding %d is used", path.name, other.sum(), space
        )
    chosen = np.flatnonzero(image & ~other)
    lines = np.zeros(len(chosen), READOUT)
    used = heads[chosen]
    for name in _SHOWN:
        lines[name] = used["idx"][name]
    for name, step, axis in (("column", 1, 0), ("partition", 2, 1)):
        centre = np.array([centres[its][axis] for its in used["encoding_space_ref"].tolist()])
        lines[name] = used["idx"][f"kspace_encode_step_{step}"].astype(int) - centre + encoding.matrix[1 + axis] // 2
    lines["samples"], lines["coils"] = used["number_of_samples"], used["active_channels"]
    lines["pre"], lines["post"], lines["centre"] = used["discard_pre"], used["discard_post"], used["center_sample"]
    unset = (lines["centre"] == 0) & (lines["samples"] == encoding.matrix[0])
    if unset.any():
        log.info("%s: its readouts do not say where their centre is; the middle is taken", path.name)
        lines["centre"][unset] = lines["samples"][unset] // 2
    short = (lines["samples"] == encoding.rows) & (lines["centre"] == encoding.rows // 2)
    n = encoding.matrix[0]
    if encoding.rows < n and short.all():
        log.info(
            "%s: its readouts of %d samples have no oversampling, though its header says so", path.name, encoding.rows
        )
        n = encoding.rows
    lines["reverse"] = _has(used["flags"], REVERSE)
    lines["calibration"] = encoding.separate & calibration[chosen]

    def geometry(i: int) -> Geometry | None:
        return _geometry(used[i], encoding)

    return Scan(
        readouts=lines,
        samples=lambda indices: samples(chosen[indices]),
        matrix=(n, *encoding.matrix[1:]),
        rows=encoding.rows,
        partitions=encoding.partitions,
        header=encoding.header,
        geometry=geometry,
        noise=_noise(path, heads, np.flatnonzero(noise), used, samples),
    )


def read_encoding(path: Path, xml: object, space: int, heads: np.ndarray) -> Encoding:
    """Read one encoding of an XML header.

    Raises
    ------
    InputError : if the header is damaged, lacks what is needed, or names a trajectory that is not supported.
    """
    notes: list[str] = []
    root = header_root(path, xml, notes)
    if root is None:
        raise InputError(f"{path}: its XML header cannot be read: {notes[0][:200]}")
    encodings = root.findall("{*}encoding")
    if space >= len(encodings):
        raise InputError(
            f"{path}: its readouts belong to encoding {space}, but its header has {len(encodings)}; convert it again"
        )
    encoding = encodings[space]
    trajectory = (encoding.findtext("{*}trajectory") or "cartesian").strip().lower()
    if trajectory != "cartesian":
        raise InputError(
            f"{path}: its trajectory is {trajectory[:30]!r}, which is not supported; only Cartesian sampling without "
            f"EPI is"
        )
    if (heads["trajectory_dimensions"][heads["encoding_space_ref"] == space] > 0).any():
        log.warning("%s: a trajectory is stored with its readouts; it is not used, the scan is Cartesian", path.name)
    try:
        n, columns, depth = (count(encoding, f"encodedSpace/matrixSize/{axis}") for axis in "xyz")
    except ValueError as error:
        raise InputError(f"{path}: in its XML header, {error}; convert it again") from error
    # the share of each encoded field of view that is kept
    views, kept = [], []
    for axis in "xyz":
        try:
            view = f"fieldOfView_mm/{axis}"
            encoded, wanted = number(encoding, f"encodedSpace/{view}"), number(encoding, f"reconSpace/{view}")
        except ValueError:
            encoded = wanted = 0.0
        views.append(encoded)
        kept.append(min(wanted / encoded, 1.0) if encoded and wanted else 1.0)
    rows, height, partitions = (max(round(m * k), 1) for m, k in zip((n, columns, depth), kept, strict=True))
    voxel = (views[0] / n, views[1] / columns, views[2] / depth)
    limits = [_limits(path, encoding, step, size) for step, size in ((1, columns), (2, depth))]
    (first, last, middle), (_, _, central) = limits
    vendor = root.findtext("{*}acquisitionSystemInformation/{*}systemVendor") or ""
    mode = encoding.findtext("{*}parallelImaging/{*}calibrationMode") or ""
    protocol = root.findtext("{*}measurementInformation/{*}protocolName") or next(
        (
            told.findtext("{*}value") or ""
            for told in root.iterfind("{*}userParameters/{*}userParameterString")
            if told.findtext("{*}name") == "protocolName"
        ),
        "",
    )
    voxel_size = voxel if all(voxel) else None
    return Encoding(
        matrix=(n, columns, depth),
        centre=(middle, central),
        rows=rows,
        partitions=partitions,
        header=Header(
            provenance="scanner",
            source=path.name,
            reconstruction_size=None if height == columns else (rows, height),
            acquired_columns=acquired(columns // 2 - middle + first, columns // 2 - middle + last + 1, columns),
            voxel_size=voxel_size,
            contrast=protocol.strip()[:200] or None,
        ),
        voxel_size=voxel_size,
        separate=mode.strip().lower() in ("separate", "external"),
        mirrored=_mirrored(vendor),
    )


def _mirrored(vendor: str) -> bool:
    """Whether images grow against the directions that the readouts state.

    They do for Siemens scanners, whose Fourier transform has the other sign: the reference server of the streaming
    protocol (kspaceKelvin/python-ismrmrd-server, ``invertcontrast.py``) flips readout and phase of raw data "to be
    consistent with ICE", and twixtools (``geometry.py``) negates both directions.
    """
    return "siemens" in vendor.lower()


def _limits(path: Path, encoding: ElementTree.Element, step: int, size: int) -> tuple[int, int, int]:
    """Return smallest and largest counter of an encoding step, and that of the centre."""
    where = f"encodingLimits/kspace_encoding_step_{step}"
    try:
        first, last, middle = (whole(encoding, f"{where}/{name}") for name in ("minimum", "maximum", "center"))
    except ValueError as error:
        if size > 1:
            log.warning("%s: in its XML header, %s; line %d counts as the centre", path.name, error, size // 2)
        return 0, size - 1, size // 2
    return first, last, middle


def _geometry(head: np.ndarray, encoding: Encoding) -> Geometry | None:
    if encoding.voxel_size is None or not head["slice_dir"].any():
        return None
    sign = -1.0 if encoding.mirrored else 1.0
    vectors = [sign * head["read_dir"], sign * head["phase_dir"], head["slice_dir"]]
    position, readout, phase, normal = ((float(v[0]), float(v[1]), float(v[2])) for v in (head["position"], *vectors))
    return Geometry(position, readout, phase, normal, encoding.voxel_size)


def _noise(path: Path, heads: np.ndarray, found: np.ndarray, used: np.ndarray, samples: Samples) -> np.ndarray | None:
    """Read the noise scan, and scale it to the bandwidth of the image: noise grows with the root of the bandwidth."""
    coils = used["active_channels"][0]
    found = found[heads["active_channels"][found] == coils]
    if not len(found):
        return None
    dwell, image = float(heads["sample_time_us"][found[0]]), float(used["sample_time_us"][0])
    scale = (dwell / image) ** 0.5 if dwell > 0 and image > 0 else 1.0
    if scale == 1.0 and dwell != image:
        log.info("%s: the bandwidth of its noise scan is unknown and counts as that of the image", path.name)
    return np.concatenate(list(samples(found[:64])), axis=1) * np.float32(scale)


def _has(flags: np.ndarray, number: int) -> np.ndarray:
    found: np.ndarray = (flags >> np.uint64(number - 1)) & np.uint64(1) > 0
    return found
