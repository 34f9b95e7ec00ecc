"""The images of a result folder: whole reconstructions, and a few example slices with their targets.

Every file is written whole or not at all.
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spinwarp.errors import InputError
from spinwarp.files import LARGEST_RATIO, as_input_error, atomic_write


@dataclass(frozen=True, eq=False)
class ExampleSlice:
    """One slice of a result, with its target and metrics.

    Parameters
    ----------
    volume, slice, method : the slice and the method that reconstructed it.
    target, reconstruction : ``(h, w)`` float32 magnitudes.
    data_range : the largest value of the target volume.
    nmse, psnr, ssim : of this slice, to print beside the picture.
    provenance, acceleration : as in :class:`Row`.
    std : ``(h, w)`` pixelwise standard deviation that the method predicts, or None.
    mask : ``(1 or h, w)`` bool on the k-space grid, which may be wider than the image, or None.
    foreground : ``(h, w)`` bool, where errors are compared with ``std``, or None.
    level : coverage of the Gaussian interval that ``std`` was scaled to promise; NaN if it was not scaled.
    ssim_foreground : SSIM of this slice in its foreground; NaN in results of older versions.
    """

    volume: str
    slice: int
    method: str
    target: np.ndarray
    reconstruction: np.ndarray
    data_range: float
    nmse: float
    psnr: float
    ssim: float
    provenance: str
    acceleration: float
    std: np.ndarray | None = None
    mask: np.ndarray | None = None
    foreground: np.ndarray | None = None
    level: float = math.nan
    ssim_foreground: float = math.nan


@dataclass(frozen=True, eq=False)
class ReconstructedVolume:
    """The images of one volume by one method.

    Parameters
    ----------
    images : ``(slice, h, w)`` float32 magnitudes.
    slices : their indices in the measured volume.
    half_width : ``(slice, h, w)`` half width of the predicted interval, or None.
    interval : what the half width is, such as ``2 std``; empty without one.
    """

    images: np.ndarray
    slices: list[int]
    half_width: np.ndarray | None = None
    interval: str = ""


EXAMPLES = "examples.h5"
RECONSTRUCTIONS = "reconstructions"  # the folder of whole volumes
TARGETS = "targets"  # the folder of their targets
_EXAMPLE_ATTRIBUTES = ("method", "data_range", "nmse", "psnr", "ssim", "provenance", "acceleration")
_OPTIONAL_ATTRIBUTES = ("level", "ssim_foreground")


def write_reconstruction(
    folder: Path,
    volume_name: str,
    images: np.ndarray,
    std: np.ndarray | None = None,
    interval: tuple[float, float] | None = None,
    origin: Mapping[str, str] | None = None,
    slices: Sequence[int] | None = None,
) -> Path:
    """Write the images of one volume in fastMRI's submission layout and return the file's path.

    Parameters
    ----------
    folder : where ``<volume>.h5`` goes.
    volume_name : with or without ``.h5``.
    images : ``(slice, h, w)`` real magnitudes.
    std : their predicted standard deviations, same shape, written to the data set ``std`` beside ``reconstruction``;
        readers of submissions ignore it. None: no such data set.
    interval : (factor, level); the data set ``half_width`` holds factor times ``std``, the half width of an interval
        that promises the coverage ``level``, its attribute. None: no such data set.
    origin : attributes of the file that say what made the images from what, see :func:`read_origin`.
    slices : indices of the images in the measured volume, an attribute of the images. None: no such attribute.

    Raises
    ------
    InputError : if shapes or types are wrong, or the name leads out of the folder.
    """
    path = _inside(folder, volume_name)
    if images.ndim != 3 or np.iscomplexobj(images):
        found = f"{images.dtype} of shape {images.shape}"
        raise InputError(f"the reconstruction of {volume_name} is {found}; expected magnitudes (slice, h, w)")
    if std is not None and (std.shape != images.shape or np.iscomplexobj(std)):
        found = f"{std.dtype} of shape {std.shape}"
        raise InputError(
            f"the standard deviation of {volume_name} is {found}; expected real numbers of shape {images.shape}"
        )
    with _new_file(path) as file:
        file["reconstruction"] = images.astype(np.float32, copy=False)
        if slices is not None:
            file["reconstruction"].attrs["slices"] = list(slices)
        file.attrs.update(origin or {})
        if std is not None:
            file["std"] = std.astype(np.float32, copy=False)
        if std is not None and interval is not None:
            factor, level = interval
            file["half_width"] = (factor * std).astype(np.float32, copy=False)
            file["half_width"].attrs["level"] = level
    return path


def _inside(folder: Path, volume_name: str) -> Path:
    """Return the path of a volume's file; an InputError if the name leads out of the folder."""
    name = Path(volume_name if volume_name.endswith(".h5") else f"{volume_name}.h5")
    if name.is_absolute() or ".." in name.parts:
        raise InputError(f"volume {volume_name} names a file outside {folder}; rename it to a plain name")
    return folder / name


@contextmanager
def _new_file(path: Path) -> Iterator[h5py.File]:
    """Yield an HDF5 file in memory and write it to ``path`` at once: HDF5 itself crashes the process on a full disk."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        yield file
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def read_origin(path: Path) -> dict[str, str]:
    """Return the text attributes of a file of reconstructions; none if it is not an HDF5 file."""
    try:
        with h5py.File(path, "r") as file:
            return {name: value for name, value in file.attrs.items() if isinstance(value, str)}
    except OSError:
        return {}


def read_slices(path: Path) -> list[int]:
    """Return the indices of the images in a file of reconstructions, none if it does not say them."""
    try:
        with h5py.File(path, "r") as file:
            return [int(index) for index in file["reconstruction"].attrs.get("slices", [])]
    except (OSError, KeyError):
        return []


def read_reconstruction(path: Path) -> ReconstructedVolume:
    """Read a file of :func:`write_reconstruction`.

    The half width is that of the file, or else two standard deviations.

    Raises
    ------
    InputError : if the file is missing, is not HDF5, or its parts differ in shape.
    """
    with as_input_error(path, "file of reconstructions", "reconstruct again"), h5py.File(path, "r") as file:
        images = _stack(file["reconstruction"])
        slices = [int(index) for index in file["reconstruction"].attrs.get("slices", range(len(images)))]
        half_width, interval = None, ""
        if "half_width" in file:
            half_width = _stack(file["half_width"])
            interval = f"the {100 * float(file['half_width'].attrs['level']):g} % interval"
        elif "std" in file:
            half_width, interval = 2 * _stack(file["std"]), "2 std"
        if len(slices) != len(images) or (half_width is not None and half_width.shape != images.shape):
            raise ValueError("its images, indices and standard deviations differ in number")
    return ReconstructedVolume(images, slices, half_width, interval)


def write_target(folder: Path, volume_name: str, target: np.ndarray, foreground: np.ndarray) -> None:
    """Write the targets of one volume to ``<volume>.h5``.

    Parameters
    ----------
    folder : where the file goes.
    volume_name : with or without ``.h5``.
    target : ``(slice, h, w)`` magnitudes, cropped for the metrics; in the order of the reconstruction's slices.
    foreground : ``(slice, h, w)`` bool, where errors are compared with a predicted standard deviation.
    """
    with _new_file(_inside(folder, volume_name)) as file:
        file.create_dataset("target", data=target.astype(np.float32, copy=False), compression="gzip")
        file.create_dataset("foreground", data=foreground, compression="gzip")


def read_target(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return target and foreground ``(slice, h, w)`` of a file of :func:`write_target`.

    Raises
    ------
    InputError : if the file is missing, is not HDF5, or its parts differ in shape.
    """
    with as_input_error(path, "file of targets", "evaluate again"), h5py.File(path, "r") as file:
        target, foreground = _stack(file["target"]), _stack(file["foreground"])
        if target.shape != foreground.shape:
            raise ValueError("target and foreground differ in shape")
    return target, foreground


def write_examples(path: Path, examples: Sequence[ExampleSlice]) -> None:
    """Write slices to ``examples.h5``, one group ``<volume>/<slice>`` each; of duplicates the last is kept."""
    with _new_file(path) as file:
        for (volume, index), example in {(e.volume, e.slice): e for e in examples}.items():
            group = file.create_group(f"{volume}/{index}")
            for name in ("target", "reconstruction", "std"):
                image = getattr(example, name)
                if image is not None:
                    group.create_dataset(name, data=np.asarray(image, np.float32), compression="gzip")
            for name in ("mask", "foreground"):
                image = getattr(example, name)
                if image is not None:
                    group.create_dataset(name, data=np.asarray(image, bool), compression="gzip")
            for name in (*_EXAMPLE_ATTRIBUTES, *_OPTIONAL_ATTRIBUTES):
                group.attrs[name] = getattr(example, name)


def read_examples(path: Path) -> list[ExampleSlice]:
    """Read a file of :func:`write_examples`, sorted by volume and slice.

    Raises
    ------
    InputError : if the file is missing, is not HDF5, or lacks a part of an example.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; evaluate.py writes it, give the folder of a finished run")
    with as_input_error(path, "file of example slices", "evaluate again"), h5py.File(path, "r") as file:
        groups: list[h5py.Group] = []
        file.visititems(lambda _, item: groups.append(item) if "reconstruction" in _members(item) else None)
        examples = [_read_example(group) for group in groups]
    return sorted(examples, key=lambda e: (e.volume, e.slice))


def _members(item: h5py.Group | h5py.Dataset) -> Sequence[str]:
    return list(item) if isinstance(item, h5py.Group) else []


def _read_example(group: h5py.Group) -> ExampleSlice:
    volume, index = group.name.strip("/").rsplit("/", 1)
    attributes = {name: group.attrs[name] for name in _EXAMPLE_ATTRIBUTES}
    values: dict[str, Any] = {k: v if isinstance(v, str) else float(v) for k, v in attributes.items()}
    optional: dict[str, Any] = {n: _plane(group[n]) for n in ("std", "mask", "foreground") if n in group}
    values |= {name: float(group.attrs.get(name, math.nan)) for name in _OPTIONAL_ATTRIBUTES}
    images: dict[str, Any] = {name: _plane(group[name]) for name in ("target", "reconstruction")}
    if len({image.shape for name, image in {**images, **optional}.items() if name != "mask"}) > 1:
        raise ValueError(f"the images of {group.name} differ in shape")
    return ExampleSlice(volume=volume, slice=int(index), **images, **values, **optional)


def _plane(dataset: h5py.Dataset) -> np.ndarray:
    return _array(dataset, 2)


def _stack(dataset: h5py.Dataset) -> np.ndarray:
    return _array(dataset, 3)


def _array(dataset: h5py.Dataset, n_dimensions: int) -> np.ndarray:
    largest = LARGEST_RATIO * dataset.id.get_storage_size()  # more was never written
    if dataset.ndim != n_dimensions or dataset.dtype.kind not in "bf" or dataset.nbytes > largest:
        raise ValueError(f"{dataset.name} is {dataset.dtype} of shape {dataset.shape}")
    return np.asarray(dataset[()])
