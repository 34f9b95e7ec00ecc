"""Random changes of fully sampled examples that leave them as physical as they were: more from little data."""

from dataclasses import replace

import torch
from numpy.random import RandomState
from torch import Tensor

from spinwarp.acquisition import Example, Header
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc


class FlipsAndPhase:
    """Mirrors the image along readout and phase direction and turns its global phase.

    What is measured of a mirrored head is as good a measurement as the original; the global phase of a scan is
    arbitrary, and networks that treat real and imaginary parts apart must learn so. The target is mirrored along.

    Parameters
    ----------
    flip : probability of mirroring, for each direction.

    Raises
    ------
    InputError : if the probability is not in [0, 1].
    """

    def __init__(self, flip: float = 0.5) -> None:
        if not 0 <= flip <= 1:
            raise InputError(f"augment.flip is a probability; got {flip}")
        self.flip = flip

    def __call__(self, example: Example, generator: RandomState) -> Example:
        """Return the changed example of a batch of one; the input is left as it was."""
        flips = [dim for dim in (-2, -1) if generator.uniform() < self.flip and _symmetric(example, dim)]
        phase = 2 * torch.pi * generator.uniform()
        acquisition = example.acquisition
        kspace = acquisition.kspace * torch.polar(torch.ones(()), torch.tensor(phase, dtype=torch.float32))
        mask = acquisition.mask
        headers = acquisition.headers
        if flips:
            kspace = fftc(ifftc(kspace).flip(flips))
            # mirroring the image mirrors k-space about DC, and what was measured with it
            mask = _mirrored(mask, [dim for dim in flips if mask.shape[dim] > 1])
            kspace = kspace * mask  # the rest held zeros, up to rounding
        if -1 in flips:
            headers = tuple(replace(h, acquired_columns=_columns(h, mask.shape[-1])) for h in headers)
        target = example.target if example.target is None else example.target.flip(flips)
        return replace(
            example,
            acquisition=replace(acquisition, kspace=kspace, mask=mask, headers=headers),
            target=target,
        )


def _mirrored(mask: Tensor, dims: list[int]) -> Tensor:
    return mask.flip(dims).roll([1 - mask.shape[dim] % 2 for dim in dims], dims) if dims else mask


def _columns(header: Header, width: int) -> tuple[int, int] | None:
    """The acquired columns of the mirrored scan; column 0 of an even width mirrors to itself."""
    if header.acquired_columns is None:
        return None
    acquired = torch.zeros(width, dtype=torch.bool)
    acquired[slice(*header.acquired_columns)] = True
    columns = _mirrored(acquired, [-1]).nonzero().flatten()
    return int(columns[0]), int(columns[-1]) + 1


def _symmetric(example: Example, dim: int) -> bool:
    """Whether the target's crop lies in the middle to the pixel, so that image and target mirror alike."""
    return example.target is None or (example.acquisition.kspace.shape[dim] - example.target.shape[dim]) % 2 == 0
