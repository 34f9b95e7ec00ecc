"""The inverse problem of one slice, for many chains."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from spinwarp.errors import InputError
from spinwarp.operators.linear import LinearOperator


class Denoiser(Protocol):
    """D(x, sigma) = E[x0 | x0 + sigma n = x], n ~ CN(0, 1): all that a sampler knows of the prior.

    The score, the derivative of log p by conj(x), is (D(x, sigma) - x) / sigma^2.
    """

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise complex images ``(chain, *shape)`` at the noise levels ``(chain,)``."""
        ...


@dataclass(frozen=True)
class Problem:
    """y = A x + noise, and a prior for x. Images are in the units of the prior, where their rms is about 1.

    Every noise level, ``noise_std`` too, is the standard deviation of complex noise n ~ CN(0, sigma^2): E|n|^2 =
    sigma^2, and the real and the imaginary part have sigma^2 / 2 each.

    Parameters
    ----------
    denoiser : the prior.
    operator : A, from ``(chain, *shape)`` to data ``(chain, ...)`` of any shape. Samplers assume |A| <= 1, which holds
        for normalised coil maps.
    data : y, complex, with a leading dimension of 1.
    noise_std : of the complex noise in the data; positive.
    shape : of one image.

    Raises
    ------
    InputError : if ``noise_std`` is not positive, or the data are not one complex item.
    """

    denoiser: Denoiser
    operator: LinearOperator
    data: Tensor
    noise_std: float
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not (self.noise_std > 0 and math.isfinite(self.noise_std)):
            raise InputError(
                f"posterior sampling needs the noise level of the data, but it is {self.noise_std}; "
                "give a positive noise_std"
            )
        if self.data.ndim < 2 or self.data.shape[0] != 1 or not self.data.is_complex():
            raise InputError(
                f"the data are of one slice, complex (1, ...), not {self.data.dtype} {tuple(self.data.shape)}; make "
                "one problem per slice"
            )

    @cached_property
    def backprojection(self) -> Tensor:
        """A^H y, ``(1, *shape)``; computed once for all steps and chains."""
        return self.operator.adjoint(self.data)

    def residual(self, x: Tensor) -> Tensor:
        """Return A^H (y - A x), ``(chain, *shape)``; over noise_std^2 it is the gradient of log p(y|x) by conj(x)."""
        return self.backprojection - self.operator.normal(x)

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """Denoise every chain at one noise level.

        Raises
        ------
        InputError : if the denoiser gives NaN or infinity.
        """
        return checked(self.denoiser, x, sigma)

    def score(self, x: Tensor, sigma: float) -> Tensor:
        """Return the derivative of log p_sigma(x) by conj(x)."""
        return (self.denoise(x, sigma) - x) / sigma**2


def checked(denoiser: Denoiser, x: Tensor, sigma: float) -> Tensor:
    """Denoise, and check that the result is finite.

    Raises
    ------
    InputError : if the denoiser gives NaN or infinity.
    """
    image = denoiser(x, torch.full((len(x),), sigma, dtype=x.real.dtype, device=x.device))
    if not torch.isfinite(image.detach().sum()):  # a NaN or an infinity anywhere makes the sum not finite
        raise InputError(
            f"the denoiser gave NaN or infinity at sigma {sigma:.4g}: train the prior further, use float32, or choose "
            "a schedule within the noise levels it was trained for"
        )
    return image
