"""The interface of a data set. Each data set is one class in one file."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.random import RandomState

from spinwarp.acquisition import Example
from spinwarp.errors import InputError

SPLITS = ("train", "val", "test")


def check_split(split: str) -> None:
    """Raise an :class:`InputError` if ``split`` is not one of :data:`SPLITS`."""
    if split not in SPLITS:
        raise InputError(f"split={split!r} is not one of {', '.join(SPLITS)}")


def random_state(*parts: object) -> RandomState:
    """Return a generator that depends on ``parts`` alone, such as a seed, the name of a volume and a slice."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return RandomState(np.frombuffer(digest, "<u4").astype(np.uint32))


@dataclass(frozen=True)
class Volume:
    """One scan.

    Parameters
    ----------
    name : unique in the data set; it seeds the mask in validation, so fastMRI files keep their ``.h5``.
    path : the file or folder that holds it.
    n_slices : number of slices.
    shape : (coils, h, w, target h, target w); only equal shapes share a batch.
    patient : who was scanned; None if neither the file nor its name says.
    """

    name: str
    path: Path
    n_slices: int
    shape: tuple[int, int, int, int, int]
    patient: str | None = None


class Source(Protocol):
    """A data set: lists its volumes and reads their slices.

    ``prepare`` makes, downloads or converts missing files. It runs once per machine; running it twice does no harm.
    ``volumes`` lists a split ("train", "val", "test") in a fixed order, reading no more than headers.
    ``read`` returns one **fully sampled** slice as a batch of one; its mask is True on every acquired column.
    A data set with an attribute ``reads_anew`` that is true hands over tensors that it does not keep: a mask may be
    applied to them in place. A subclass that keeps what it read has to set it to False.
    """

    name: str

    def prepare(self) -> None:
        """Make, download or convert the data."""
        ...

    def volumes(self, split: str) -> list[Volume]:
        """List the volumes of a split."""
        ...

    def read(self, volume: Volume, slice_index: int) -> Example:
        """Read one slice as a batch of one."""
        ...


@runtime_checkable
class DrawingSource(Source, Protocol):
    """A simulated data set with new draws in each training epoch; ``read`` always returns the same.

    ``draw`` returns an example like that of ``read``, of the same shape, from a generator that depends on seed, epoch
    and slice.
    """

    def draw(self, volume: Volume, slice_index: int, generator: RandomState) -> Example:
        """Draw one slice as a batch of one."""
        ...
