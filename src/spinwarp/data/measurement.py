"""A file of measured k-space without a reference image, read slice by slice."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import torch

from spinwarp.acquisition import Acquisition, Example
from spinwarp.errors import InputError


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
