"""Random changes of fully sampled examples that leave them as physical as they were: more from little data."""

from dataclasses import replace

import torch
from numpy.random import RandomState

from spinwarp.acquisition import Example
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
        """Return the changed example of a fully sampled batch of one; the input is left as it was."""
        flips = [dim for dim in (-2, -1) if generator.uniform() < self.flip and _symmetric(example, dim)]
        phase = 2 * torch.pi * generator.uniform()
        acquisition = example.acquisition
        kspace = acquisition.kspace * torch.polar(torch.ones(()), torch.tensor(phase, dtype=torch.float32))
        mask = acquisition.mask
        headers = acquisition.headers
        if flips:
            kspace = fftc(ifftc(kspace).flip(flips))
        if -1 in flips:
            # mirroring the image mirrors k-space about DC, and the zero padding with it
            mask = mask.flip(-1).roll(1 - mask.shape[-1] % 2, -1)
            columns = mask[0, 0, 0].nonzero().flatten()
            acquired = (int(columns[0]), int(columns[-1]) + 1)
            headers = tuple(replace(h, acquired_columns=h.acquired_columns and acquired) for h in headers)
            kspace = kspace * mask  # the padding held zeros, up to rounding
        target = example.target if example.target is None else example.target.flip(flips)
        return replace(
            example,
            acquisition=replace(acquisition, kspace=kspace, mask=mask, headers=headers),
            target=target,
        )


def _symmetric(example: Example, dim: int) -> bool:
    """Whether the target's crop lies in the middle to the pixel, so that image and target mirror alike."""
    return example.target is None or (example.acquisition.kspace.shape[dim] - example.target.shape[dim]) % 2 == 0
