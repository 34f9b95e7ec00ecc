"""Orthogonal wavelets of images of any size."""

from functools import lru_cache

import numpy as np
import pywt
import torch
from torch import Tensor

from spinwarp.errors import InputError
from spinwarp.operators.linear import LinearOperator


def wavelet(shape: tuple[int, ...], name: str = "db4", levels: int | None = None) -> LinearOperator:
    """Build the orthogonal wavelet transform of images ``(batch, *shape)``; its adjoint is its inverse.

    Coefficients have the images' own shape, as Mallat arranged them: the coarsest approximation lies in the first
    corner, the details of each level beside it. Borders are periodic. An odd size leaves its last pixel out of the
    pairing and hands it to the approximation as it is, so that the transform stays orthogonal.

    Each level is a product with one orthogonal matrix per dimension: for the sizes of MR images that is as fast as
    convolutions on a CPU, faster on a GPU, and needs no case for borders.

    Parameters
    ----------
    shape : size of the image in pixels, without the batch.
    name : an orthogonal wavelet of PyWavelets (``haar``, ``db4``, ``sym8``, ``coif2``, ...).
    levels : number of levels; None: as many as leave the approximation at least as long as the filter.

    Raises
    ------
    InputError : on an unknown wavelet, one that is not orthogonal, or more levels than the image has pixels for.

    References
    ----------
    Mallat, "A theory for multiresolution signal decomposition", IEEE PAMI 1989. Daubechies, CPAM 1988.
    """
    depth = _depth(shape, name) if levels is None else levels
    sizes = [shape]
    while len(sizes) < depth:
        sizes.append(tuple((n + 1) // 2 for n in sizes[-1]))
    if depth < 0 or (depth > 0 and min(sizes[-1]) < 2):
        raise InputError(f"{depth} wavelet levels do not fit an image of {shape}: each level halves it")
    if depth == 0:
        sizes = []

    def forward(image: Tensor) -> Tensor:
        planes = _planes(image)
        for size in sizes:
            corner = planes[_corner(size)]
            corner.copy_(_rotate(corner, name, inverse=False))
        return torch.complex(*planes.unbind(1))

    def adjoint(coefficients: Tensor) -> Tensor:
        planes = _planes(coefficients)
        for size in reversed(sizes):
            corner = planes[_corner(size)]
            corner.copy_(_rotate(corner, name, inverse=True))
        return torch.complex(*planes.unbind(1))

    return LinearOperator(forward=forward, adjoint=adjoint, gram=torch.clone)


def _depth(shape: tuple[int, ...], name: str) -> int:
    """As many levels as the shortest side has room for; one at least where there are two pixels."""
    shortest = min(shape)
    return max(pywt.dwt_max_level(shortest, len(_low_pass(name))), int(shortest > 1))


def _planes(x: Tensor) -> Tensor:
    """Complex ``(batch, *shape)`` to a new real ``(batch, 2, *shape)``: half the work of complex products."""
    return torch.stack([x.real, x.imag], dim=1)


def _corner(size: tuple[int, ...]) -> tuple[slice, ...]:
    return (slice(None), slice(None), *(slice(n) for n in size))


def _rotate(x: Tensor, name: str, inverse: bool) -> Tensor:
    """One level: each dimension but the first two times its orthogonal matrix or the transpose."""
    for dim in range(2, x.ndim):
        matrix = _matrix(x.shape[dim], name, x.dtype, x.device)
        matrix = matrix.T if inverse else matrix
        x = x @ matrix.T if dim == x.ndim - 1 else (matrix @ x.movedim(dim, -2)).movedim(-2, dim)
    return x


@lru_cache(maxsize=64)
def _matrix(n: int, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthogonal ``(n, n)`` matrix of one level: the approximation's rows above those of the details."""
    low = _low_pass(name)
    high = low[::-1] * (-1) ** np.arange(len(low))
    pairs = n // 2
    matrix = np.zeros((n, n))
    first = 1 - len(low) // 2  # the filter's middle over the pair, so that coefficients lie where their pixels do
    for k in range(pairs):
        for tap, (a, d) in enumerate(zip(low, high, strict=True)):
            column = (2 * k + first + tap) % (2 * pairs)
            matrix[k, column] += a
            matrix[n - pairs + k, column] += d
    if n % 2:
        matrix[pairs, -1] = 1
    # a tensor first made under inference mode could not be saved for backward later
    with torch.inference_mode(False):
        return torch.from_numpy(matrix).to(dtype).to(device)


@lru_cache(maxsize=16)
def _low_pass(name: str) -> np.ndarray:
    try:
        description = pywt.Wavelet(name)
    except ValueError as error:
        raise InputError(
            f"PyWavelets has no wavelet {name!r}; choose haar, db2 to db38, sym2 to sym20 or coif1 to coif17"
        ) from error
    if not description.orthogonal or name == "dmey":  # which PyWavelets calls orthogonal, and is to 2e-3
        raise InputError(f"the wavelet {name!r} is not orthogonal; choose one such as haar, db4 or sym8")
    return np.array(description.rec_lo)  # a row of the matrix is the wavelet itself; dec_lo is it backwards
