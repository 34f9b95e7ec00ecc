"""A split of two small volumes, and methods and images that the tests of the evaluation compare with."""

from collections.abc import Sequence

import torch
from memory import MemorySource
from torch import Generator, Tensor
from with_std import WithStd

from spinwarp.acquisition import Acquisition, Example, Reconstruction, center_crop
from spinwarp.data.module import FastMRIDataModule
from spinwarp.evaluation import Protocol
from spinwarp.masks import RandomMask
from spinwarp.recon import Reconstructor, ZeroFilled
from spinwarp.results import Row

CROP = (24, 20)
N_SLICES = {"f.h5": 3, "g.h5": 2}
PROTOCOL = Protocol("zero_filled", "memory", "test", "random_4x", 4.0, N_SLICES, crop="none")


def batches(batch_size: int = 1, crop: tuple[int, int] | None = CROP, has_targets: bool = True) -> list[Example]:
    source = MemorySource(crop=crop, has_targets=has_targets)
    return list(FastMRIDataModule(source, RandomMask([0.16], [4]), batch_size=batch_size).loader("test"))


def zero_filled(example: Example) -> Tensor:
    image = ZeroFilled()(example.acquisition).image.abs()
    return center_crop(image, CROP)


class Fixed(Reconstructor):
    """Returns what it is given, and remembers what it was given."""

    def __init__(self, image: Tensor | None = None, std: Tensor | None = None) -> None:
        self.image = image
        self.std = std
        self.given: list[Acquisition] = []
        self.draws: list[Tensor] = []

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        self.given.append(acquisition)
        self.draws.append(torch.rand(3, generator=generator))
        b, _, h, w = acquisition.kspace.shape
        image = torch.zeros(b, h, w, dtype=torch.complex64) if self.image is None else self.image
        return Reconstruction(image, self.std)


def predicted(example: Example) -> Tensor:
    std = WithStd()(example.acquisition).std
    assert std is not None
    return center_crop(std, CROP)


def by_volume(rows: Sequence[Row]) -> dict[str, Row]:
    assert len({row.volume for row in rows}) == len(rows)
    return {row.volume: row for row in rows}
