"""A Gaussian prior, an undersampled operator of two coils, and their posterior in closed form."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from spinwarp.operators.linear import LinearOperator
from spinwarp.samplers import ChainNoise, Problem, chain_generators

N = 8


@dataclass(frozen=True)
class Gaussian:
    """Prior CN(mean, C) of N pixels, C = basis diag(variances) basis^H, and data y = A x + CN(0, noise_std^2)."""

    noise_std: float
    basis: Tensor
    variances: Tensor
    mean: Tensor
    matrix: Tensor
    data: Tensor

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        gain = self.variances / (self.variances + sigma[:, None].square())
        return self.mean + ((x - self.mean) @ self.basis.conj() * gain) @ self.basis.T

    @cached_property
    def problem(self) -> Problem:
        gram = self.matrix.mH @ self.matrix
        operator = LinearOperator(
            forward=lambda x: x @ self.matrix.T,
            adjoint=lambda y: y @ self.matrix.conj(),
            gram=lambda x: x @ gram.T,
        )
        return Problem(self.denoise, operator, self.data, self.noise_std, (N,))

    @cached_property
    def posterior(self) -> tuple[Tensor, Tensor]:
        """Mean ``(N,)`` and covariance ``(N, N)``, complex128."""
        a, mean = self.matrix.to(torch.complex128), self.mean.to(torch.complex128)
        prior = torch.linalg.inv(((self.basis * self.variances) @ self.basis.mH).to(torch.complex128))
        covariance = torch.linalg.inv(a.mH @ a / self.noise_std**2 + prior)
        return covariance @ (a.mH @ self.data[0].to(torch.complex128) / self.noise_std**2 + prior @ mean), covariance

    @cached_property
    def axes(self) -> Tensor:
        """Orthonormal directions ``(N, N)`` in columns, from those measured best to those not measured at all."""
        _, _, vh = torch.linalg.svd(self.matrix.to(torch.complex128))
        return vh.mH

    def compare(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Ratio of the std to the exact one, and the bias of the mean in exact std, along each axis."""
        mean, covariance = self.posterior
        exact = (self.axes.mH @ covariance @ self.axes).diagonal().real.sqrt()
        along = (samples.to(torch.complex128) - mean) @ self.axes.conj()
        return along.var(0).sqrt() / exact, along.mean(0).abs() / exact


def gaussian(noise_std: float, seed: int = 0) -> Gaussian:
    """Draw a problem: half of the samples of an orthonormal transform, seen by two coils."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.complex64, generator=g)

    basis = torch.linalg.qr(normal(N, N))[0]
    variances = torch.logspace(0, -1.5, N)
    coils = normal(2, N)
    coils = coils / coils.abs().square().sum(0).sqrt()
    fourier = torch.fft.fft(torch.eye(N), norm="ortho")[[0, 1, 4]].to(torch.complex64)
    matrix = torch.cat([fourier * coil for coil in coils])  # (6, N): two directions of eight are not measured
    mean = 0.5 * normal(N)
    truth = mean + basis @ (variances.sqrt() * normal(N))
    data = (matrix @ truth + noise_std * normal(len(matrix)))[None]
    return Gaussian(noise_std, basis, variances, mean, matrix, data)


class Many(ChainNoise):
    """Many chains from one generator: as good as independent ones, and drawn at once."""

    def __init__(self, n_chains: int, seed: int = 0) -> None:
        super().__init__(chain_generators([seed]))
        self.n_chains = n_chains

    def __len__(self) -> int:
        return self.n_chains

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(self.n_chains, *shape, dtype=torch.complex64, generator=self.generators[0])


def elementwise(shape: tuple[int, ...], noise_std: float = 0.05) -> Problem:
    """Every second pixel is measured, the prior is CN(0, 1): no sum over pixels, whose order a batch could change."""
    mask = (torch.arange(math.prod(shape)) % 2 == 0).reshape(shape).float()
    operator = LinearOperator(forward=lambda x: mask * x, adjoint=lambda y: mask * y, gram=lambda x: mask * x)
    truth = torch.randn(1, *shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    return Problem(standard_normal, operator, mask * truth, noise_std, shape)


def standard_normal(x: Tensor, sigma: Tensor) -> Tensor:
    return x / (1 + sigma.square()).reshape(-1, *[1] * (x.ndim - 1))
