"""Latent optimisation: of all images that a generator can make, the one that explains the data best."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from spinwarp.acquisition import Acquisition, Reconstruction
from spinwarp.errors import InputError
from spinwarp.models.generator import ImageGenerator
from spinwarp.models.loading import load_network
from spinwarp.operators import sense
from spinwarp.operators.sense import squared_norm_bound
from spinwarp.preparation import check_preparation, generator_units, with_maps
from spinwarp.recon.base import Reconstructor
from spinwarp.recon.l1_wavelet import l1_wavelet
from spinwarp.recon.latent_fit import LatentFit, fit_latent
from spinwarp.solvers import conjugate_gradient

log = logging.getLogger(__name__)

_LAST_STEPS = 50  # iterations of the steps that leave the range of the generator


@dataclass(eq=False)
class LatentOptimisation(Reconstructor):
    """``x = G(z)`` with the z that explains the data best; G comes from ``train.py model=vae``, ``gan`` or ``flow``.

    The first start is z = 0, the most probable latent. The others are drawn from the prior. A flow has as many latents
    as the image has pixels, so the data leave many of them open. It is only tried from z = 0: starting there and
    stopping in time is what keeps its image probable.

    Parameters
    ----------
    path : checkpoint of the generator.
    trusted : packages beside spinwarp from which the file may build its network.
    restarts : number of starts. With a VAE of phantoms three gave the same result (residuals within 1 %).
    prior_weight : of |z|^2; see :func:`fit_latent`.
    iterations : of each start, at most.
    patience : stop after this many iterations in which the prediction of held-out lines did not improve; null: hold out
        nothing and never stop early. See :func:`fit_latent`.
    maps : ``low_resolution``, ``espirit`` or ``given``; see :func:`spinwarp.preparation.with_maps`.
    deviation : weight of the l1 norm of the wavelets of an image that is added to G(z) to explain the data better;
        null: nothing is added. Dhar et al. fit both together; here it is found after z.
    data_consistency : weight mu of a last step ``argmin_x |A x - y|^2 + mu |x - G(z)|^2``; null: no such step.

    Raises
    ------
    InputError : if the file holds no generator, or a number is out of range; in a call, if the generator cannot make
        images of the data's size.

    References
    ----------
    Bora et al., "Compressed sensing using generative models" (CSGM), ICML 2017.
    Asim et al., "Invertible generative models for inverse problems: mitigating representation error and dataset bias"
        (GlowIP), ICML 2020.
    Dhar, Grover and Ermon, "Modeling sparse deviations for compressed sensing using generative models", ICML 2018.
    """

    path: str
    trusted: Sequence[str] = ()
    restarts: int = 1
    prior_weight: float = 0.0
    iterations: int = 500
    patience: int | None = 10
    maps: str = "low_resolution"
    deviation: float | None = None
    data_consistency: float | None = None

    def __post_init__(self) -> None:
        check_preparation(self.maps, None)
        for name in ("restarts", "iterations", "patience"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        consistency = 1.0 if self.data_consistency is None else self.data_consistency
        if self.prior_weight < 0 or (self.deviation or 0) < 0 or consistency <= 0:
            raise InputError(
                f"prior_weight={self.prior_weight} and deviation={self.deviation} are at least zero, data_consistency="
                f"{self.data_consistency} is above zero; null switches the last two off"
            )
        network, self.record = load_network(self.path, self.trusted)
        if not isinstance(network, ImageGenerator):
            raise InputError(
                f"{self.path} holds a {type(network).__name__}, but recon=latent needs a generator; train one with "
                f"model=vae, gan or flow"
            )
        # this layout of the weights takes a third less time on a CPU
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if network.invertible:
            self.restarts = 1

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        """Reconstruct a batch; the log says which start won and with what residual."""
        problem, unit = generator_units(with_maps(acquisition, self.maps))
        fit = self.fit(problem, generator)
        for i, winner in enumerate(fit.winner.tolist()):
            log.info(
                "latent: start %d of %d won, residual %.3f after %d iterations (of all starts: %s)",
                winner + 1,
                len(fit.residuals),
                fit.residuals[winner, i],
                fit.stopped[winner, i],
                ", ".join(f"{residual:.3f}" for residual in fit.residuals[:, i].tolist()),
            )
        with torch.no_grad():
            return Reconstruction(image=self.finish(problem, fit.image) * unit)

    def fit(self, problem: Acquisition, generator: Generator | None = None) -> LatentFit:
        """Fit z to data in the units of the generator; all items start from the same draws."""
        kspace = problem.kspace
        shape = self.network.latent_shape((kspace.shape[-2], kspace.shape[-1]))
        starts = torch.zeros(self.restarts, *shape, device=kspace.device)
        if self.restarts > 1:
            starts[1:].normal_(generator=generator)
        return fit_latent(
            self.network,
            problem,
            starts,
            prior_weight=self.prior_weight,
            iterations=self.iterations,
            patience=self.patience,
        )

    def finish(self, problem: Acquisition, image: Tensor) -> Tensor:
        """Move the image out of the range of the generator, as the options ask."""
        operator = sense(problem)
        if self.deviation is not None:
            rest = problem.kspace - operator(image)
            lipschitz = squared_norm_bound(problem)
            image = image + l1_wavelet(operator, rest, self.deviation, lipschitz=lipschitz, iterations=_LAST_STEPS)
        if self.data_consistency is not None:
            weight = self.data_consistency
            rhs = operator.adjoint(problem.kspace) + weight * image
            image = conjugate_gradient(
                lambda x: operator.normal(x) + weight * x, rhs, image, iterations=_LAST_STEPS, tolerance=1e-4
            )
        return image
