"""The images of one measured file, and the files that they are written to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spinwarp.acquisition import Header
from spinwarp.errors import InputError
from spinwarp.geometry import Geometry
from spinwarp.results.formats import Patient, Record, Volume, writer


class Reconstructed:
    """Collects the images of one measured file and writes them.

    Parameters
    ----------
    folder : for the images.
    source : the measured file.
    formats : of the images, of :data:`spinwarp.results.formats.FORMATS`.
    record : what makes the images; its slices are those that are asked for.
    interval : see :func:`spinwarp.results.write_reconstruction`.
    patient : for DICOM.

    Raises
    ------
    InputError : if the library of a format is missing.
    """

    def __init__(
        self,
        folder: Path,
        source: Path,
        formats: Sequence[str],
        record: Record,
        interval: tuple[float, float] | None = None,
        patient: Patient | None = None,
    ) -> None:
        self.folder = folder
        self.source = source
        self.name = source.stem
        self.writers = [writer(name) for name in formats]
        self.record = record
        self.interval = interval
        self.patient = patient or Patient()
        self.images: dict[int, np.ndarray] = {}
        self.stds: dict[int, np.ndarray] = {}
        self.places: dict[int, Geometry | None] = {}
        self.voxel_size: tuple[float, float, float] | None = None

    @property
    def paths(self) -> list[Path]:
        """The files and folders of the finished images, in the order of the formats."""
        return [one.path_of(self.folder, self.name) for one in self.writers]

    @property
    def _unfinished(self) -> Path:
        return writer("h5").path_of(self.folder, f"{self.name}_unfinished")

    def check(self) -> None:
        """Check that only images of the same method, mask, measured file and slices would be overwritten.

        Raises
        ------
        InputError : if another file is in the way, or it holds more slices.
        """
        remedy = "give another folder with out="
        there = [*zip(self.writers, self.paths, strict=True), (writer("h5"), self._unfinished)]
        for one, path in there:
            if path.resolve() == self.source.resolve():
                raise InputError(f"{path} is the measured file, which the images would overwrite; {remedy}")
            if not path.exists():
                continue
            found = one.read_record(path)
            if found is None or not found.same_origin(self.record):
                what = found or "not written by reconstruct.py"
                raise InputError(f"{path} holds other images ({what}); {remedy}, or remove it")
            if lost := sorted(set(found.slices) - set(self.record.slices)):
                named = ", ".join(map(str, lost[:10])) + (", ..." if len(lost) > 10 else "")
                raise InputError(
                    f"{path} holds other slices too ({named}), which would be lost; {remedy}, or remove it"
                )

    def is_finished(self, sources: Sequence[Path]) -> bool:
        """Whether all files are there, with the same settings and slices, and newer than ``sources``."""
        newest = max(path.stat().st_mtime for path in (self.source, *sources))
        for one, path in zip(self.writers, self.paths, strict=True):
            found = one.read_record(path) if path.exists() else None
            if found is None or not found.same_origin(self.record) or path.stat().st_mtime < newest:
                return False
            if found.settings != self.record.settings or set(found.slices) != set(self.record.slices):
                return False
        return True

    def add(
        self,
        indices: Sequence[int],
        images: np.ndarray,
        stds: np.ndarray | None,
        headers: Sequence[Header],
        size: tuple[int, int],
    ) -> None:
        """Add a batch ``(batch, h, w)`` of images, and their standard deviations if the method predicts them.

        Parameters
        ----------
        headers : of the acquisitions.
        size : (h, w) of k-space, of which the images are the centre.
        """
        self.images.update(zip(indices, images, strict=True))
        if stds is not None:
            self.stds.update(zip(indices, stds, strict=True))
        crop = (images.shape[-2], images.shape[-1])
        for index, header in zip(indices, headers, strict=True):
            place = header.geometry
            self.places[index] = None if place is None else place.cropped(size, crop)
            self.voxel_size = header.voxel_size or (place.voxel_size if place else None)

    def write(self, acceleration: float) -> list[Path]:
        """Write the images in every format, in the order in which they were added; return the paths.

        Parameters
        ----------
        acceleration : realised, mean over the slices.
        """
        for one, path in zip(self.writers, self.paths, strict=True):
            one.write(path, self._volume(acceleration))
        self._unfinished.unlink(missing_ok=True)  # from an earlier call
        return self.paths

    def write_unfinished(self) -> str:
        """Write the finished slices; return a sentence that says which and where, or an empty one if there are none."""
        if not self.images:
            return ""
        try:
            writer("h5").write(self._unfinished, self._volume())
        except OSError as error:
            return f"the finished slices could not be written ({error.strerror})"
        return f"slices {', '.join(map(str, self.images))} are finished; their images are in {self._unfinished}"

    def _volume(self, acceleration: float | None = None) -> Volume:
        # an empty slice has no standard deviation
        stds = [self.stds.get(index, np.zeros_like(image)) for index, image in self.images.items()]
        return Volume(
            name=self.name,
            images=np.stack(list(self.images.values())),
            std=np.stack(stds) if self.stds else None,
            places=list(self.places.values()),
            voxel_size=self.voxel_size,
            record=Record(
                self.record.method, self.record.mask, self.record.input, self.record.settings, tuple(self.images)
            ),
            acceleration=acceleration,
            interval=self.interval,
            patient=self.patient,
        )
