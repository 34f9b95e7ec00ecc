"""Data augmentation: random changes of fully sampled examples that keep them physically valid."""

from dataclasses import replace

import torch
from numpy.random import RandomState
from torch import Tensor

from spinwarp.acquisition import Example, Header
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc


class FlipsAndPhase:
    """Mirrors the image along the readout and phase directions, and multiplies it by a global phase.

    The measurement of a mirrored head is as valid as the original. The global phase of a scan is arbitrary, which
    networks with separate real and imaginary channels have to learn. The target is mirrored too.

    Parameters
    ----------
    flip : probability of mirroring each direction.

    Raises
    ------
    InputError : if the probability is not in [0, 1].
    """

    def __init__(self, flip: float = 0.5) -> None:
        if not 0 <= flip <= 1:
            raise InputError(f"augment.flip is a probability; got {flip}")
        self.flip = flip

    def __call__(self, example: Example, generator: RandomState) -> Example:
        """Return the augmented example of a batch of one; the input is not modified."""
        flips = [dim for dim in (-2, -1) if generator.uniform() < self.flip and _symmetric(example, dim)]
        phase = 2 * torch.pi * generator.uniform()
        acquisition = example.acquisition
        kspace = acquisition.kspace * torch.polar(torch.ones(()), torch.tensor(phase, dtype=torch.float32))
        mask = acquisition.mask
        headers, maps = acquisition.headers, acquisition.maps
        if flips:
            maps = None if maps is None else maps.flip(flips)
            kspace = fftc(ifftc(kspace).flip(flips))
            # mirroring the image mirrors k-space about DC, and the mask with it
            mask = _mirrored(mask, [dim for dim in flips if mask.shape[dim] > 1])
            kspace = kspace * mask  # elsewhere k-space is zero up to rounding
        if -1 in flips:
            headers = tuple(replace(h, acquired_columns=_columns(h, mask.shape[-1])) for h in headers)
        target = example.target if example.target is None else example.target.flip(flips)
        acquisition = replace(acquisition, kspace=kspace, mask=mask, maps=maps, headers=headers)
        return replace(example, acquisition=acquisition, target=target)


def _mirrored(mask: Tensor, dims: list[int]) -> Tensor:
    return mask.flip(dims).roll([1 - mask.shape[dim] % 2 for dim in dims], dims) if dims else mask


def _columns(header: Header, width: int) -> tuple[int, int] | None:
    """Return the acquired columns of the mirrored scan; column 0 of an even width mirrors to itself."""
    if header.acquired_columns is None:
        return None
    acquired = torch.zeros(width, dtype=torch.bool)
    acquired[slice(*header.acquired_columns)] = True
    columns = _mirrored(acquired, [-1]).nonzero().flatten()
    return int(columns[0]), int(columns[-1]) + 1


def _symmetric(example: Example, dim: int) -> bool:
    """Return whether the target's crop is exactly centred; only then do image and target mirror alike."""
    return example.target is None or (example.acquisition.kspace.shape[dim] - example.target.shape[dim]) % 2 == 0
