"""The inverse problem of one slice, which many chains share."""

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

    Every noise level is the standard deviation of complex noise: n ~ CN(0, sigma^2), so E|n|^2 = sigma^2 and the real
    and the imaginary part have sigma^2 / 2 each. So is ``noise_std``.

    Parameters
    ----------
    denoiser : the prior.
    operator : A, from ``(chain, *shape)`` to data of any shape behind the chain; samplers suppose |A| <= 1, which
        normalised coil maps give.
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
                f"posterior sampling needs the noise level of the data, which is {self.noise_std}: give a positive "
                "noise_std, or let it be estimated"
            )
        if self.data.ndim < 2 or self.data.shape[0] != 1 or not self.data.is_complex():
            raise InputError(
                f"the chains share the data of one slice, complex (1, ...), not {self.data.dtype} "
                f"{tuple(self.data.shape)}: make one problem per slice"
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
        """Derivative of log p_sigma(x) by conj(x)."""
        return (self.denoise(x, sigma) - x) / sigma**2


def checked(denoiser: Denoiser, x: Tensor, sigma: float) -> Tensor:
    """Denoise, and say so where the result is not finite.

    Raises
    ------
    InputError : if the denoiser gives NaN or infinity.
    """
    image = denoiser(x, torch.full((len(x),), sigma, dtype=x.real.dtype, device=x.device))
    if not torch.isfinite(image.detach().sum()):  # one number: a NaN or an infinity anywhere reaches the sum
        raise InputError(
            f"the denoiser gave NaN or infinity at sigma {sigma:.4g}: train the prior further, use float32, or choose "
            "a schedule within the noise levels it was trained for"
        )
    return image
