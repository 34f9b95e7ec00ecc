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

    The coefficients have the shape of the images, in Mallat's order: the coarsest approximation is in the first corner,
    with the details of each level next to it. Borders are periodic. If a size is odd, its last pixel is copied to the
    approximation, which keeps the transform orthogonal.

    Each level multiplies every dimension by an orthogonal matrix. For the sizes of MR images this is as fast as
    convolutions on a CPU and faster on a GPU, and borders need no special case.

    Parameters
    ----------
    shape : of the image in pixels, without the batch.
    name : an orthogonal wavelet of PyWavelets (``haar``, ``db4``, ``sym8``, ``coif2``, ...).
    levels : number of levels; None: as many as keep the approximation at least as long as the filter.

    Raises
    ------
    InputError : if the wavelet is unknown or not orthogonal, or the image is too small for the levels.

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
    """Return the number of levels that the shortest side allows; at least one if it has two pixels."""
    shortest = min(shape)
    return max(pywt.dwt_max_level(shortest, len(_low_pass(name))), int(shortest > 1))


def _planes(x: Tensor) -> Tensor:
    """Return complex ``(batch, *shape)`` as a new real ``(batch, 2, *shape)``, whose products cost half as much."""
    return torch.stack([x.real, x.imag], dim=1)


def _corner(size: tuple[int, ...]) -> tuple[slice, ...]:
    return (slice(None), slice(None), *(slice(n) for n in size))


def _rotate(x: Tensor, name: str, inverse: bool) -> Tensor:
    """Transform one level: multiply all but the first two dimensions by their matrices, or the transposes."""
    for dim in range(2, x.ndim):
        matrix = _matrix(x.shape[dim], name, x.dtype, x.device)
        matrix = matrix.T if inverse else matrix
        x = x @ matrix.T if dim == x.ndim - 1 else (matrix @ x.movedim(dim, -2)).movedim(-2, dim)
    return x


@lru_cache(maxsize=64)
def _matrix(n: int, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthogonal ``(n, n)`` matrix of one level: first the rows of the approximation, then those of the details."""
    low = _low_pass(name)
    high = low[::-1] * (-1) ** np.arange(len(low))
    pairs = n // 2
    matrix = np.zeros((n, n))
    first = 1 - len(low) // 2  # centre the filter on its pair: coefficients keep their pixels' position
    for k in range(pairs):
        for tap, (a, d) in enumerate(zip(low, high, strict=True)):
            column = (2 * k + first + tap) % (2 * pairs)
            matrix[k, column] += a
            matrix[n - pairs + k, column] += d
    if n % 2:
        matrix[pairs, -1] = 1
    # autograd could not save a cached tensor that was created in inference mode
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
    if not description.orthogonal or name == "dmey":  # PyWavelets calls dmey orthogonal; it is so only to 2e-3
        raise InputError(f"the wavelet {name!r} is not orthogonal; choose one such as haar, db4 or sym8")
    return np.array(description.rec_lo)  # the rows of the matrix hold the filter itself; dec_lo is its reverse
