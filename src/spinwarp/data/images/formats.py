"""Magnitude images on disk: PNG, JPEG, TIFF, npy, NIfTI and DICOM, listed from headers and read slice by slice."""

import importlib
import itertools
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spinwarp.data.patients import file_numbers, named_patient, patients_in
from spinwarp.data.source import SPLITS
from spinwarp.errors import InputError
from spinwarp.files import LARGEST_RATIO, as_input_error, is_folder, list_files, open_npy, warn_once
from spinwarp.geometry import Geometry, to_ras

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
SUFFIXES = (*PICTURES, ".npy", ".nii", ".nii.gz", ".dcm")
_NAMED_AFTER = ("", ".ima", ".dicom", ".dic")  # other suffixes of DICOM files; the first bytes decide
_SPLIT_FOLDERS = {
    **{"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"},
    **{"test": "test", "testing": "test"},
}
_PHOTOMETRIC = 262  # tag of TIFF
_PLANES = ("sagittal", "coronal", "axial")  # by the axis (right, anterior, superior) normal to the slices


@dataclass(frozen=True)
class ImageVolume:
    """One picture, or one scan of several slices.

    Parameters
    ----------
    name : path inside the folder without its suffix, parts joined by ``_``.
    files : one file, or for DICOM one per slice.
    frames : for DICOM, the index of each slice in its file.
    places : of NIfTI and DICOM, where each slice lies; empty if the file does not state it.
    n_slices : number of slices.
    size : (h, w) in pixels.
    subject : the first sub-folder; empty for files in the folder itself.
    number : the number in the file name that differs between files; the longest if several do; None: there is none.
    orientation : ``axial``, ``coronal`` or ``sagittal``; None if the file does not state it.
    voxel_size : (h, w, slice) in mm; None if the file does not state it.
    patient : from the DICOM PatientID, else from the name or the sub-folder; None if unknown.
    """

    name: str
    files: tuple[Path, ...]
    n_slices: int
    size: tuple[int, int]
    subject: str = ""
    number: int | None = None
    orientation: str | None = None
    voxel_size: tuple[float, float, float] | None = None
    patient: str | None = None
    frames: tuple[int, ...] = ()
    places: tuple[Geometry, ...] = ()

    @property
    def stem(self) -> str:
        """The name of the file without its suffix."""
        return _stem(self.files[0])


def find_images(folder: Path) -> list[ImageVolume]:
    """List the images of a folder and its sub-folders, sorted by name, reading only headers.

    Hidden files and folders are left out. DICOM files without a suffix are recognised by their first bytes.

    Raises
    ------
    InputError : if the folder is missing or has no image, a file cannot be read, or two volumes have the same name.
    """
    if not is_folder(folder):
        raise InputError(f"there is no folder {folder}; data.source.path must name a folder of magnitude images")
    paths = list_files(folder, ("",), below=True)
    pictures = [p for p in paths if p.name.lower().endswith(SUFFIXES) and not p.name.lower().endswith(".dcm")]
    slices = [p for p in paths if p.suffix.lower() == ".dcm" or _is_dicom(p)]
    volumes = [_volume(folder, path) for path in pictures]
    if slices:
        volumes += _dicom_volumes(folder, slices)
    if not volumes:
        if slices:
            raise InputError(f"{folder} has {len(slices)} DICOM files without a magnitude image, such as {slices[0]}")
        raise InputError(f"{folder} has no image; expected files ending in {', '.join(SUFFIXES)}")
    volumes = _with_patients(folder, sorted(volumes, key=lambda v: v.name))
    for one, other in itertools.pairwise(volumes):
        if one.name == other.name:
            raise InputError(f"{one.files[0]} and {other.files[0]} would both be called {one.name}; rename one")
    return volumes


def read_slice(volume: ImageVolume, index: int) -> np.ndarray:
    """Return one slice ``(h, w)`` in the units and number type of the file; high signal is bright.

    Raises
    ------
    InputError : if the file cannot be read or is in colour.
    """
    if volume.frames:
        from spinwarp.data.images.dicom import read_frame

        return read_frame(tuple(zip(volume.files, volume.frames, strict=True)), index)
    path = volume.files[0]
    name = path.name.lower()
    if name.endswith(PICTURES):
        return _picture(path, index)
    if name.endswith(".npy"):
        array = _array(path)
        return np.array(array if array.ndim == 2 else array[index])
    return _nifti_slice(path, index)


def _volume(folder: Path, path: Path) -> ImageVolume:
    name = path.name.lower()
    geometry: dict[str, Any]
    if name.endswith(PICTURES):
        with _opened(path) as picture:
            geometry = {"n_slices": _n_pages(path, picture), "size": (picture.height, picture.width)}
    elif name.endswith(".npy"):
        shape = _array(path).shape
        geometry = {"n_slices": shape[0] if len(shape) == 3 else 1, "size": shape[-2:]}
    else:
        geometry = _nifti_geometry(path)
    return ImageVolume(name=_name(folder, path), files=(path,), **geometry)


def _dicom_volumes(folder: Path, paths: list[Path]) -> list[ImageVolume]:
    _extra("pydicom", "dicom")
    from spinwarp.data.images.dicom import stacks

    volumes = []
    n_of: dict[str, int] = {}  # number of volumes in one multi-frame file
    for stack in stacks(paths):
        name = _name(folder, stack.first)
        n_of[name] = n_of.get(name, 0) + 1
        volumes.append(
            ImageVolume(
                name=name if n_of[name] == 1 else f"{name}_{n_of[name]}",
                files=tuple(frame.path for frame in stack.frames),
                frames=tuple(frame.index for frame in stack.frames),
                n_slices=len(stack.frames),
                size=stack.size,
                orientation=stack.orientation,
                voxel_size=stack.voxel_size,
                patient=stack.patient,
                places=stack.places,
            )
        )
    return volumes


def _with_patients(folder: Path, volumes: list[ImageVolume]) -> list[ImageVolume]:
    """Fill in sub-folder, number and patient from the names of all files together."""
    stems = [volume.stem for volume in volumes]
    parents = [volume.files[0].relative_to(folder).parts[:-1] for volume in volumes]
    subjects = [folders[0] if folders else "" for folders in parents]
    if splits_of(set(subjects)):
        parents = [folders[1:] for folders in parents]
    filled = []
    for i, (volume, number, guess) in enumerate(zip(volumes, file_numbers(stems), patients_in(stems), strict=True)):
        named = next(filter(None, map(named_patient, (stems[i], *reversed(parents[i])))), None)
        patient = volume.patient or named or (parents[i][0] if parents[i] else guess)
        filled.append(replace(volume, subject=subjects[i], number=number, patient=patient))
    return filled


def splits_of(subjects: set[str]) -> dict[str, str]:
    """Return the split of each sub-folder; an empty dict if the sub-folders are not splits but patients.

    Raises
    ------
    InputError : if there is a folder ``train`` among folders that are not splits.
    """
    splits = {subject: _SPLIT_FOLDERS.get(subject.lower(), "") for subject in subjects}
    if "train" not in splits.values():
        return {}
    if others := [subject or "files" for subject, split in splits.items() if not split]:
        raise InputError(
            f"there are sub-folders beside those of the splits ({', '.join(sorted(others)[:4])}); keep only "
            f"{', '.join(SPLITS)}, or make one sub-folder per patient"
        )
    return splits


def _name(folder: Path, path: Path) -> str:
    return "_".join([*path.relative_to(folder).parts[:-1], _stem(path)])


def _stem(path: Path) -> str:
    suffix = max((s for s in (*SUFFIXES, *_NAMED_AFTER) if path.name.lower().endswith(s)), key=len)
    return path.name[: len(path.name) - len(suffix)]


def _is_dicom(path: Path) -> bool:
    """Return whether the first bytes say DICOM; they are read only if the suffix does not decide."""
    suffix = path.suffix.lower()
    if suffix not in _NAMED_AFTER and not suffix[1:].isdigit():  # the name may be a UID: numbers separated by dots
        return False
    with as_input_error(path, "file"), path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _opened(path: Path) -> Image.Image:
    with as_input_error(path, "picture"):
        return Image.open(path)


def _n_pages(path: Path, picture: Image.Image) -> int:
    """Return the number of slices of a picture: the pages of a TIFF, else one."""
    with as_input_error(path, "picture"):
        n_pages = int(getattr(picture, "n_frames", 1))
    if n_pages > 1 and picture.format == "PNG":
        raise InputError(f"{path} is animated; expected one slice, or a TIFF file with several")
    return n_pages if picture.format == "TIFF" else 1


def _picture(path: Path, page: int) -> np.ndarray:
    with _opened(path) as picture, as_input_error(path, "picture"):
        if page:
            picture.seek(page)
        if picture.mode.startswith("RGB") and _is_deep(path):
            raise InputError(
                f"{path} has 16 bits with colour or transparency; save it as plain greyscale to keep all bits"
            )
        if picture.mode == "I;16" and getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) == 0:
            raise InputError(f"{path} is a 16-bit TIFF in which zero is white; save it with zero as black")
        grey = len(picture.getbands()) == 1 and picture.mode != "P"
        pixels = np.asarray(picture if grey else picture.convert("RGB"))
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise InputError(f"{path} is in colour; expected one magnitude value per pixel")
        pixels = pixels[..., 0]
    return pixels


def _is_deep(path: Path) -> bool:
    """Return whether a PNG has 16 bits; Pillow reads only eight of them unless it is plain greyscale."""
    with path.open("rb") as file:
        start = file.read(25)
    return start.startswith(b"\x89PNG") and start[24] == 16


def _array(path: Path) -> np.ndarray:
    array = open_npy(path)
    if not (array.ndim in (2, 3) and array.size and array.dtype.kind in "biufc"):
        raise InputError(f"{path} holds {array.dtype} of shape {array.shape}; expected numbers (h, w) or (slice, h, w)")
    if array.ndim == 3 and array.shape[-1] <= 4 < array.shape[1]:
        raise InputError(f"{path} has shape {array.shape}, colour channels last; expected (h, w) or (slice, h, w)")
    return array


def _extra(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"reading this folder needs {module}; install it with: pip install spinwarp[{extra}]"
        ) from error


def _nifti_axes(path: Path) -> tuple[Any, np.ndarray, int]:
    """Return the image, the anatomical axis and direction of each stored axis, and the stored axis of the slices."""
    nibabel = _extra("nibabel", "nifti")
    with as_input_error(path, "NIfTI file"):
        image = nibabel.squeeze_image(nibabel.load(path))
        if image.get_data_dtype().fields:
            raise InputError(f"{path} is in colour ({image.get_data_dtype()}); expected one magnitude per voxel")
        n_bytes = math.prod(image.shape) * image.get_data_dtype().itemsize
        if len(image.shape) != 3 or 0 in image.shape:
            raise InputError(f"{path} has shape {image.shape}; expected one three-dimensional volume")
        if n_bytes > path.stat().st_size * (LARGEST_RATIO if _is_packed(path) else 1):
            raise InputError(f"{path} has shape {image.shape}, but is too small to hold that; repair or remove it")
        orientation = nibabel.io_orientation(image.affine)
        if not np.isfinite(orientation).all():
            raise InputError(f"{path} does not state its orientation; repair its affine")
    # slice along the thickest side of the voxels, which is how they were acquired; cubic voxels give axial slices
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
        "places": _nifti_places(path, image, orientation, (row, column, across)),
    }


def _nifti_places(path: Path, image: Any, orientation: np.ndarray, axes: tuple[int, int, int]) -> tuple[Geometry, ...]:
    """Return where each slice of :func:`_nifti_slice` lies; ``axes`` are the stored ones of row, column and slice."""
    if not (image.header["qform_code"] or image.header["sform_code"]):
        return ()
    affine = to_ras(image.affine)
    row, column, across = axes
    turned = np.eye(4)
    turned[:3, 3] = affine[:3, 3]
    for to, (axis, sign) in enumerate([(row, -1), (column, 1), (across, 1)]):  # rows run down
        sign *= int(orientation[axis, 1])
        turned[:3, to] = sign * affine[:3, axis]
        if sign < 0:
            turned[:3, 3] += (image.shape[axis] - 1) * affine[:3, axis]
    try:
        first = Geometry.from_affine(turned, (image.shape[row], image.shape[column]))
    except InputError as error:
        warn_once(f"{path} does not say where its slices lie: {error}")
        return ()
    return tuple(first.moved(i * turned[:3, 2]) for i in range(image.shape[across]))


def _nifti_slice(path: Path, index: int) -> np.ndarray:
    """Return a slice with superior (or anterior) at the top and right (or anterior) on the right."""
    image, orientation, across = _nifti_axes(path)
    data = _unpacked(path) if _is_packed(path) else image.dataobj
    if orientation[across, 1] < 0:
        index = image.shape[across] - 1 - index
    with as_input_error(path, "NIfTI file"):
        plane = np.asarray(data[tuple(index if axis == across else slice(None) for axis in range(3))])
    left = [axis for axis in range(3) if axis != across]
    plane = plane[tuple(slice(None, None, int(orientation[axis, 1])) for axis in left)]
    if orientation[left[0], 0] < orientation[left[1], 0]:
        plane = plane.T
    return plane[::-1]


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


@lru_cache(maxsize=2)
def _unpacked(path: Path) -> np.ndarray:
    # reading one slice unpacks the whole file, so the reads that follow share it
    with as_input_error(path, "NIfTI file"):
        return np.asarray(_nifti_axes(path)[0].dataobj)
