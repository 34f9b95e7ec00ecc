"""What is written: the images of one measured file, where they lie in the patient, and what made them."""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

import numpy as np

from spinwarp.errors import InputError
from spinwarp.geometry import Geometry

log = logging.getLogger("spinwarp")
_HASHED = "sha256:"
_SAME_DIRECTION = 1e-3  # of unit vectors; files have them with a few digits
_SAME_PLACE = 0.02  # of a voxel, by which rounded positions may miss


@dataclass(frozen=True)
class Patient:
    """What DICOM files say of the patient; empty unless the user gives it.

    Parameters
    ----------
    name : as DICOM writes it, ``family^given``.
    id : of the hospital.
    birth_date : YYYYMMDD.
    sex : ``M``, ``F`` or ``O``.
    study : StudyInstanceUID of the study that the images belong to; None: a new one.

    Raises
    ------
    InputError : if a field is not as DICOM wants it.
    """

    name: str | None = None
    id: str | None = None
    birth_date: str | None = None
    sex: str | None = None
    study: str | None = None

    def __post_init__(self) -> None:
        if self.birth_date is not None and not _is_date(self.birth_date):
            raise InputError(f"patient.birth_date={self.birth_date} is no date; write it as YYYYMMDD, in quotes")
        if self.sex not in (None, "M", "F", "O"):
            raise InputError(f"patient.sex={self.sex} is not M, F or O")
        if self.study is not None and not (re.fullmatch(r"\d+(\.\d+)+", self.study) and len(self.study) <= 64):
            raise InputError(f"patient.study={self.study} is no unique identifier: numbers separated by dots")
        for key, text in (("name", self.name), ("id", self.id)):
            if text is not None and (len(text) > 64 or "\\" in text):
                raise InputError(f"patient.{key} has at most 64 characters and no backslash; got {text[:80]}")


def _is_date(text: str) -> bool:
    try:
        return bool(re.fullmatch(r"\d{8}", text)) and datetime.strptime(text, "%Y%m%d") is not None
    except ValueError:
        return False


@dataclass(frozen=True)
class Record:
    """What made the images of a file: a second call replaces only images of the same record.

    Parameters
    ----------
    method, mask : names.
    input : path of the measured file. In NIfTI, DICOM and PNG it is hashed, because paths may name the patient.
    settings : hash of the options of the method.
    slices : indices of the images in the measured file.
    """

    method: str
    mask: str
    input: str
    settings: str = ""
    slices: tuple[int, ...] = ()

    def same_origin(self, other: "Record") -> bool:
        """Whether both are images of one measured file, method and mask."""
        return self._origin() == other._origin()

    def _origin(self) -> tuple[str, str, str]:
        return self.method, self.mask, _hashed(self.input)

    def __str__(self) -> str:
        return f"input {self.input}, mask {self.mask}, method {self.method}"

    def to_text(self) -> str:
        """Return the record as JSON with the input hashed."""
        return json.dumps(replace(self, input=_hashed(self.input)).__dict__)

    @staticmethod
    def from_text(text: str) -> "Record | None":
        """Read what :meth:`to_text` wrote; None if the text is something else."""
        try:
            fields = json.loads(text)
            return Record(**{**fields, "slices": tuple(fields["slices"])})
        except (ValueError, TypeError, KeyError):
            return None


def _hashed(text: str) -> str:
    return text if text.startswith(_HASHED) else _HASHED + hashlib.sha256(text.encode()).hexdigest()


class Series(NamedTuple):
    """Images of one kind: ``suffix`` for file names, ``title`` in words, ``images`` ``(slice, h, w)`` float32."""

    suffix: str
    title: str
    images: np.ndarray


@dataclass(frozen=True, eq=False)
class Volume:
    """The images of one measured file.

    Parameters
    ----------
    name : of the measured file, without its suffix.
    images : ``(slice, h, w)`` magnitudes.
    std : their predicted standard deviations, same shape, or None.
    places : where each image lies; None if unknown.
    voxel_size : (readout, phase, slice) in mm, or None.
    record : what made them.
    acceleration : realised, mean over the slices; None if they are not all there.
    interval : (factor, level) of :func:`spinwarp.results.write_reconstruction`, or None.
    patient : for DICOM.
    """

    name: str
    images: np.ndarray
    std: np.ndarray | None
    places: Sequence[Geometry | None]
    voxel_size: tuple[float, float, float] | None
    record: Record
    acceleration: float | None = None
    interval: tuple[float, float] | None = None
    patient: Patient = field(default_factory=Patient)

    def series(self) -> Iterator[Series]:
        """Yield the images, then their standard deviations and the half widths of the intervals if there are any."""
        yield Series("", self.record.method, self.images)
        if self.std is not None:
            yield Series("_std", f"{self.record.method}, standard deviation", self.std)
        if self.std is not None and self.interval is not None:
            factor, level = self.interval
            title = f"{self.record.method}, half width of the {100 * level:g} % interval"
            yield Series("_half_width", title, factor * self.std)

    def located(self, kind: str, no_size: str) -> list[Geometry]:
        """Return the place of each image; an empty list if any is unknown, which the log says.

        Parameters
        ----------
        kind : of file, for the log.
        no_size : what the file has if the size of voxels is unknown too.
        """
        places = [place for place in self.places if place is not None]
        if len(places) == len(self.images):
            return places
        log.warning(
            "%s does not say where its images lie in the patient: the %s file has no position, and %s",
            self.name,
            kind,
            f"{no_size}, because that is unknown" if self.voxel_size is None else "voxels of the measured size",
        )
        return []


def in_order(places: Sequence[Geometry]) -> list[int]:
    """Return the order of the slices along their normal; those at one place keep their order."""
    along = np.array([place.position for place in places]) @ places[0].slice
    return np.argsort(along.round(3), kind="stable").tolist()


def n_at_a_place(places: Sequence[Geometry]) -> int:
    """Return how many of the ordered slices lie at each place, as echoes do; 1 unless it is everywhere the same."""
    positions = np.array([place.position for place in places])
    tolerance = _SAME_PLACE * min(places[0].voxel_size)
    n = int((np.abs(positions - positions[0]).max(1) <= tolerance).sum())
    if len(places) % n:
        return 1
    groups = positions.reshape(-1, n, 3)
    return n if np.abs(groups - groups[:, :1]).max() <= tolerance else 1


def spacing(places: Sequence[Geometry]) -> float:
    """Return the distance in mm between the centres of ordered slices, that of the voxels if there is one slice.

    Raises
    ------
    InputError : if they are not parallel, evenly spaced and in one line, as the slices of a volume are.
    """
    first, n = places[0], len(places)
    if n == 1:
        return first.voxel_size[2]
    directions = np.array([place.readout + place.phase for place in places])
    if np.abs(directions - directions[0]).max() > _SAME_DIRECTION:
        raise InputError("the slices are not parallel")
    shift = np.array([place.position for place in places]) - first.position
    along = shift @ first.slice
    step = float(along[-1]) / (n - 1)
    if step <= _SAME_PLACE * first.voxel_size[2]:
        raise InputError("several slices lie at one place")
    if np.abs(along - step * np.arange(n)).max() > _SAME_PLACE * step:
        gaps = ", ".join(f"{gap:.4g}" for gap in np.diff(along)[:5])
        raise InputError(f"the slices are not evenly spaced, but by {gaps} mm" + (" ..." if n > 6 else ""))
    beside = np.abs(shift - np.outer(along, first.slice)).max()
    if beside > _SAME_PLACE * max(first.voxel_size):
        raise InputError(f"the slices are shifted against each other within their plane, by up to {beside:.3g} mm")
    return step
