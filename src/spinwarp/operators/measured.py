"""The measured samples alone, with as few transforms as possible, for data terms."""

from collections.abc import Callable

import torch
from torch import Tensor

from spinwarp.fourier import fft_order


def sampling_operator(mask: Tensor) -> Callable[[Tensor], Tensor]:
    """Build a function from coil images to their measured samples. Use the samples only to compare images.

    For ``S = sampling_operator(mask)``, ``|S(x) - S(ifftc(y))| = |M F x - y|``, if y is zero where nothing was measured
    and F x is zero where only another item of the batch was measured. S is cheaper than M F: it leaves out the
    transform along the readout of a line mask, drops positions that no item measured instead of zeroing them, and
    leaves out the phases that centre the transform, which are the same for both images.

    Parameters
    ----------
    mask : ``(batch, 1, 1 or h, w)`` bool.

    Returns
    -------
    sample : from coil images ``(batch, coil, h, w)`` complex to ``(batch, coil, h, n)``, n the number of columns that
        any item sampled; for a plane mask to ``(batch, coil, n)``.
    """
    dims = (-1,) if mask.shape[-2] == 1 else (-2, -1)
    index = _index(mask)

    def sample(images: Tensor) -> Tensor:
        return torch.fft.fftn(images, dim=dims, norm="ortho").flatten(-len(dims)).index_select(-1, index)

    return sample


def in_samples(choice: Tensor, mask: Tensor) -> Tensor:
    """Reorder a selection of samples, shaped like ``mask``, as :func:`sampling_operator` orders them.

    Returns
    -------
    chosen : bool, ``(batch, 1, 1, n)``, or ``(batch, 1, n)`` for a plane mask.
    """
    chosen = fft_order(choice).flatten(-2).index_select(-1, _index(mask))
    return chosen[:, :, None] if mask.shape[-2] == 1 else chosen


def _index(mask: Tensor) -> Tensor:
    """Flat positions that any item of the batch sampled."""
    return fft_order(mask[:, 0].any(0)).flatten().nonzero()[:, 0]
