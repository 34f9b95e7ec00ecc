"""Magnitude volumes of many subjects: lists them, tells subjects apart, and keeps their pixels in memory."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.io import loadmat, whosmat

from spinwarp.data.images.formats import SUFFIXES, ImageVolume, find_images, read_slice
from spinwarp.errors import InputError
from spinwarp.files import as_input_error

_EDGE = 0.08  # fraction of the slices left out at either end of a volume; they show little of the head


def find_heads(folders: Sequence[Path]) -> list[ImageVolume]:
    """List the magnitude volumes of several folders, sorted by name: all formats of ``data=images``, and MATLAB arrays.

    The subject of a volume is its first sub-folder; for files in the folder itself, the number in the file name.

    Raises
    ------
    InputError : if a folder is missing or empty, a file cannot be read or has no subject, or two have the same name.
    """
    found: dict[str, ImageVolume] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}; data.source.path names folders of magnitude images")
        arrays = [_matlab(folder, path) for path in sorted(folder.rglob("*.mat")) if not path.name.startswith(".")]
        alone = arrays and not any(path.name.lower().endswith(SUFFIXES) for path in folder.rglob("*"))
        for volume in arrays if alone else arrays + find_images(folder):
            if not volume.subject:
                if volume.number is None:
                    raise InputError(f"{volume.files[0]} has no subject; give each a folder, or number the files")
                volume = replace(volume, subject=str(volume.number))
            if volume.name in found:
                raise InputError(
                    f"{volume.files[0]} and {found[volume.name].files[0]} are both called {volume.name}; rename one"
                )
            found[volume.name] = volume
    return [found[name] for name in sorted(found)]


def is_among(volume: ImageVolume, subjects: Sequence[str]) -> bool:
    """Return whether a volume belongs to ``subjects``: names of sub-folders, or ranges of file numbers ``10-19``."""
    for subject in subjects:
        if volume.subject == subject:
            return True
        ends = re.fullmatch(r"(\d+)-(\d+)", subject)
        if ends and volume.subject.isdigit() and int(ends[1]) <= int(volume.subject) <= int(ends[2]):
            return True
    return False


def useful_slices(n_slices: int) -> range:
    """Return the indices of a volume's slices, without those at its ends."""
    edge = int(n_slices * _EDGE)
    return range(edge, n_slices - edge)


@lru_cache(maxsize=4096)
def pixels(volume: ImageVolume) -> tuple[np.ndarray, float, tuple[float, float]]:
    """Return the whole volume ``(slice, h, w)``, the magnitude of bright tissue and the resolution; cached in memory.

    The resolution (h, w) is the fraction of k-space that the images fill in each direction: less than one if they were
    interpolated. 8-bit files stay 8-bit; all others are scaled to 16 bits, which is finer than their noise.

    Raises
    ------
    InputError : if the file cannot be read, or does not hold finite magnitudes of the size in its header.
    """
    path = volume.files[0]
    if path.suffix.lower() == ".mat":
        with as_input_error(path, "MATLAB file up to version 7.2"):
            stack = np.moveaxis(np.atleast_3d(loadmat(path)[_magnitudes(path)[0]]), -1, 0)
    else:
        stack = np.stack([read_slice(volume, i) for i in range(volume.n_slices)])
    if stack.shape[1:] != volume.size or np.iscomplexobj(stack):
        raise InputError(f"{path} holds {stack.dtype} {stack.shape[1:]}; expected real numbers {volume.size}")
    if not np.isfinite(stack).all() or stack.max() <= 0 or stack.min() < -0.05 * stack.max():
        raise InputError(f"{path} does not hold magnitudes (finite, positive, not all zero); repair or remove it")
    if stack.dtype not in (np.uint8, np.uint16):
        stack = np.round(np.maximum(stack, 0) * (65535 / stack.max())).astype(np.uint16)
    some = stack[:: max(len(stack) // 8, 1)]
    bright = float(np.percentile(some[some > 0.1 * stack.max()], 98))
    middle = stack[len(stack) // 3 : 2 * len(stack) // 3 + 1]
    return np.ascontiguousarray(stack), bright, _resolution(middle[:: max(len(middle) // 4, 1)])


def _resolution(images: np.ndarray) -> tuple[float, float]:
    """Return the fraction (h, w) of k-space within the radius where power falls to 1/50 of that near the centre."""
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in images.shape[1:]))  # keeps the image's edge out of k-space
    power = (np.abs(np.fft.fft2(images * window)) ** 2).sum(0)
    fractions = []
    for axis in (0, 1):
        profile = np.median(power, axis=1 - axis)
        radius = np.abs(np.fft.fftfreq(len(profile))) * 2
        bands = [np.median(profile[(radius >= r) & (radius < r + 0.1)]) for r in np.arange(0.3, 1, 0.1)]
        inner = np.median(profile[(radius > 0.1) & (radius < 0.25)])
        faint = [band < inner / 50 for band in bands]
        fractions.append(0.3 + 0.1 * faint.index(True) if any(faint) else 1.0)
    return max(fractions[0], 0.5), max(fractions[1], 0.5)


def _matlab(folder: Path, path: Path) -> ImageVolume:
    _, (h, w, n) = _magnitudes(path)
    relative = path.relative_to(folder)
    number = re.search(r"\d+", path.stem)
    return ImageVolume(
        name="_".join([*relative.parts[:-1], path.stem]),
        files=(path,),
        n_slices=n,
        size=(h, w),
        subject=relative.parts[0] if len(relative.parts) > 1 else "",
        number=int(number[0]) if number else None,
    )


def _magnitudes(path: Path) -> tuple[str, tuple[int, int, int]]:
    """Return name and size (h, w, slice) of the only 2-D or 3-D array."""
    with as_input_error(path, "MATLAB file up to version 7.2"):
        arrays = [(name, shape) for name, shape, _ in whosmat(path) if len(shape) in (2, 3) and min(shape[:2]) > 1]
    if len(arrays) != 1:
        raise InputError(f"{path} holds {len(arrays)} arrays; expected one of magnitudes, (h, w) or (h, w, slice)")
    name, shape = arrays[0]
    return name, (shape[0], shape[1], shape[2] if len(shape) == 3 else 1)
