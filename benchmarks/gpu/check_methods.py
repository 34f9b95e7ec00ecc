"""Part one: every method, sampler, solver and estimator of coil maps on the device against the CPU."""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from gpu.problems import acquisition, checkpoint, composed, fastmri_unet, names, without_maps
from gpu.same_numbers import agree
from gpu.setting import FailedError, Rows, Setting, Values, tensor_cores
from spinwarp import coils, samplers, solvers
from spinwarp.acquisition import Acquisition
from spinwarp.models.loading import load_network
from spinwarp.operators import LinearOperator, finite_difference, sense, wavelet
from spinwarp.solvers.lbfgs import lbfgs

SHAPE = (32, 36)

# Relative differences that are allowed in any case. Rounding of float32 is 6e-8 in an operation, 1e-6 in a transform,
# and 1e-5 in those convolutions of cuDNN that take Winograd's way, a dozen of which follow one another in a network. A
# solver that stops when its image changes by a thousandth may stop an iteration sooner.
DIRECT, ITERATED = 1e-3, 1e-2

#: networks that the methods read from files, in the words of gpu.problems.NETWORKS; a sampler reads the score model
FILES = {
    "checkpoint": ["varnet"],
    "ensemble": ["unet", "unet"],
    "mc_dropout": ["unet"],
    "latent": ["vae"],
    "zero_shot": ["unet"],
}
#: fewer iterations than a reconstruction takes
SHORT: dict[str, dict[str, Any]] = {
    # the image after one step: of several whose held-out errors are nearly equal, rounding may choose another
    **{key: {"iterations": 2, "n_seeds": 2, "stop": "fixed"} for key in ("convdecoder", "deep_decoder", "dip")},
    **{key: {"iterations": 10} for key in ("l1_image", "l1_wavelet", "tv_fastmri")},
    "tv": {"iterations": 4},
    "latent": {"iterations": 5, "restarts": 2},
    "mc_dropout": {"n_samples": 2},
    "zero_shot": {"epochs": 1, "n_splits": 2},
}
SHORT_SAMPLER = {"n_samples": 2, "sampler.schedule.sigma_max": 1.0, "sampler.schedule.n_levels": 5}


def rows(setting: Setting) -> Rows:
    """One row for each thing that computes."""
    tensor_cores(False)  # TF32 rounds to a thousandth, and nothing could be told from that
    return {
        **{f"recon={entry}": partial(method, setting, entry) for entry in names("recon")},
        **{f"sampler {name}": partial(sampler, setting, name) for name in _samplers()},
        **{f"solver {name}": partial(solver, setting, solve) for name, solve in SOLVERS.items()},
        **{f"coils {name}": partial(estimate, setting, what) for name, what in ESTIMATES.items()},
        **{f"operator {name}": partial(operator, setting, make) for name, make in OPERATORS.items()},
    }


def method(setting: Setting, entry: str) -> Values:
    """Reconstruct two slices as evaluate.py does: with a generator of the device."""
    config = composed("evaluate", f"recon={entry}").recon
    options = SHORT_SAMPLER if "sampler" in config else SHORT.get(entry, {})
    for key, value in options.items():
        OmegaConf.update(config, key, value)
    if "paths" in config:
        config.paths = [checkpoint(setting, kind, seed) for seed, kind in enumerate(FILES[entry])]
    elif entry == "fastmri_weights":
        config.path = fastmri_unet(setting)
    elif "path" in config and entry != "pretrained":  # its weights come with the package
        kinds = ["score"] if "sampler" in config else FILES.get(entry, [])
        if not kinds:
            raise FailedError(f"recon={entry} reads a file: add it to FILES in {__file__}")
        config.path = checkpoint(setting, kinds[0])

    def compute(device: str, change: float) -> list[Tensor]:
        reconstructor = instantiate(config).to(device)
        made = acquisition(4, *SHAPE, batch=2, change=change, device=device)
        result = reconstructor(made, generator=torch.Generator(device).manual_seed(3))
        if result.image.dtype != torch.complex64:
            raise FailedError(f"the image on {device} is {result.image.dtype}")
        return [part for part in (result.image, result.std) if part is not None]

    return agree(compute, setting.device, ITERATED if "iterations" in config or "sampler" in config else DIRECT)


def _samplers() -> list[str]:
    functions = {name: getattr(samplers, name) for name in samplers.__all__}
    return [
        name
        for name, function in functions.items()
        if inspect.isfunction(function) and "noise" in inspect.signature(function).parameters
    ]


def sampler(setting: Setting, name: str) -> Values:
    """Draw two chains of a few levels, with the same noise on both devices."""
    function = getattr(samplers, name)
    network, _ = load_network(checkpoint(setting, "score"))

    def compute(device: str, change: float) -> list[Tensor]:
        denoiser = network.eval().requires_grad_(False).to(device)
        noise = samplers.ChainNoise(samplers.chain_generators([1, 2], device))
        schedule = samplers.geometric(1.0, 0.1, 4)
        if "problem" not in inspect.signature(function).parameters:  # samples of the prior alone
            return [function(denoiser, noise, SHAPE, schedule=tuple(level * (1 + change) for level in schedule))]
        made = acquisition(4, *SHAPE, change=change, device=device)
        problem = samplers.Problem(denoiser, sense(made), made.kspace, 0.02, SHAPE)
        return [function(problem, noise, schedule=schedule)]

    return agree(compute, setting.device, ITERATED)


def solver(setting: Setting, solve: Callable[[LinearOperator, Acquisition], Tensor]) -> Values:
    """Solve a small SENSE problem."""

    def compute(device: str, change: float) -> list[Tensor]:
        made = acquisition(4, *SHAPE, batch=2, change=change, device=device)
        return [solve(sense(made), made)]

    return agree(compute, setting.device, DIRECT)


def _conjugate_gradient(a: LinearOperator, made: Acquisition) -> Tensor:
    return solvers.conjugate_gradient(lambda x: a.normal(x) + 0.1 * x, a.adjoint(made.kspace), iterations=10)


def _fista(a: LinearOperator, made: Acquisition) -> Tensor:
    rhs = a.adjoint(made.kspace)
    return solvers.fista(lambda x: a.normal(x) - rhs, lambda v: solvers.soft_threshold(v, 0.01), rhs, iterations=10)


def _admm(a: LinearOperator, made: Acquisition) -> Tensor:
    rhs, transform = a.adjoint(made.kspace), finite_difference()
    return solvers.admm(
        a.normal, rhs, transform, lambda v: solvers.soft_threshold(v, 0.01, 1), rhs, penalty=0.1, iterations=5
    )


def _primal_dual(a: LinearOperator, made: Acquisition) -> Tensor:
    rhs, transform = a.adjoint(made.kspace), finite_difference()
    return solvers.primal_dual(
        lambda x: a.normal(x) - rhs,
        transform,
        lambda v: solvers.project_ball(v, 0.01, 1),
        rhs,
        transform_norm=math.sqrt(8),
        dual_step=0.1,
        iterations=10,
    )


def _power_iteration(a: LinearOperator, made: Acquisition) -> Tensor:
    return solvers.largest_eigenvalue(a.normal, a.adjoint(made.kspace), iterations=10)


def _lbfgs(a: LinearOperator, made: Acquisition) -> Tensor:
    def objective(z: Tensor) -> Tensor:
        return (a(torch.view_as_complex(z)) - made.kspace).abs().square().flatten(1).sum(1)

    start = torch.view_as_real(torch.zeros_like(made.kspace[:, 0])).contiguous()
    iterates = lbfgs(objective, start)
    for _ in range(5):
        z, _ = next(iterates)
    return z


SOLVERS: dict[str, Callable[[LinearOperator, Acquisition], Tensor]] = {
    "conjugate_gradient": _conjugate_gradient,
    "fista": _fista,
    "admm": _admm,
    "primal_dual": _primal_dual,
    "power_iteration": _power_iteration,
    "lbfgs": _lbfgs,
}


def estimate(setting: Setting, what: Callable[[Acquisition], list[Tensor]]) -> Values:
    """Estimate something of the coils from what a scanner delivers."""

    def compute(device: str, change: float) -> list[Tensor]:
        return what(without_maps(acquisition(6, 64, 60, batch=2, change=change, device=device)))

    return agree(compute, setting.device, DIRECT)


def _espirit(made: Acquisition) -> list[Tensor]:
    maps, eigenvalues = coils.espirit_maps(made.kspace, made.mask, made.n_acs, crop=0.0)
    # where there is no object eigenvalues lie close together, and their vectors are any: these weigh nothing here
    return [maps * eigenvalues.clamp(0, 1)[:, None] ** 20, eigenvalues]


def _compressed(made: Acquisition) -> list[Tensor]:
    return [coils.compress(made.kspace, coils.compression_matrix(made.kspace, made.mask, made.n_acs, 4))]


ESTIMATES: dict[str, Callable[[Acquisition], list[Tensor]]] = {
    "espirit": _espirit,
    "low_resolution": lambda made: [coils.low_resolution_maps(made.kspace, made.n_acs)],  # type: ignore[arg-type]
    "noise": lambda made: [coils.noise_level(made.kspace, made.mask), coils.border_covariance(made.kspace, made.mask)],
    "compression": _compressed,
}


def operator(setting: Setting, make: Callable[[Acquisition], LinearOperator]) -> Values:
    """Apply an operator to an image, its adjoint to what comes out, and both together."""

    def compute(device: str, change: float) -> list[Tensor]:
        made = acquisition(4, *SHAPE, batch=2, change=change, device=device)
        a, image = make(made), sense(made).adjoint(made.kspace)
        return [a(image), a.adjoint(a(image)), a.normal(image)]

    return agree(compute, setting.device, DIRECT)


OPERATORS: dict[str, Callable[[Acquisition], LinearOperator]] = {
    "sense": sense,
    "wavelet": lambda _: wavelet(SHAPE),
    "finite_difference": lambda _: finite_difference(),
}
