"""Measured samples alone, in as few transforms as give them: what a data term needs."""

from collections.abc import Callable

import torch
from torch import Tensor

from spinwarp.fourier import fft_order


def sampler(mask: Tensor) -> Callable[[Tensor], Tensor]:
    """Build the map from coil images of one slice to its measured samples, for comparing them and nothing else.

    ``|sampler(mask)(x) - sampler(mask)(ifftc(y))| = |M F x - y|`` for y zero where nothing was measured. A line mask is
    constant along the readout, so that no transform along it is taken; what is not measured is dropped, not zeroed; and
    the phases that centre the transform, which are the same on both sides, are left out.

    Parameters
    ----------
    mask : ``(1, 1, 1 or h, w)`` bool.

    Returns
    -------
    sample : takes coil images ``(..., h, w)`` complex to ``(..., h, columns)``, or ``(..., points)`` of a plane mask.
    """
    dims = (-1,) if mask.shape[-2] == 1 else (-2, -1)
    index = _index(mask)

    def sample(images: Tensor) -> Tensor:
        return torch.fft.fftn(images, dim=dims, norm="ortho").flatten(-len(dims)).index_select(-1, index)

    return sample


def in_samples(choice: Tensor, mask: Tensor) -> Tensor:
    """Bring a choice of measured samples, shaped like ``mask``, into the order of :func:`sampler`: ``(n,)`` bool."""
    return fft_order(choice).flatten()[_index(mask)]


def _index(mask: Tensor) -> Tensor:
    (plane,) = mask[:, 0]  # slices of a batch may have different numbers of samples
    return fft_order(plane).flatten().nonzero()[:, 0]
