"""Measured samples alone, in as few transforms as give them: what a data term needs."""

from collections.abc import Callable

import torch
from torch import Tensor

from spinwarp.fourier import fft_order


def sampler(mask: Tensor) -> Callable[[Tensor], Tensor]:
    """Build the map from coil images to their measured samples, for comparing them and nothing else.

    ``|sampler(mask)(x) - sampler(mask)(ifftc(y))| = |M F x - y|`` for y zero where nothing was measured, and x zero
    where another item of the batch was measured. A line mask is constant along the readout, so that no transform along
    it is taken; what no item measured is dropped, not zeroed; and the phases that centre the transform, which are the
    same on both sides, are left out.

    Parameters
    ----------
    mask : ``(batch, 1, 1 or h, w)`` bool.

    Returns
    -------
    sample : takes coil images ``(batch, coil, h, w)`` complex to ``(batch, coil, h, n)``, n the columns that any item
        sampled; of a plane mask to ``(batch, coil, n)``.
    """
    dims = (-1,) if mask.shape[-2] == 1 else (-2, -1)
    index = _index(mask)

    def sample(images: Tensor) -> Tensor:
        return torch.fft.fftn(images, dim=dims, norm="ortho").flatten(-len(dims)).index_select(-1, index)

    return sample


def in_samples(choice: Tensor, mask: Tensor) -> Tensor:
    """Bring a choice of samples, shaped as ``mask``, into the order of :func:`sampler`.

    Returns
    -------
    chosen : bool, ``(batch, 1, 1, n)``, or ``(batch, 1, n)`` of a plane mask.
    """
    chosen = fft_order(choice).flatten(-2).index_select(-1, _index(mask))
    return chosen[:, :, None] if mask.shape[-2] == 1 else chosen


def _index(mask: Tensor) -> Tensor:
    """Flat positions that any item of the batch sampled."""
    return fft_order(mask[:, 0].any(0)).flatten().nonzero()[:, 0]
