"""ESPIRiT: coil sensitivities as eigenvectors of an operator estimated from the calibration block."""

import logging
from functools import cache

import torch
from torch import Tensor

from spinwarp.coils.calibration import calibration_blocks, principal_coils
from spinwarp.errors import InputError

log = logging.getLogger(__name__)
_SMALLEST_KERNEL = 3  # that a user may choose; small blocks use smaller ones
_DEGREE = 10  # of the polynomial that suppresses the other eigenvectors
_CHUNK = 2**21  # matrix elements processed at a time, few enough to stay in a cache
_TINY = 1e-30


@torch.no_grad()
def espirit_maps(
    kspace: Tensor,
    mask: Tensor,
    n_acs: Tensor | None = None,
    *,
    n_maps: int = 1,
    kernel: int = 6,
    calibration: int = 24,
    threshold: float = 0.02,
    crop: float = 0.8,
) -> tuple[Tensor, Tensor]:
    """Estimate coil sensitivities from the fully sampled centre of k-space.

    The patches of ``kernel x kernel`` samples of all coils span a space of few dimensions. Projecting every patch of
    k-space onto this space and averaging overlapping patches does not change the k-space of an object. In the image,
    this operation is a Hermitian matrix between the coils at each pixel. The sensitivities are its eigenvector with
    eigenvalue one. A pixel onto which two places of the object are folded has two such eigenvectors.

    A block narrower than three kernels uses a smaller kernel in that direction: a third of its width, but at least
    three samples for a width of eight or more, two for three to seven, and one below. A kernel of one sample cannot
    show how the maps vary in this direction. Where noise brings several eigenvalues near one, the eigenvector nearest
    to the coils' low-resolution images is taken.

    Parameters
    ----------
    kspace : ``(batch, coil, h, w)`` complex, measured, zero elsewhere.
    mask : ``(batch, 1, 1 or h, w)`` bool, True where k-space was measured.
    n_acs : ``(batch,)`` largest number of central columns to use; None: all.
    n_maps : number of sets of maps; two describe an object larger than the field of view.
    kernel : side of a patch in samples.
    calibration : largest side of the calibration block in samples.
    threshold : singular values of the calibration data below this fraction of the largest count as noise; 0.05 suits
        data whose noise is a tenth of the image.
    crop : maps are zero where the eigenvalue is not above this; 0 keeps the maps everywhere.

    Returns
    -------
    maps : ``(batch, coil, h, w)``, or ``(batch, n_maps, coil, h, w)`` for several sets, the largest eigenvalue first.
        The sum of squares over the coils is one, or zero where cropped. The phase is relative to the first principal
        component of the coils' calibration data. A single coil has a map of ones.
    eigenvalues : ``(batch, h, w)`` or ``(batch, n_maps, h, w)``, about one inside the object and less outside.

    Raises
    ------
    InputError : if the centre of k-space was not sampled or is not finite, if there are more sets than coils, or if the
        kernel is too small or the threshold is not in [0, 1).

    References
    ----------
    Uecker et al., "ESPIRiT: an eigenvalue approach to autocalibrating parallel MRI", MRM 2014.
    """
    n_coils, *shape = kspace.shape[1:]
    if not 1 <= n_maps <= n_coils:
        raise InputError(f"{n_coils} coils cannot give n_maps={n_maps} sets of maps; use 1 to {n_coils}")
    if kernel < _SMALLEST_KERNEL or not 0 <= threshold < 1:
        raise InputError(
            f"kernel={kernel} must be at least {_SMALLEST_KERNEL}, and threshold={threshold} at least 0 and below 1"
        )
    if n_coils == 1:  # the phase belongs to the image, since there is no other coil to compare with
        return torch.ones_like(kspace), torch.ones_like(kspace[:, 0], dtype=kspace.real.dtype)
    items = []
    for block in calibration_blocks(kspace, mask, n_acs, calibration):
        _check(block)
        block = block / block.abs().max().clamp_min(_TINY)  # squares of raw data may overflow float32
        items.append(_eigenvectors(block, _signal_kernels(block, kernel, threshold), shape, n_maps))
    maps, eigenvalues = (torch.stack(results) for results in zip(*items, strict=True))
    maps = maps * (eigenvalues > crop)[:, :, None]
    return (maps, eigenvalues) if n_maps > 1 else (maps[:, 0], eigenvalues[:, 0])


def _check(block: Tensor) -> None:
    if not block.numel():
        raise InputError(
            "ESPIRiT makes coil maps from the centre of k-space, and this mask leaves it out; use data or a mask that "
            "samples it, recon.maps=given if the data has its own maps, or a method without maps: recon=zero_filled"
        )
    if not block.isfinite().all():
        raise InputError("the centre of k-space has values that are not finite; repair or leave out this slice")


def _signal_kernels(block: Tensor, kernel: int, threshold: float) -> Tensor:
    """Orthonormal basis ``(coil, kh, kw, n)`` of the patches of a block ``(coil, rows, columns)``."""
    n_coils = len(block)
    kh, kw = (min(kernel, _largest_kernel(n)) for n in block.shape[1:])
    if min(kh, kw) < _SMALLEST_KERNEL:
        _warn_small_block(*block.shape[1:], kh, kw)
    patches = block.unfold(1, kh, 1).unfold(2, kw, 1).permute(0, 3, 4, 1, 2).reshape(n_coils * kh * kw, -1)
    # singular vectors from the smaller of the two Gram matrices
    few = patches.shape[1] < patches.shape[0]
    power, vectors = torch.linalg.eigh(patches.mH @ patches if few else patches @ patches.mH)
    vectors = vectors[:, power > threshold**2 * power[-1]]
    if few:
        vectors = torch.nn.functional.normalize(patches @ vectors, dim=0)
    return vectors.reshape(n_coils, kh, kw, -1)


def _largest_kernel(n: int) -> int:
    """Largest kernel for ``n`` samples; for four to six, 2 gave as little as a quarter of the error of 3."""
    return max(n // 3, 3 if n > 7 else 2 if n > 2 else 1)


@cache
def _warn_small_block(rows: int, columns: int, kh: int, kw: int) -> None:
    """Warn once about a small block."""
    log.warning(
        "the fully sampled centre of k-space has only %d x %d samples: ESPIRiT uses a kernel of %d x %d, and its coil "
        "maps are less accurate",
        rows, columns, kh, kw,
    )  # fmt: skip


def _eigenvectors(block: Tensor, kernels: Tensor, shape: list[int], n_maps: int) -> tuple[Tensor, Tensor]:
    """Maps ``(n_maps, coil, h, w)`` and eigenvalues ``(n_maps, h, w)`` of one item."""
    h, w = shape
    n_coils, kh, kw, _ = kernels.shape
    device = block.device

    # The matrices are trigonometric polynomials of degree kernel - 1 in each direction; 2 kernel - 1 pixels determine
    # them. The rest of the image is interpolated, a few rows at a time to save memory.
    samples = (2 * kh - 1, 2 * kw - 1)
    along_h, along_w = _fourier(samples[0], kh, device), _fourier(samples[1], kw, device)
    images = torch.einsum("yk,cklm,xl->yxcm", along_h, kernels, along_w)
    coarse = torch.view_as_real(images @ images.mH / (kh * kw))
    rows = (_interpolation(h, samples[0], device) @ coarse.flatten(1)).view(h, samples[1], -1)
    to_columns = _interpolation(w, samples[1], device)

    window = torch.outer(*(torch.hann_window(n + 2, periodic=False, device=device)[1:-1] for n in block.shape[1:]))
    start_rows = torch.einsum("hk,ckl->hlc", _fourier(h, block.shape[1], device), block * window)
    start_to_columns = _fourier(w, block.shape[2], device)

    virtual = principal_coils(block, 1).T
    maps = block.new_empty(n_maps, n_coils, h, w)
    eigenvalues = torch.empty(n_maps, h, w, device=device)
    n_rows = max(_CHUNK // (w * n_coils**2), 1)
    for some in (slice(first, first + n_rows) for first in range(0, h, n_rows)):
        matrices = torch.view_as_complex((to_columns @ rows[some]).view(-1, n_coils, n_coils, 2))
        start = (start_to_columns @ start_rows[some]).view(-1, 1, n_coils)
        for i in range(n_maps):
            v, value = _leading(matrices, start)
            phase = (v @ virtual).angle()
            maps[i, :, some] = (v * torch.polar(torch.ones_like(phase), -phase)).view(-1, w, n_coils).permute(2, 0, 1)
            eigenvalues[i, some] = value.view(-1, w)
            if i + 1 < n_maps:  # continue orthogonally to v: with P = 1 - v v^H, from P start with P matrices P
                u = _apply(matrices, v) - value / 2 * v
                matrices = matrices - u.mT * v.conj() - v.mT * u.conj()
                start = start - (start @ v.mH) * v
    return maps, eigenvalues


def _leading(matrices: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvector and largest eigenvalue of positive matrices ``(pixel, n, n)``, from ``x (pixel, 1, n)``.

    Power iteration with Chebyshev polynomials (Saad, "Numerical Methods for Large Eigenvalue Problems", chapter 7).
    Their interval ends at 0.8 times a lower bound of the pixel's largest eigenvalue. They are at most one inside it and
    above 7000 at the largest eigenvalue.
    """
    previous = _apply(matrices, x)
    x = _apply(matrices, previous)
    scale = 2.5 * _dot(previous, previous) / _dot(previous, x).clamp_min(_TINY)
    x = scale * x - previous
    for _ in range(_DEGREE - 1):
        previous, x = x, _apply(matrices, x).mul_(2 * scale).sub_(x, alpha=2).sub_(previous)
    x = x * _dot(x, x).clamp_min(_TINY).rsqrt()
    return x, _dot(x, _apply(matrices, x))


def _apply(matrices: Tensor, x: Tensor) -> Tensor:
    """Products of ``(pixel, n, n)`` and ``(pixel, 1, n)``; with column vectors they take twice as long for n > 19."""
    return torch.bmm(x, matrices.mT)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Real part ``(pixel, 1, 1)`` of the inner products of ``(pixel, 1, n)``."""
    return torch.linalg.vecdot(torch.view_as_real(x).flatten(2), torch.view_as_real(y).flatten(2))[..., None]


def _fourier(n_pixels: int, n_samples: int, device: torch.device) -> Tensor:
    """Matrix ``(n_pixels, n_samples)`` from k-space samples, the first at DC, to pixels centred at N // 2."""
    pixels = torch.arange(n_pixels, device=device) - n_pixels // 2
    angles = 2 * torch.pi / n_pixels * torch.outer(pixels, torch.arange(n_samples, device=device))
    return torch.polar(torch.ones_like(angles), angles)


def _interpolation(n_pixels: int, n_samples: int, device: torch.device) -> Tensor:
    """Matrix ``(n_pixels, n_samples)`` that interpolates a trigonometric polynomial from an odd number of samples."""
    pixels = (torch.arange(n_pixels, device=device) - n_pixels // 2) / n_pixels
    samples = (torch.arange(n_samples, device=device) - n_samples // 2) / n_samples
    angles = 2 * torch.pi * (pixels[:, None] - samples)[..., None] * torch.arange(1, n_samples // 2 + 1, device=device)
    return (1 + 2 * angles.cos().sum(-1)) / n_samples
