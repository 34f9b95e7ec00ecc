"""Better coil maps from an image: those that explain all measured samples, not only the central ones."""

from dataclasses import replace

import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.coils import root_sum_of_squares
from spinwarp.fourier import circular_filter, fftc, ifftc
from spinwarp.operators.sense import coil_maps, expand
from spinwarp.solvers import conjugate_gradient

_TINY = torch.finfo(torch.float32).tiny


def with_refined_maps(
    acquisition: Acquisition, image: Tensor, *, width: int = 11, error: float = 0.1, iterations: int = 10
) -> Acquisition:
    """Correct coil maps by an image: the measured samples are explained as well as smooth corrections can.

    Few central lines give coil maps of low resolution and with errors. An image that is nearly right says what the
    other measured lines must be, and those that differ tell about the maps. The correction of each coil is

        d = argmin_d |M F (x (s + d)) - y|^2 / r^2 + C |W d|^2 / error^2

    over the functions of ``width x width`` harmonics, where r^2 is the mean square of the residual for d = 0. ``W``
    multiplies the amplitude of a harmonic of n periods by 1 + n^2, which favours smooth corrections, and all of them by
    a constant with which the expected squares of a coil's amplitudes add up to error^2 / C. The problem is linear in
    ``d``, and each coil has its own. Maps stay zero where they were, keep a sum of squares of one elsewhere,
    and their phase relative to the old ones is in the image, so that images of old and new maps can be compared.

    A single coil is left alone: its map cannot be told from the image.

    Parameters
    ----------
    acquisition : with coil maps.
    image : ``(batch, h, w)`` complex, reconstructed with these maps, in the units of the data.
    width : harmonics in each direction, odd.
    error : root mean square of the errors of the maps that are expected, relative to their root sum of squares.
    iterations : of conjugate gradients.

    References
    ----------
    Ying and Sheng, "Joint image reconstruction and sensitivity estimation in SENSE (JSENSE)", MRM 2007: there
    polynomials, alternating. Uecker et al., "Image reconstruction by regularized nonlinear inversion", MRM 2008: the
    weighting of harmonics.
    """
    kspace, mask, maps = acquisition.kspace, acquisition.mask, coil_maps(acquisition)
    n_coils, h, w = kspace.shape[1:]
    if n_coils == 1:
        return acquisition
    width = min(width, h, w)
    along_h, along_w = (_harmonics(n, width, kspace) for n in (h, w))
    periods = (torch.arange(width, device=kspace.device) - width // 2).square()
    weight = (1 + periods[:, None] + periods).square()
    residual = (kspace - fftc(expand(image, maps))) * mask
    noise = residual.abs().square().mean((1, 2, 3)) * (h * w / mask.sum((1, 2, 3)) * mask.shape[-2] / h)
    penalty = (noise * n_coils / error**2 * (1 / weight).sum()).view(-1, 1, 1, 1) * weight
    dims = (-1,) if mask.shape[-2] == 1 else (-2, -1)

    def project(seen: Tensor) -> Tensor:
        return along_h.mH @ (seen * image.conj()[:, None]) @ along_w.conj()

    def system(d: Tensor) -> Tensor:
        return project(circular_filter(expand(image, along_h @ d @ along_w.mT), mask, dims)) + penalty * d

    d = conjugate_gradient(system, project(ifftc(residual)), iterations=iterations)
    refined = (maps + along_h @ d @ along_w.mT) * (maps != 0).any(1, keepdim=True)
    refined = refined / root_sum_of_squares(refined)[:, None].clamp_min(_TINY)
    phase = torch.sgn((refined.conj() * maps).sum(1, keepdim=True))
    return replace(acquisition, maps=refined * torch.where(phase == 0, 1, phase))


def _harmonics(n_pixels: int, width: int, like: Tensor) -> Tensor:
    """Values ``(n_pixels, width)`` of the harmonics of -width // 2, ..., width // 2 periods."""
    pixels = (torch.arange(n_pixels, device=like.device) - n_pixels // 2) / n_pixels
    angles = 2 * torch.pi * torch.outer(pixels, torch.arange(width, device=like.device) - width // 2.0)
    return torch.polar(torch.ones_like(angles), angles)
