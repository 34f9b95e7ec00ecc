"""The scale of the data, by which weights lose their unit and priors know how bright an image is."""

import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition, acs_columns
from spinwarp.coils import root_sum_of_squares
from spinwarp.fourier import ifftc

_BLOCK = 32
_PRIOR_BLOCK = 8  # every usual mask samples it whole, so that training and reconstruction see one scale


def prior_scale(acquisition: Acquisition) -> Tensor:
    """Scale ``(batch,)`` by which images are divided before a generative prior sees them.

    The root mean square of the image that the central 8 by 8 samples of k-space make. Nearly all the energy of an
    image lies there: on 73 axial brains its ratio to the root mean square of the whole image varied by 2 %. The
    percentile of a zero-filled image, which others take (Jalal et al., arXiv 2108.01368), depends on the mask.
    """
    h, w = acquisition.kspace.shape[-2:]
    top, left = max((h - _PRIOR_BLOCK + 1) // 2, 0), max((w - _PRIOR_BLOCK + 1) // 2, 0)
    block = acquisition.kspace[..., top : top + _PRIOR_BLOCK, left : left + _PRIOR_BLOCK]
    energy = (block.real.square() + block.imag.square()).sum((1, 2, 3))
    return torch.where(energy > 0, energy / (h * w), 1.0).sqrt()


def data_scale(acquisition: Acquisition) -> Tensor:
    """Scale ``(batch,)`` of the measured data, as BART finds it, so that its weights are ours.

    It is the 90th percentile of the root sum of squares of the low-resolution coil images, or their maximum where
    that stands out of them (more than twice as far above the percentile as the percentile is above the median). The
    images are those of the central block, at most 32 by 32, where it is fully sampled; zero-filled ones otherwise.

    References
    ----------
    BART (mrirecon/bart), ``src/sense/optcom.c``, ``estimate_scaling_norm``.
    """
    items = zip(acquisition.kspace, acquisition.mask, acs_columns(acquisition.mask).tolist(), strict=True)
    return torch.stack([_scale(kspace, mask, n) for kspace, mask, n in items])


def _scale(kspace: Tensor, mask: Tensor, n_acs: int) -> Tensor:
    h, w = kspace.shape[-2:]
    columns = min(n_acs, _BLOCK, w)
    rows = min(int(acs_columns(mask.expand(-1, h, -1).mT[None])), _BLOCK)  # of lines all; of asymmetric echoes fewer
    top, left = (h - rows + 1) // 2, (w - columns + 1) // 2  # where masks put their centre
    block = kspace[:, top : top + rows, left : left + columns] if n_acs > 1 else kspace
    # the energy of an orthonormal transform spreads over as many pixels as there are samples
    gain = (block.shape[-2] * block.shape[-1] / (h * w)) ** 0.5
    magnitude = root_sum_of_squares(ifftc(block)[None]).flatten().sort().values * gain
    n = len(magnitude)
    median, percentile, largest = magnitude[n // 2], magnitude[int(n * 0.9)], magnitude[-1]
    scale = torch.where(largest - percentile < 2 * (percentile - median), percentile, largest)
    return torch.where(scale > 0, scale, 1.0)
