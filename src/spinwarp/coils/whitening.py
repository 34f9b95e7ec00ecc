"""Estimate noise that is correlated between the coils, and make it white."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.channels import double
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc

_SAMPLES_PER_COIL = 10
_SAMPLES_OF_AIR = 250
_CLEARLY = 0.8  # of two powers; the least of a dozen blocks of pure noise, one coil, is .85 of their mean
_ROUNDING = 1e-5  # of the strongest row; float32 and a Fourier transform leave about 1e-7
_INDEPENDENT = 1e-6  # smallest fraction of a coil's noise that is independent of the other coils


def noise_covariance(noise: Tensor) -> Tensor:
    """Estimate the covariance E[n n^H] of the coils from samples of pure noise.

    With ``n`` samples, the relative error of each element is about ``1 / sqrt(n)``.

    Parameters
    ----------
    noise : ``(coil, n)`` or ``(batch, coil, ...)`` complex, of mean zero.

    Returns
    -------
    ``(coil, coil)`` or ``(batch, coil, coil)``; the diagonal is the variance of a complex sample.

    Raises
    ------
    InputError : if there are fewer than ten samples per coil, or values that are not finite.
    """
    samples = noise if noise.ndim == 2 else noise.flatten(2)
    n_coils, n = samples.shape[-2:]
    if n < _SAMPLES_PER_COIL * n_coils:
        raise InputError(
            f"{n} samples of noise are too few for {n_coils} coils; give at least {_SAMPLES_PER_COIL * n_coils}"
        )
    if not samples.isfinite().all():
        raise InputError("the noise has values that are not finite; repair or leave out these samples")
    return samples @ samples.mH / n


def border_covariance(kspace: Tensor, mask: Tensor, fraction: float = 0.1) -> Tensor:
    """Estimate the noise covariance from the scan itself, if there is no noise scan: see :func:`border_samples`.

    Parameters
    ----------
    kspace : ``(batch, coil, h, w)`` complex.
    mask : ``(batch, 1, 1 or h, w)`` bool, True where k-space was measured.
    fraction : of the sampled positions to use in the corners of k-space.

    Returns
    -------
    ``(batch, coil, coil)``.

    Raises
    ------
    InputError : if that are fewer than ten positions for each coil, if values are not finite, or if ``fraction`` is
        not above zero and at most one.
    """
    return torch.stack([noise_covariance(samples) for samples in border_samples(kspace, mask, fraction)])


def border_samples(kspace: Tensor, mask: Tensor, fraction: float = 0.1) -> Iterator[Tensor]:
    """Yield samples ``(coil, n)`` of each item that are noise, as far as the scan has any.

    There are two candidates, and signal only adds power:

    - the corners of k-space: the sampled positions whose frequencies are high in both directions, since the tails of
      the signal lie along the axes;
    - air: the block of rows with the least power after the transform along the readout, see :func:`air_samples`.

    The corners are more samples, so air is taken only if it has clearly less power. Zero padding is left out.

    Where the object fills the field of view and its signal reaches the corners of k-space, both hold signal, and the
    noise comes out too strong. On 64 simulated heads, at 4x and 8x, the corners alone gave .99 to 25 times the true
    level (median 1.37, a tenth above 4.3), both together .80 to 2.4 times (median .98, a tenth above 1.03).

    Raises
    ------
    InputError : if ``fraction`` is not above zero and at most one.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction={fraction} must be above 0 and at most 1")
    h, w = kspace.shape[-2:]
    # where all coils are exactly zero there is zero padding, whatever the mask says
    sampled = mask[:, 0].expand(-1, h, -1) & (kspace != 0).any(1)
    rows = (torch.arange(h, device=kspace.device) - h // 2).abs()[:, None] * sampled
    columns = (torch.arange(w, device=kspace.device) - w // 2).abs() * sampled
    for k, s, row, column in zip(kspace, sampled, rows, columns, strict=True):
        # relative to the highest sampled frequency, which excludes zero padding
        frequency = torch.minimum(row / row.max().clamp_min(1), column / column.max().clamp_min(1))
        n = int(fraction * s.sum())
        lowest = frequency[s].topk(n).values[-1] if n else torch.inf
        corners, air = k[:, s & (frequency >= lowest)], air_samples(k, s)
        if air is None or air.abs().square().mean() >= _CLEARLY * corners.abs().square().mean():
            yield corners
        else:
            yield air


def air_samples(kspace: Tensor, sampled: Tensor) -> Tensor | None:
    """Return samples ``(coil, n)`` from the rows of one scan that show the least signal, or None.

    Lines along the readout are whole under a line mask, so after the transform along them every row of the field of
    view stands alone, however few lines were measured. Rows beside the object hold noise. A Hann window keeps the
    object's rows from leaking into them.

    The least of several blocks of pure noise is a little below their mean. The size of a block balances this against
    the few rows of air that there may be.

    Parameters
    ----------
    kspace : ``(coil, h, w)``.
    sampled : ``(h, w)`` bool. Columns of which at least nine tenths were sampled count as lines; there are none under a
        point mask.
    """
    n_coils, h, _ = kspace.shape
    there = sampled.any(1).nonzero()
    if not len(there):
        return None
    first, last = int(there[0]), int(there[-1]) + 1
    lines = sampled[first:last].float().mean(0) > 0.9
    if not lines.any():
        return None
    window = torch.zeros(h, device=kspace.device)
    steps = torch.arange(last - first, device=kspace.device) + 0.5
    window[first:last] = (torch.pi / (last - first) * steps).sin().square()
    rows = ifftc(kspace[:, :, lines] * window[:, None], (-2,)) / window.square().mean().sqrt()
    power = rows.abs().square().sum((0, 2))
    size = min(-(-max(_SAMPLES_OF_AIR, _SAMPLES_PER_COIL * n_coils) // int(lines.sum())), h)
    # rows of air at the top and at the bottom are neighbours
    block = torch.cat([power, power[: size - 1]]).unfold(0, size, 1).mean(1)
    least = int(block.argmin())
    if block[least] <= _ROUNDING**2 * power.max():
        return None  # the air was set to zero before k-space was made
    return rows.roll(-least, 1)[:, :size].flatten(1)


def noise_level(kspace: Tensor, mask: Tensor) -> Tensor:
    """Standard deviation ``(batch,)`` of the complex noise of one sample, from the scan itself.

    This is the root of the mean power over coils of :func:`border_samples`, and is wrong in the same cases. An item
    without samples has a level of zero.
    """
    power = [
        samples.abs().square().mean() if samples.numel() else kspace.real.new_zeros(())
        for samples in border_samples(kspace, mask)
    ]
    return torch.stack(power).sqrt()


def whiten(acquisition: Acquisition, covariance: Tensor) -> Acquisition:
    """Make the noise white with standard deviation one, by the inverse Cholesky factor of its covariance.

    K-space and maps are multiplied by the same matrix, so the image and its units do not change, but the sum of squares
    of the maps is no longer one. If the maps are estimated afterwards, the image is in units of the noise.

    Parameters
    ----------
    acquisition : its ``noise_std`` is ignored.
    covariance : ``(coil, coil)`` or ``(batch, coil, coil)`` of :func:`noise_covariance` or :func:`border_covariance`.

    Raises
    ------
    InputError : if the covariance has another shape, is not finite or is singular.

    References
    ----------
    Pruessmann et al., "Advances in sensitivity encoding with arbitrary k-space trajectories", MRM 2001.
    """
    batch, n_coils = acquisition.kspace.shape[:2]
    if covariance.shape not in ((n_coils, n_coils), (batch, n_coils, n_coils)):
        raise InputError(
            f"a noise covariance of shape {tuple(covariance.shape)} does not fit {batch} items of {n_coils} coils; "
            f"estimate it from noise of the same coils"
        )
    if not covariance.isfinite().all():
        raise InputError("the noise covariance has values that are not finite; estimate it from other samples")
    covariance = double(covariance + 0j)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    variance = covariance.diagonal(dim1=-2, dim2=-1).real
    own = factor.diagonal(dim1=-2, dim2=-1).abs().square()
    if failed.any() or not (own > _INDEPENDENT * variance).all():
        raise InputError(
            "the noise covariance is singular: a coil is silent or a combination of others; leave it out, or give "
            "more samples of noise"
        )
    identity = torch.eye(n_coils, dtype=factor.dtype, device=factor.device)
    inverse = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
    inverse = inverse.to(acquisition.kspace.dtype).to(acquisition.kspace.device)

    def apply(x: Tensor) -> Tensor:
        return torch.einsum("...vc,...chw->...vhw", inverse, x)

    return replace(
        acquisition,
        kspace=apply(acquisition.kspace),
        maps=None if acquisition.maps is None else apply(acquisition.maps),
        noise_std=acquisition.kspace.real.new_ones(batch),
    )
