"""The centred, orthonormal Fourier transform; only this module knows where the zero frequency is.

DC and the image centre are at index N // 2. For even sizes, the circular shifts before and after the transform become
signs (+1, -1, +1, ...) in the other domain, which cost less than moving memory. Odd sizes are shifted.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def fftc(x: Tensor, dims: Sequence[int] = (-2, -1)) -> Tensor:
    """Centred orthonormal FFT, image to k-space, over ``dims`` (negative).

    Parameters
    ----------
    x : complex64 or complex128, any shape.
    """
    return _transform(x, tuple(dims), inverse=False)


def ifftc(x: Tensor, dims: Sequence[int] = (-2, -1)) -> Tensor:
    """Centred orthonormal inverse FFT, k-space to image, over ``dims`` (negative)."""
    return _transform(x, tuple(dims), inverse=True)


def circular_filter(x: Tensor, response: Tensor, dims: Sequence[int]) -> Tensor:
    """Apply ``ifftc(response * fftc(x))`` over ``dims``.

    A filter commutes with circular shifts, so only the small ``response`` is shifted, not ``x``.

    Parameters
    ----------
    x : complex image, any shape.
    response : real or bool, broadcastable to ``x``; DC at N // 2.
    """
    shifted = torch.fft.ifftshift(response, dim=tuple(dims))
    # in place: allocating memory costs more than the product
    return torch.fft.ifftn(torch.fft.fftn(x, dim=tuple(dims)).mul_(shifted), dim=tuple(dims))


def fft_order(response: Tensor) -> Tensor:
    """Shift values on centred k-space ``(..., h, w)``, such as a mask, to the order of ``torch.fft``."""
    return torch.fft.ifftshift(response, dim=(-2, -1))


def _transform(x: Tensor, dims: tuple[int, ...], inverse: bool) -> Tensor:
    transform = torch.fft.ifftn if inverse else torch.fft.fftn
    sizes = tuple(x.shape[d] for d in dims)
    if any(n % 2 for n in sizes):
        shifted = torch.fft.ifftshift(x, dim=dims)
        return torch.fft.fftshift(transform(shifted, dim=dims, norm="ortho"), dim=dims)
    signs = _signs(sizes, dims, x.real.dtype, x.device)
    return transform(x * signs, dim=dims, norm="ortho").mul_(_with_offset(signs, sizes))


def _with_offset(signs: Tensor, sizes: tuple[int, ...]) -> Tensor:
    # shifts by N/2 in both domains leave the constant exp(i pi N/2)
    return -signs if sum(n // 2 for n in sizes) % 2 else signs


@lru_cache(maxsize=64)
def _signs(sizes: tuple[int, ...], dims: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # autograd cannot save a cached tensor that was created in inference mode, as in a validation
    with torch.inference_mode(False):
        ndim = -min(dims)
        signs = torch.ones([1] * ndim, dtype=dtype, device=device)
        for n, dim in zip(sizes, dims, strict=True):
            shape = [1] * ndim
            shape[dim] = n
            alternating = torch.ones(n, dtype=dtype, device=device)
            alternating[1::2] = -1
            signs = signs * alternating.view(shape)
        return signs
