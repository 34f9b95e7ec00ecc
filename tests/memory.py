"""A source of volumes that live in memory: what the tests of modules, training and evaluation share."""

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from spinwarp.acquisition import Acquisition, Example, Header, center_crop
from spinwarp.coils import root_sum_of_squares
from spinwarp.data.source import Volume
from spinwarp.fourier import ifftc

Shape = tuple[int, int, int]  # coils, h, w
VOLUMES: Mapping[str, Mapping[str, tuple[int, Shape]]] = {
    "train": {"a.h5": (3, (2, 32, 40)), "b.h5": (4, (2, 32, 48)), "c.h5": (5, (2, 32, 40))},
    "val": {"d.h5": (3, (2, 32, 40)), "e.h5": (2, (2, 32, 48))},
    "test": {"f.h5": (3, (2, 32, 40)), "g.h5": (2, (2, 32, 48))},
}


class MemorySource:
    """Smooth random objects; a slice depends on the names of its volume and its index alone.

    Parameters
    ----------
    volumes : split to name to (number of slices, shape).
    crop : reconstruction size (h, w); the whole image if None.
    has_targets : whether slices come with a target.
    """

    name = "memory"

    def __init__(
        self,
        volumes: Mapping[str, Mapping[str, tuple[int, Shape]]] = VOLUMES,
        crop: tuple[int, int] | None = None,
        has_targets: bool = True,
    ) -> None:
        self.table = volumes
        self.crop = crop
        self.has_targets = has_targets

    def prepare(self) -> None:
        """Do nothing."""

    def volumes(self, split: str) -> list[Volume]:
        return [
            Volume(name, Path(name), n, (*shape, *(self.crop or shape[1:])))
            for name, (n, shape) in self.table[split].items()
        ]

    def read(self, volume: Volume, slice_index: int) -> Example:
        images = [self._image(volume, index) for index in range(volume.n_slices)]
        kspace, target = images[slice_index]
        header = Header("phantom", volume.name, reconstruction_size=self.crop)
        return Example(
            Acquisition(kspace, torch.ones(1, 1, 1, kspace.shape[-1], dtype=torch.bool), headers=(header,)),
            target if self.has_targets else None,
            torch.stack([image.max() for _, image in images]).max()[None],
            (volume.name,),
            (slice_index,),
        )

    def _image(self, volume: Volume, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        n_coils, h, w = volume.shape[:3]
        rng = np.random.RandomState(zlib.crc32(f"{volume.name}/{index}".encode()))
        distance = np.hypot(np.arange(h)[:, None] - h // 2, np.arange(w) - w // 2)
        noise = rng.randn(n_coils, h, w) + 1j * rng.randn(n_coils, h, w)
        kspace = torch.from_numpy((noise / (1 + distance**2)).astype(np.complex64))[None]
        return kspace, center_crop(root_sum_of_squares(ifftc(kspace)), self.crop or (h, w))
