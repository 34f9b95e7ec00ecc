"""The probability with which lines were sampled, adapted to the lines that were drawn."""

import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.channels import double


def adapted_density(acquisition: Acquisition, density: Tensor) -> Tensor:
    """Return a density ``(batch, w)`` for :func:`spinwarp.uncertainty.sure` that corrects for chance in the draw.

    A few lines next to the centre hold most of the missing energy. An estimate that counts a drawn line 1/p times
    depends strongly on whether these were drawn. The energy of lines falls as a power of the distance to the centre,
    which is fitted to the measured lines. The odds (1 - p)/p of all lines are multiplied by one number, so that this
    power law, summed over the measured lines, gives its sum over the missing ones. This ratio estimate (Cochran,
    Sampling Techniques, ch. 6) is no longer exactly unbiased, but has half the standard deviation.

    Parameters
    ----------
    acquisition : of a line mask.
    density : ``(w,)``, with which the mask was drawn.
    """
    energy = double(acquisition.kspace.abs().square().sum((1, 2)))
    mask = acquisition.mask[:, 0, 0].to(energy.device)  # (b, w)
    width = mask.shape[-1]
    position = torch.arange(width, device=mask.device)
    distance = (position - width // 2).abs().clamp_min(1).to(energy.dtype).log().expand(len(mask), -1)
    used = mask & (energy > 0)
    n = used.sum(1, keepdim=True).clamp_min(1)
    log_energy = torch.where(used, energy, 1.0).log()
    x = (distance - (distance * used).sum(1, keepdim=True) / n) * used
    slope = (x * log_energy).sum(1, keepdim=True) / x.square().sum(1, keepdim=True).clamp_min(1e-9)
    law = (slope * distance).exp()
    missing = ~mask
    for i, header in enumerate(acquisition.headers):
        if header.acquired_columns is not None:  # zero padding misses nothing
            first, last = header.acquired_columns
            missing[i] &= (position >= first) & (position < last)
    wide = double(density)
    odds = (1 - wide) / wide
    expected = (law * odds * mask).sum(1, keepdim=True)
    ratio = torch.where(expected > 0, (law * missing).sum(1, keepdim=True) / expected, 1.0)
    return (1 / (1 + ratio * odds)).to(density.dtype).to(density.device)
