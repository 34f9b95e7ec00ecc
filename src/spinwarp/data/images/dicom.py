"""Magnitude slices of DICOM files: groups them into volumes and reads their pixels. Needs pydicom."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.pixels import get_decoder, pixel_array  # type: ignore[attr-defined]

from spinwarp.errors import InputError
from spinwarp.files import as_input_error
from spinwarp.geometry import Geometry

_log = logging.getLogger(__name__)
_PLANES = ("sagittal", "coronal", "axial")  # by the axis (left, posterior, superior) across the slices
# words after ORIGINAL\PRIMARY in ImageType by which Siemens and Philips mark images that are not magnitudes
_NO_MAGNITUDE = {"P", "R", "I", "PHASE", "REAL", "IMAGINARY", "P_FFE", "R_FFE", "I_FFE", "P_SE", "R_SE", "I_SE"}
_GE_TYPE = (0x0043, 0x102F)  # 0 magnitude, 1 phase, 2 real, 3 imaginary
_DIRECTORY = "1.2.840.10008.1.3.10"  # SOP class of DICOMDIR


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice.

    Parameters
    ----------
    path : its file.
    index : index of the slice in the file; 0 except in multi-frame files.
    number : InstanceNumber.
    along : position along the slice normal in mm; None if the file does not have it.
    affine : ``(4, 4)`` from (row, column, mm along the normal) to the patient (LPS) in mm; None if the file has no
        position.
    gap : distance of the slices in mm, as the file states it; None if it does not.
    """

    path: Path
    index: int
    number: int
    along: float | None
    affine: np.ndarray | None = None
    gap: float | None = None


@dataclass(frozen=True)
class Stack:
    """The slices of one volume, sorted by position, or by InstanceNumber if they have no positions.

    Parameters
    ----------
    frames : the slices.
    first : the file with the lowest InstanceNumber; the volume is named after it.
    size, orientation, voxel_size : as in :class:`spinwarp.data.images.formats.ImageVolume`.
    patient : PatientID.
    places : where each slice lies; empty if unknown.
    """

    frames: tuple[Frame, ...]
    first: Path
    places: tuple[Geometry, ...]
    size: tuple[int, int]
    orientation: str | None
    voxel_size: tuple[float, float, float] | None
    patient: str | None


def stacks(paths: Sequence[Path]) -> list[Stack]:
    """Group the slices of DICOM files into volumes, reading only headers.

    The slices of a volume share folder, series, echo, b-value, time point, orientation and size. Several slices at one
    position belong to several volumes. Phase, real and imaginary images are left out, and so are files without an
    image; the log says how many.

    Raises
    ------
    InputError : if a file cannot be read, is in colour or is a mosaic of slices.
    """
    groups: dict[tuple[object, ...], list[tuple[Frame, Any]]] = {}
    left_out: list[Path] = []
    for path in paths:
        with as_input_error(path, "DICOM file"):
            header = pydicom.dcmread(path, stop_before_pixels=True)
            found = list(_frames(path, header))
        if not found:
            left_out.append(path)
        for key, frame, geometry in found:
            groups.setdefault(key, []).append((frame, geometry))
    if left_out:
        _log.warning(
            "%d of %d DICOM files are left out: they hold phase, real or imaginary images, or no image (%s, ...)",
            len(left_out),
            len(paths),
            left_out[0],
        )
    return [stack for group in groups.values() for stack in _volumes(group)]


def read_frame(frames: tuple[tuple[Path, int], ...], which: int) -> np.ndarray:
    """Return one slice ``(h, w)`` of a volume; high signal is bright.

    Parameters
    ----------
    frames : for each slice of the volume, its file and its index in that file.
    which : number of the slice in ``frames``.
    """
    values, inverted = _values(*frames[which])
    # air has the largest value of the whole volume
    return _largest(frames) - values.astype(np.float64) if inverted else values


def _volumes(group: list[tuple[Frame, Any]]) -> Iterator[Stack]:
    """Yield the stacks of a group; the second slice at a position goes to the second stack, and so on."""
    ordered = sorted(group, key=lambda entry: (entry[0].number, entry[0].path, entry[0].index))
    placed = all(frame.along is not None for frame, _ in ordered)
    stacked: list[list[tuple[Frame, Any]]] = []
    times: dict[object, int] = {}
    for frame, geometry in ordered:
        place = round(frame.along, 2) if placed and frame.along is not None else len(times)
        times[place] = times.get(place, -1) + 1
        if times[place] == len(stacked):
            stacked.append([])
        stacked[times[place]].append((frame, geometry))
    for entries in stacked:
        first, geometry = entries[0]
        frames = [frame for frame, _ in entries]
        if placed:
            frames.sort(key=lambda frame: frame.along or 0.0)
        yield Stack(tuple(frames), first.path, _places(frames, geometry["size"]), **geometry)


def _places(frames: list[Frame], size: tuple[int, int]) -> tuple[Geometry, ...]:
    """Return where each of the ordered frames of a volume lies: none if a file does not say it, or says nonsense."""
    along = [frame.along for frame in frames if frame.along is not None]
    # what the positions say counts: what the file states may be the thickness
    gap = float(np.diff(along).mean()) if len(along) > 1 else frames[0].gap
    places = []
    for frame in frames:
        if frame.affine is None or not gap:
            return ()
        try:
            places.append(Geometry.from_affine(frame.affine * [1, 1, gap, 1], size))
        except InputError as error:
            _log.warning("%s does not say where its slices lie: %s", frame.path, error)
            return ()
    return tuple(places)


def _frames(path: Path, header: Any) -> Iterator[tuple[tuple[object, ...], Frame, dict[str, Any]]]:
    """Yield the key that the slices of a volume share, the frame and its geometry for each magnitude in a file."""
    if header.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY or "Rows" not in header:
        return
    if int(header.get("SamplesPerPixel") or 1) > 1 or header.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise InputError(f"{path} is in colour; expected one magnitude value per pixel")
    if "MOSAIC" in _words(header.get("ImageType")):
        raise InputError(f"{path} is a mosaic of slices; convert the series to NIfTI with dcm2niix")
    for i in range(int(header.get("NumberOfFrames") or 1)):
        frame_type = _part(header, i, "MRImageFrameTypeSequence")
        component = str(frame_type.get("ComplexImageComponent") or header.get("ComplexImageComponent") or "").upper()
        types = _words(frame_type.get("FrameType") or header.get("ImageType"))[2:]
        ge = header[_GE_TYPE].value if _GE_TYPE in header else 0
        if (
            component in ("PHASE", "REAL", "IMAGINARY")
            or any(t in _NO_MAGNITUDE or t.startswith(("PHASE", "VELOCITY")) for t in types)
            or ge in (1, 2, 3)
        ):
            continue
        size = int(header.Rows), int(header.Columns)
        directions = _part(header, i, "PlaneOrientationSequence").get("ImageOrientationPatient")
        position = _part(header, i, "PlanePositionSequence").get("ImagePositionPatient")
        measures = _part(header, i, "PixelMeasuresSequence")
        orientation = along = voxel_size = affine = gap = None
        if directions:
            row, column = np.array(directions, dtype=float).reshape(2, 3)
            normal = np.cross(row, column)
            orientation = _PLANES[int(np.abs(normal).argmax())]
            along = float(normal @ np.array(position, dtype=float)) if position else None
            if position and measures.get("PixelSpacing"):
                down, across = measures.PixelSpacing
                gap = float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 0)
                # files round the directions; the first is the one in which the column index grows (C.7.6.2.1.1)
                row, column, normal = (v / (np.linalg.norm(v) or 1) for v in (row, column, normal))
                affine = np.eye(4)
                affine[:3] = np.array([column * float(down), row * float(across), normal, position], float).T
        if measures.get("PixelSpacing") and measures.get("SliceThickness"):
            down, across = measures.PixelSpacing
            voxel_size = float(down), float(across), float(measures.SliceThickness)
        patient = str(header.get("PatientID") or "").strip() or None
        key = (
            path.parent,
            str(header.get("SeriesInstanceUID", "")),
            str(header.get("EchoNumbers", "")),
            str(_part(header, i, "MREchoSequence").get("EffectiveEchoTime") or header.get("EchoTime", "")),
            str(_part(header, i, "MRDiffusionSequence").get("DiffusionBValue", "")),
            str(
                _part(header, i, "FrameContentSequence").get("TemporalPositionIndex")
                or header.get("TemporalPositionIdentifier", "")
            ),
            None if directions is None else tuple(np.round(np.array(directions, dtype=float), 2)),
            size,
        )
        geometry = {"size": size, "orientation": orientation, "voxel_size": voxel_size, "patient": patient}
        yield key, Frame(path, i, int(header.get("InstanceNumber") or 0), along, affine, gap), geometry


def _part(header: Any, index: int, name: str) -> Any:
    """Return a frame's item of the sequence ``name`` in a multi-frame file; in other files the header itself."""
    own = header.get("PerFrameFunctionalGroupsSequence") or []
    for groups in itertools.chain(own[index : index + 1], header.get("SharedFunctionalGroupsSequence") or []):
        if groups.get(name):
            return groups[name][0]
    return header


def _words(value: Any) -> list[str]:
    return [str(word).upper() for word in ([value] if isinstance(value, str) else value or [])]


def _values(path: Path, index: int) -> tuple[np.ndarray, bool]:
    """Return the values of a slice in the units of the file, and whether high values are dark."""
    with as_input_error(path, "DICOM file"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        syntax = header.file_meta.TransferSyntaxUID
        if syntax.is_compressed and not get_decoder(syntax).is_available:
            raise InputError(
                f"{path} is compressed as {syntax.name}; install the decoder with: pip install pylibjpeg "
                f"pylibjpeg-libjpeg pylibjpeg-openjpeg"
            )
        stored = np.asarray(pixel_array(path, index=index))
        scale = _part(header, index, "PixelValueTransformationSequence")
        slope, offset = float(scale.get("RescaleSlope") or 1), float(scale.get("RescaleIntercept") or 0)
        values = stored if (slope, offset) == (1, 0) else stored * slope + offset
        return values, header.get("PhotometricInterpretation") == "MONOCHROME1"


@lru_cache(maxsize=4)
def _largest(frames: tuple[tuple[Path, int], ...]) -> float:
    return max(float(_values(*frame)[0].max()) for frame in frames)
