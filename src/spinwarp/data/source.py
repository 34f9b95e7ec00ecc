"""What the data module asks of a set of volumes. Each data set is one class in one file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from numpy.random import RandomState

from spinwarp.acquisition import Example
from spinwarp.errors import InputError

SPLITS = ("train", "val", "test")


def check_split(split: str) -> None:
    """Raise an :class:`InputError` if ``split`` is not one of :data:`SPLITS`."""
    if split not in SPLITS:
        raise InputError(f"split={split!r} is not one of {', '.join(SPLITS)}")


@dataclass(frozen=True)
class Volume:
    """One scan.

    Parameters
    ----------
    name : unique in the data set; it seeds the mask in validation, so fastMRI files keep their ``.h5``.
    path : the file or folder it is read from.
    n_slices : number of slices.
    shape : (coils, h, w, target h, target w); only equal shapes share a batch.
    patient : who was scanned, where the file or its name tells it.
    """

    name: str
    path: Path
    n_slices: int
    shape: tuple[int, int, int, int, int]
    patient: str | None = None


class Source(Protocol):
    """A data set: where its volumes are and how a slice is read.

    ``prepare`` makes, fetches or converts what is not there yet; it is called once per machine, twice is harmless.
    ``volumes`` lists a split ("train", "val", "test") in a fixed order; it reads headers at most.
    ``read`` returns one **fully sampled** slice as a batch of one, whose mask is True on every acquired column.
    """

    name: str

    def prepare(self) -> None:
        """Make, fetch or convert the data."""
        ...

    def volumes(self, split: str) -> list[Volume]:
        """List a split."""
        ...

    def read(self, volume: Volume, slice_index: int) -> Example:
        """Read one slice as a batch of one."""
        ...


@runtime_checkable
class DrawingSource(Source, Protocol):
    """A simulated data set that training sees anew in each epoch, while ``read`` stays the same.

    ``draw`` returns what ``read`` does, of the same shape, from a generator that depends on seed, epoch and slice.
    """

    def draw(self, volume: Volume, slice_index: int, generator: RandomState) -> Example:
        """Draw one slice as a batch of one."""
        ...
