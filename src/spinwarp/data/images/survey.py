"""Checks of a folder of images: its split, its orientations, and what makes reconstructions look too good."""

import csv
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from spinwarp.data.images.formats import PICTURES, ImageVolume, splits_of
from spinwarp.data.patients import without_number
from spinwarp.data.source import SPLITS
from spinwarp.errors import InputError
from spinwarp.files import as_input_error

_log = logging.getLogger(__name__)
_REMEDY = "give each patient a sub-folder, or make the sub-folders train, val and test"


def split_by_patient(volumes: list[ImageVolume], block: int, n_val: int, n_test: int) -> dict[str, list[ImageVolume]]:
    """Split by sub-folder if there are any, else by patient, else by contiguous blocks of file numbers.

    The log says which.

    Raises
    ------
    InputError : if there are too few groups, or the names do not show which files may be of one patient.
    """
    subjects = {volume.subject for volume in volumes}
    if splits := splits_of(subjects):
        _log.info("the sub-folders %s are the splits", ", ".join(sorted(splits)))
        return {split: [volume for volume in volumes if splits[volume.subject] == split] for split in SPLITS}
    if subjects == {""} and not any(volume.patient for volume in volumes):
        what, groups = "blocks of file numbers", _blocks(volumes, block)
        remedy = f"lower data.source.block (now {block}) to cut shorter blocks, but keep a patient in one block"
    else:
        what, remedy = "patients", _REMEDY
        if subjects != {""}:
            what, remedy = "sub-folders", "give each patient a sub-folder"
        groups = {}
        for volume in volumes:
            name = volume.patient if subjects == {""} else volume.subject
            if not name:
                wrong = "names no patient, but other files do" if subjects == {""} else "lies next to sub-folders"
                raise InputError(f"{volume.files[0]} {wrong}; {_REMEDY}")
            groups.setdefault(name, []).append(volume)
    n_train = len(groups) - n_val - n_test
    if n_train < 1:
        raise InputError(
            f"{len(volumes)} images make {len(groups)} {what} ({_listed(list(groups))}); {n_val} for val, {n_test} for "
            f"test and one or more for train are needed: {remedy}"
        )
    names = list(groups)
    parts = {"train": names[:n_train], "val": names[n_train : n_train + n_val], "test": names[n_train + n_val :]}
    _log.info(
        "%d images are split by %s: %s",
        len(volumes),
        what,
        "; ".join(f"{split} {_listed(part)}" for split, part in parts.items()),
    )
    return {split: [volume for name in part for volume in groups[name]] for split, part in parts.items()}


def _blocks(volumes: list[ImageVolume], block: int) -> dict[str, list[ImageVolume]]:
    """Return runs of consecutive file numbers, named by first and last number; long runs are cut."""
    runs: list[list[ImageVolume]] = []
    first = previous = -2
    words: dict[int, str] = {}
    for volume in sorted(volumes, key=lambda v: -1 if v.number is None else v.number):
        if volume.number is None:
            raise InputError(f"{volume.files[0]} has no number to split by; {_REMEDY}")
        rest = without_number(volume.stem, volume.number)
        if words.setdefault(volume.number, rest) != rest:
            raise InputError(
                f"several files have the number {volume.number}, such as {volume.files[0]}, and their names do not "
                f"show which files may be of one patient; {_REMEDY}"
            )
        if volume.number > previous + 1 or volume.number - first >= block:
            first = volume.number
            runs.append([])
        previous = volume.number
        runs[-1].append(volume)
    return {f"{run[0].number}-{run[-1].number}": run for run in runs}


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" to {names[-1]} ({len(names)})" if len(names) > 4 else "")


def with_orientation(folder: Path, volumes: list[ImageVolume]) -> list[ImageVolume]:
    """Fill in orientations from the folder's ``orientation.tsv``, if it has one.

    Raises
    ------
    InputError : if the table does not have the columns first, last and orientation.
    """
    path = folder / "orientation.tsv"
    if not path.is_file():
        return volumes
    with as_input_error(path, "table"), path.open(newline="") as file:
        try:
            runs = [(int(r["first"]), int(r["last"]), r["orientation"]) for r in csv.DictReader(file, delimiter="\t")]
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise InputError(f"{path} must have the columns first, last and orientation, separated by tabs") from error

    def orientation_of(volume: ImageVolume) -> str | None:
        number = -1 if volume.number is None else volume.number
        # if ranges overlap, the last one counts
        return next((name for first, last, name in reversed(runs) if first <= number <= last), volume.orientation)

    return [v if v.number is None else replace(v, orientation=orientation_of(v)) for v in volumes]


def has_empty_border(image: np.ndarray) -> bool:
    """Return whether the outermost tenth of k-space along either axis is nearly empty.

    If it is, the image was interpolated: the "zero-padded pipeline" of Shimron et al., "Implicit data crimes" (PNAS
    119, 2022, e2117203119). Its true resolution is below its matrix, and recovering the rest is too easy. Rounding to
    integers adds power of 1/12 per pixel, which is subtracted. The rectified noise of the air fills the border again,
    so interpolated noisy images of floats go unnoticed.
    """
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in image.shape))  # keeps the image's edge out of the border
    power = np.abs(np.fft.fftshift(np.fft.fft2(image * window))) ** 2
    # the median of an exponential variable is log(2) times its mean; half as much again allows for its spread
    rounding = 1.5 * np.log(2) * (window**2).sum() / 12 if image.dtype.kind in "ui" else 0.0
    for axis in (0, 1):
        profile = np.median(power, axis=1 - axis)
        n = len(profile)
        radius = np.abs(np.arange(n) - n // 2) / (n / 2)
        outer, inner = profile[radius > 0.9], profile[(radius > 0.1) & (radius < 0.25)]
        # images at their true resolution have 1e-3 or more, measured on the scanner images with the steepest decay
        if inner.size and np.median(outer) - rounding < 5e-4 * np.median(inner):
            return True
    return False


def is_coarse(volume: ImageVolume) -> bool:
    """Return whether a picture is JPEG or has 8 bits, from its header."""
    path = volume.files[0]
    if path.suffix.lower() not in PICTURES:
        return False
    with Image.open(path) as picture:
        return picture.format == "JPEG" or picture.mode in ("L", "P", "LA", "RGB", "RGBA")
