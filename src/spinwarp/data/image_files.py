"""Magnitude images as they lie on disk: PNG, JPEG, TIFF, npy, NIfTI and DICOM, found by header and read by slice."""

import importlib
import itertools
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spinwarp.errors import InputError
from spinwarp.files import reading

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_SUFFIXES = (*PICTURES, ".npy", ".nii", ".nii.gz", ".dcm")
_LARGEST_RATIO = 1100  # of unpacked to packed bytes; deflate ends at 1032
_PLANES = ("sagittal", "coronal", "axial")  # by the axis (right, anterior, superior) across the slices


@dataclass(frozen=True)
class ImageVolume:
    """One picture, or one scan of several slices.

    Parameters
    ----------
    name : path in the folder without its suffix, parts joined by ``_``.
    files : one, or for DICOM one a slice.
    n_slices : number of slices.
    size : (h, w) in pixels.
    subject : the first sub-folder; empty for files in the folder itself.
    number : the longest run of digits in the file's name, the first of equals; None: there is none.
    orientation : ``axial``, ``coronal``, ``sagittal`` where the file tells it.
    voxel_size : (h, w, slice) in mm where the file tells it.
    """

    name: str
    files: tuple[Path, ...]
    n_slices: int
    size: tuple[int, int]
    subject: str = ""
    number: int | None = None
    orientation: str | None = None
    voxel_size: tuple[float, float, float] | None = None


def find_images(folder: Path) -> list[ImageVolume]:
    """List the images of a folder and its sub-folders, sorted by name; reads headers only.

    Raises
    ------
    InputError : if the folder is missing or holds no image, a file cannot be read, or two volumes share a name.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; data.path must name a folder of magnitude images")
    paths = sorted(p for p in folder.rglob("*") if p.name.lower().endswith(_SUFFIXES) and not p.name.startswith("."))
    if not paths:
        raise InputError(f"{folder} has no image; expected files ending in {', '.join(_SUFFIXES)}")
    series: dict[tuple[Path, str], list[tuple[int, Path]]] = {}
    volumes = []
    for path in paths:
        if path.suffix.lower() == ".dcm":
            header = _dicom(path, pixels=False)
            with reading(path, "DICOM file"):
                key = (path.parent, str(header.SeriesInstanceUID))
                number = int(header.get("InstanceNumber") or 0)
            series.setdefault(key, []).append((number, path))
        else:
            volumes.append(_volume(folder, path, (path,)))
    for slices in series.values():
        files = tuple(path for _, path in sorted(slices))
        volumes.append(_volume(folder, files[0], files))
    volumes.sort(key=lambda v: v.name)
    for one, other in itertools.pairwise(volumes):
        if one.name == other.name:
            raise InputError(f"{one.files[0]} and {other.files[0]} would both be called {one.name}; rename one")
    return volumes


def read_slice(volume: ImageVolume, index: int) -> np.ndarray:
    """Return one slice ``(h, w)`` in the file's own units and number type.

    Raises
    ------
    InputError : if the file cannot be read, or is a colour picture.
    """
    path = volume.files[index if len(volume.files) > 1 else 0]
    kind = path.name.lower()
    if kind.endswith(PICTURES):
        return _picture(path)
    if kind.endswith(".dcm"):
        header = _dicom(path, pixels=True)
        with reading(path, "DICOM file"):
            slope, offset = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
            pixels = np.asarray(header.pixel_array)
        return pixels if (slope, offset) == (1, 0) else pixels * slope + offset
    if kind.endswith(".npy"):
        array = _array(path)
        return np.array(array if array.ndim == 2 else array[index])
    return _nifti_slice(path, index)


def _volume(folder: Path, path: Path, files: tuple[Path, ...]) -> ImageVolume:
    relative = path.relative_to(folder)
    kind = path.name.lower()
    suffix = max((s for s in _SUFFIXES if kind.endswith(s)), key=len)
    stem = path.name[: -len(suffix)]
    # max keeps the first of equals: sub-01_ses-02 is subject 1
    digits = max(re.findall(r"\d+", stem), key=len, default=None)
    geometry: dict[str, Any]
    if kind.endswith(PICTURES):
        with _opened(path) as picture:
            geometry = {"n_slices": 1, "size": (picture.height, picture.width)}
    elif kind.endswith(".dcm"):
        geometry = _dicom_geometry(path, len(files))
    elif kind.endswith(".npy"):
        shape = _array(path).shape
        geometry = {"n_slices": shape[0] if len(shape) == 3 else 1, "size": shape[-2:]}
    else:
        geometry = _nifti_geometry(path)
    return ImageVolume(
        name="_".join([*relative.parts[:-1], stem]),
        files=files,
        subject=relative.parts[0] if len(relative.parts) > 1 else "",
        number=None if digits is None else int(digits),
        **geometry,
    )


def _opened(path: Path) -> Image.Image:
    with reading(path, "picture"):
        return Image.open(path)


def _picture(path: Path) -> np.ndarray:
    with _opened(path) as picture, reading(path, "picture"):
        pixels = np.asarray(picture.convert("RGB") if picture.mode in ("P", "RGBA", "LA") else picture)
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise InputError(f"{path} is a colour picture; expected one magnitude value a pixel")
        pixels = pixels[..., 0]
    return pixels


def _array(path: Path) -> np.ndarray:
    with reading(path, ".npy file of numbers"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not (isinstance(array, np.ndarray) and array.ndim in (2, 3) and array.size and array.dtype.kind in "biufc"):
            found = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else "an archive"
            raise InputError(f"{path} holds {found}; expected numbers (h, w) or (slice, h, w)")
    return array


def _extra(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"reading this folder needs {module}; install it with: pip install spinwarp[{extra}]"
        ) from error


def _dicom(path: Path, pixels: bool) -> Any:
    pydicom = _extra("pydicom", "dicom")
    with reading(path, "DICOM file"):
        return pydicom.dcmread(path, stop_before_pixels=not pixels)


def _dicom_geometry(path: Path, n_slices: int) -> dict[str, Any]:
    header = _dicom(path, pixels=False)
    with reading(path, "DICOM file"):
        return _dicom_fields(path, header, n_slices)


def _dicom_fields(path: Path, header: Any, n_slices: int) -> dict[str, Any]:
    if int(header.get("NumberOfFrames", 1)) > 1 or int(header.get("SamplesPerPixel", 1)) > 1:
        raise InputError(f"{path} holds several frames or colours; expected one magnitude slice a DICOM file")
    geometry: dict[str, Any] = {"n_slices": n_slices, "size": (int(header.Rows), int(header.Columns))}
    if "ImageOrientationPatient" in header:
        row, column = np.array(header.ImageOrientationPatient, dtype=float).reshape(2, 3)
        geometry["orientation"] = _PLANES[int(np.abs(np.cross(row, column)).argmax())]
    if "PixelSpacing" in header and "SliceThickness" in header:
        down, across = header.PixelSpacing
        geometry["voxel_size"] = (float(down), float(across), float(header.SliceThickness))
    return geometry


def _nifti_axes(path: Path) -> tuple[Any, np.ndarray, int]:
    """Return the image, its orientation (axis and direction of each stored axis) and the stored axis across slices."""
    nibabel = _extra("nibabel", "nifti")
    with reading(path, "NIfTI file"):
        image = nibabel.squeeze_image(nibabel.load(path))
        n_bytes = math.prod(image.shape) * image.get_data_dtype().itemsize
        if len(image.shape) != 3 or 0 in image.shape:
            raise InputError(f"{path} has shape {image.shape}; expected one volume of three dimensions")
        if n_bytes > path.stat().st_size * (_LARGEST_RATIO if path.suffix == ".gz" else 1):
            raise InputError(f"{path} has shape {image.shape}, which is more than it holds; repair or remove it")
        orientation = nibabel.io_orientation(image.affine)
        if not np.isfinite(orientation).all():
            raise InputError(f"{path} does not say along which axes it lies; repair its affine")
    # thick slices were acquired as such; with cubic voxels axial slices are taken
    zooms = np.round(image.header.get_zooms()[:3], 3)
    across = max(range(3), key=lambda axis: (zooms[axis], orientation[axis, 0]))
    return image, orientation, across


def _nifti_geometry(path: Path) -> dict[str, Any]:
    image, orientation, across = _nifti_axes(path)
    column, row = sorted((a for a in range(3) if a != across), key=lambda a: orientation[a, 0])
    zooms = image.header.get_zooms()
    return {
        "n_slices": image.shape[across],
        "size": (image.shape[row], image.shape[column]),
        "orientation": _PLANES[int(orientation[across, 0])],
        "voxel_size": (float(zooms[row]), float(zooms[column]), float(zooms[across])),
    }


def _nifti_slice(path: Path, index: int) -> np.ndarray:
    """Return a slice with superior (or anterior) on top and right (or anterior) on the right."""
    image, orientation, across = _nifti_axes(path)
    data = _unpacked(path) if path.suffix == ".gz" else image.dataobj
    if orientation[across, 1] < 0:
        index = image.shape[across] - 1 - index
    with reading(path, "NIfTI file"):
        plane = np.asarray(data[tuple(index if axis == across else slice(None) for axis in range(3))])
    left = [axis for axis in range(3) if axis != across]
    plane = plane[tuple(slice(None, None, int(orientation[axis, 1])) for axis in left)]
    if orientation[left[0], 0] < orientation[left[1], 0]:
        plane = plane.T
    return plane[::-1]


@lru_cache(maxsize=2)
def _unpacked(path: Path) -> np.ndarray:
    # a slice of a compressed file costs the whole file, so neighbouring reads share it
    with reading(path, "NIfTI file"):
        return np.asarray(_nifti_axes(path)[0].dataobj)
