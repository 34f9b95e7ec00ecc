"""A file of measured k-space without a reference image, read slice by slice."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from spinwarp.acquisition import Acquisition, Example
from spinwarp.errors import InputError

_AXES = {"h": "readout", "w": "phase encoding", "c": "coils", "s": "slices"}
_MANY = 32  # coils; larger arrays are rare


class Measured(ABC):
    """What one file of k-space delivers; each format is one subclass.

    Parameters
    ----------
    path : the file, or for Bruker its folder.
    n_slices : number of slices; repetitions and echoes count as further slices.
    """

    def __init__(self, path: Path, n_slices: int) -> None:
        self.path = path
        self.n_slices = n_slices

    @abstractmethod
    def read(self, index: int) -> Acquisition:
        """Read one existing slice as a batch of one, with its header.

        Raises
        ------
        InputError : if it cannot be read.
        """

    def slices(self, indices: list[int]) -> Iterator[Example]:
        """Read slices one after the other, each as a batch of one without a target.

        Raises
        ------
        InputError : if a slice does not exist or cannot be read.
        """
        for index in indices:
            if not 0 <= index < self.n_slices:
                raise InputError(f"{self.path.name} has slices 0 to {self.n_slices - 1}; slice {index} does not exist")
            yield Example(
                acquisition=self.read(index),
                target=None,
                data_range=torch.ones(1),
                volume=(self.path.name,),
                slice=(index,),
            )


def in_order(path: Path, name: str, array: np.ndarray, axes: str | None) -> np.ndarray:
    """Return an array as (slice, coil, h, w).

    Parameters
    ----------
    path, name : of the array, for the error.
    array : of two to four axes.
    axes : a letter for each axis: h (readout), w (phase encoding), c (coils), s (slices). None: hw for a matrix.

    Raises
    ------
    InputError : if the axes are not known, or the letters do not fit the array.
    """
    if axes is None:
        array = array.squeeze() if array.squeeze().ndim >= 2 else array
        axes = "hw" if array.ndim == 2 else ""
    wrong = len(axes) != array.ndim or len(set(axes)) < len(axes) or not {"h", "w"} <= set(axes) <= set(_AXES)
    if wrong or array.ndim > 4:
        meaning = ", ".join(f"{letter} {word}" for letter, word in _AXES.items())
        raise InputError(
            f"{path}: {name} is {'x'.join(map(str, array.shape))}; say what its axes are with "
            f"axes={'hwcs'[: array.ndim]} or another order ({meaning})"
        )
    order = [axes.index(letter) for letter in "schw" if letter in axes]
    missing = tuple(None if letter not in axes else slice(None) for letter in "schw")
    return array.transpose(order)[missing]


def coils_misplaced(n_coils: int, w: int) -> bool:
    """Whether the axes of an array are likely in another order: it seems to have many coils, and more than columns."""
    return n_coils > max(w, _MANY)
