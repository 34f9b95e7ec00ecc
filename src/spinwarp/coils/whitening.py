"""Estimate noise that is correlated between the coils, and make it white."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.channels import double
from spinwarp.errors import InputError

_SAMPLES_PER_COIL = 10
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
    """Estimate the noise covariance from the corners of k-space, if there is no noise scan.

    Uses the sampled positions whose frequencies are high in both directions, since the tails of the signal lie along
    the axes; zero padding is left out. These positions must hold noise and nothing else. The result is wrong if the
    data were filtered, or if the matrix is so small that the object's signal reaches the corners.

    Parameters
    ----------
    kspace : ``(batch, coil, h, w)`` complex.
    mask : ``(batch, 1, 1 or h, w)`` bool, True where k-space was measured.
    fraction : of the sampled positions to use.

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
    """Yield the samples ``(coil, n)`` of each item that :func:`border_covariance` uses as noise.

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
        yield k[:, s & (frequency >= lowest)]


def noise_level(kspace: Tensor, mask: Tensor) -> Tensor:
    """Standard deviation ``(batch,)`` of the complex noise of one sample, from the corners of k-space.

    This is the root of the mean power over coils. It is wrong in the same cases as :func:`border_covariance`. An item
    without samples in the corners has a level of zero.
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
