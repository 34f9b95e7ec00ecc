"""An unrolled network for any scan: the noise level is an input, data consistency is solved for."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition
from spinwarp.channels import root_sum_of_squares
from spinwarp.coils import combine, espirit_maps, noise_level
from spinwarp.errors import InputError
from spinwarp.models.complex_network import ComplexNetwork
from spinwarp.operators.sense import expand, sense
from spinwarp.solvers import conjugate_gradient


class UnrolledNet(ComplexNetwork):
    """Alternates data consistency and networks, starting from zero.

    ``z = argmin_z |A z - y|^2 + lambda |z - x|^2``, by a few conjugate gradient steps from x, then
    ``x = z + net(z, sigma)``. The network comes last, because the measured samples are noisy too. The weights are ``lambda = exp(a) + exp(b) sigma^2`` with a and b learned for each step and sigma the noise
    level relative to the image: a noisy scan trusts the network more.

    The networks commute with a change of scale, and the noise level is that of the acquisition, or measured in the
    corners of its k-space. Coil maps are those of ESPIRiT, whatever maps come with the data: after the same time of
    training, maps of the low-resolution images cost several dB.

    Parameters
    ----------
    regulariser : makes a network, complex ``(batch, 1, h, w)`` and noise level ``(batch,)`` to a residual
        ``(batch, 1, h, w)``; called ``n_networks`` times.
    n_unrolls : number of alternations.
    n_networks : number of different networks; consecutive unrolls share one. None: one for each.
    cg_iterations : conjugate gradient steps of each data consistency.

    Raises
    ------
    InputError : if there are no unrolls or conjugate gradient steps, or not between 1 and ``n_unrolls`` networks.

    References
    ----------
    Aggarwal, Mani and Jacob, "MoDL: model-based deep learning architecture for inverse problems", IEEE TMI 2019.
    Uecker et al., "ESPIRiT: an eigenvalue approach to autocalibrating parallel MRI", MRM 2014.
    """

    def __init__(
        self,
        regulariser: Callable[[], nn.Module],
        n_unrolls: int = 6,
        n_networks: int | None = None,
        cg_iterations: int = 4,
    ) -> None:
        super().__init__()
        if n_unrolls < 1 or cg_iterations < 1:
            raise InputError(
                f"an unrolled network has at least one unroll and one CG step; got {n_unrolls} and {cg_iterations}"
            )
        n_networks = n_unrolls if n_networks is None else n_networks
        if not 1 <= n_networks <= n_unrolls:
            raise InputError(f"n_networks={n_networks} must be between 1 and n_unrolls={n_unrolls}")
        self.regularisers = nn.ModuleList(regulariser() for _ in range(n_networks))
        self.n_unrolls = n_unrolls
        self.cg_iterations = cg_iterations
        # sigma^2 over the squared error of the image, which is a fifth to a tenth of its size, is the best weight
        self.log_floor = nn.Parameter(torch.full((n_unrolls,), math.log(0.01)))
        self.log_noise_weight = nn.Parameter(torch.full((n_unrolls,), math.log(20.0)))

    def forward(self, acquisition: Acquisition) -> Tensor:
        """Return the image ``(batch, h, w)`` complex.

        Raises
        ------
        InputError : if several coils come without central lines.
        """
        kspace, mask = acquisition.kspace, acquisition.mask
        noise_std = acquisition.noise_std
        if noise_std is None:
            noise_std = noise_level(kspace, mask)
        maps, _ = espirit_maps(kspace, mask)
        support = (maps != 0).any(1)  # knowing where there is air undoes much of the aliasing
        operator = sense(replace(acquisition, maps=maps))
        backprojection = operator.adjoint(kspace)
        scale = root_sum_of_squares(backprojection.flatten(1), dim=1) / backprojection[0].numel() ** 0.5
        scale = scale.clamp_min(torch.finfo(scale.dtype).tiny)
        relative = noise_std / scale
        backprojection = backprojection / scale.view(-1, 1, 1)

        def consistent(step: int, start: Tensor) -> Tensor:
            weight = self.log_floor[step].exp() + self.log_noise_weight[step].exp() * relative.square()
            weight = weight.view(-1, 1, 1)
            return conjugate_gradient(
                lambda x: operator.normal(x) + weight * x,
                backprojection + weight * start,
                start,
                iterations=self.cg_iterations,
            )

        image = torch.zeros_like(backprojection)
        for step in range(self.n_unrolls):
            image = consistent(step, image)
            regularise = self.regularisers[step * len(self.regularisers) // self.n_unrolls]
            image = image + support * regularise(image[:, None], relative)[:, 0]
        # the phase of the image is relative to the maps of the data
        return combine(expand(image * scale.view(-1, 1, 1), maps), acquisition.maps)
