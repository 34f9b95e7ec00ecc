"""Complex noise, with one generator for each chain."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spinwarp.errors import InputError


class ChainNoise:
    """Draws of CN(0, 1). A chain's numbers do not depend on which other chains run beside it.

    This is the only state that changes in a sampler: every draw advances the generators.

    Parameters
    ----------
    generators : one for each chain, all on one device, on which the draws are made.

    Raises
    ------
    InputError : if there is none.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        if not generators:
            raise InputError("there are no chains to draw; ask for at least one sample")
        self.generators = tuple(generators)

    def __len__(self) -> int:
        return len(self.generators)

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        """Draw ``(chain, *shape)``, complex64: real and imaginary part have variance 1/2 each."""
        device = self.generators[0].device
        parts = torch.empty(len(self), *shape, 2, device=device)
        for part, generator in zip(parts, self.generators, strict=True):
            part.normal_(std=math.sqrt(0.5), generator=generator)
        return torch.view_as_complex(parts)


def chain_generators(seeds: Sequence[int], device: torch.device | str = "cpu") -> tuple[torch.Generator, ...]:
    """Make one generator for every seed; equal seeds make equal chains."""
    return tuple(torch.Generator(device).manual_seed(seed) for seed in seeds)
