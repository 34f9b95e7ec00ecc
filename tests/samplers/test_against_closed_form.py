"""The samplers of the posterior against the Gaussian posterior in closed form, and the others by theirs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from closed_form import Many, gaussian
from torch import Tensor

from spinwarp.operators.linear import LinearOperator
from spinwarp.progress import listen
from spinwarp.samplers import (
    Problem,
    annealed_langevin,
    daps,
    ddnm,
    dds,
    diffpir,
    dps,
    geometric,
    jalal,
    predictor_corrector,
    pula,
)

NOISE = [0.01, 0.05, 0.2]
# 4000 complex draws know a std to 1 / sqrt(4 * 4000), 0.8 %, and eight of them at once to three times that
MONTE_CARLO = 0.025
THIRD = jalal()[::3]  # one step a level, which is enough for 8 pixels
HUNDRED = geometric(10.0, 0.01, 99)  # network evaluations, with the last denoising
SILENT = 2  # the last two directions are not measured


@pytest.mark.parametrize("noise_std", NOISE)
def test_pula_has_the_mean_and_the_std_of_the_posterior_in_100_evaluations(noise_std: float) -> None:
    problem = gaussian(noise_std)
    evaluations: list[float] = []
    with listen(evaluations.append):
        samples = pula(problem.problem, Many(4000), schedule=HUNDRED)
    std, bias = problem.compare(samples)
    assert evaluations == [(i + 1) / 100 for i in range(100)]
    # what 100 levels leave by the exact recursion of mean and covariance is 0.5 % where measured, 3 % elsewhere; three
    # coil singular values of 0.26 to 1 and a solve that ends early add 1.5 %
    torch.testing.assert_close(std, torch.ones_like(std), atol=0.03 + MONTE_CARLO, rtol=0)
    # what the data say about the unmeasured directions comes late, when they move slowly
    assert bias[:-SILENT].max() < 0.15
    assert bias.max() < 0.3


def test_pula_has_the_covariance_of_the_posterior_and_not_only_its_std() -> None:
    problem = gaussian(0.05)
    samples = pula(problem.problem, Many(4000), schedule=HUNDRED)
    _, covariance = problem.posterior
    centred = samples.to(torch.complex128) - samples.mean(0)
    measured = centred.T @ centred.conj() / len(samples)
    # in units of the posterior the covariance is the identity; its largest eigenvalue from 4000 draws of 8 numbers is
    # (1 + sqrt(8 / 4000))^2 = 1.09, and the bias of the std of 3 % adds 6 %
    whiten = torch.linalg.inv(torch.linalg.cholesky(covariance))
    eigenvalues = torch.linalg.eigvalsh(whiten @ measured @ whiten.mH)
    assert eigenvalues.min() > 0.87
    assert eigenvalues.max() < 1.17


def test_pula_comes_nearer_with_more_levels() -> None:
    problem = gaussian(0.05)
    _, few = problem.compare(pula(problem.problem, Many(1000), schedule=geometric(10.0, 0.01, 25)))
    std, many = problem.compare(pula(problem.problem, Many(1000), schedule=geometric(10.0, 0.01, 250)))
    assert many.max() < 0.5 * few.max()
    torch.testing.assert_close(std, torch.ones_like(std), atol=0.02 + 2 * MONTE_CARLO, rtol=0)


def test_pula_hardly_minds_a_solve_that_ends_early() -> None:
    problem = gaussian(0.01)  # weight (0.01 / 10)^2: a condition number of a million at the first level
    std, _ = problem.compare(pula(problem.problem, Many(1000), schedule=HUNDRED, cg_iterations=2))
    # three iterations would solve two coils nearly; two leave the weakest of the measured directions 11 % too wide
    torch.testing.assert_close(std, torch.ones_like(std), atol=0.15, rtol=0)


def test_pula_without_the_last_denoising_keeps_the_noise_of_the_last_level() -> None:
    problem = gaussian(0.2)
    schedule = geometric(10.0, 0.3, 60)
    last = pula(problem.problem, Many(2000), schedule=schedule)
    noisy = pula(problem.problem, Many(2000), schedule=schedule, denoise_last=False)
    silent = problem.axes[:, -SILENT:].conj()
    added = (noisy.to(torch.complex128) @ silent).var(0) - (last.to(torch.complex128) @ silent).var(0)
    assert (added > 0.5 * 0.3**2).all()


@pytest.mark.parametrize(("n_levels", "decibel"), [(99, 0.2), (24, 0.6)])
def test_the_mean_of_pula_is_within_a_part_of_a_decibel_of_the_exact_mean(n_levels: int, decibel: float) -> None:
    problem = gaussian(0.05)
    samples = pula(problem.problem, Many(1500), schedule=geometric(10.0, 0.01, n_levels))
    mean, covariance = problem.posterior
    # over truths drawn from the posterior the exact mean has the squared error trace(C), this one the bias beside it;
    # the 1500 draws blur the bias by trace(C) / 1500, 0.003 dB
    bias = (samples.mean(0) - mean).abs().square().sum() / covariance.diagonal().real.sum()
    assert 10 * torch.log10(1 + bias) < decibel  # measured: 0.10 and 0.36


@pytest.mark.parametrize("noise_std", NOISE)
@pytest.mark.parametrize("likelihood", ["exact", "annealed"])
def test_annealed_langevin_has_the_std_of_the_posterior(likelihood: Any, noise_std: float) -> None:
    problem = gaussian(noise_std)
    samples = annealed_langevin(problem.problem, Many(1000), likelihood=likelihood, schedule=THIRD)
    std, bias = (values[:-SILENT] for values in problem.compare(samples))
    # 1000 draws know a std half as well. The floor at .01 is the last level, .0066: annealed, the data there have a std
    # of .012, and the step of an unadjusted chain adds to it
    floor = 0.31 if noise_std == 0.01 else 0.03
    assert (std - 1).abs().max() < floor + 2 * MONTE_CARLO
    assert bias.max() < 0.2


@pytest.mark.parametrize(("likelihood", "noise_std"), [("exact", 0.05), ("annealed", 0.01)])
def test_annealed_langevin_has_the_std_of_the_posterior_where_the_data_are_silent(
    likelihood: Any, noise_std: float
) -> None:
    problem = gaussian(noise_std)
    samples = annealed_langevin(problem.problem, Many(1000), likelihood=likelihood, schedule=THIRD)
    std, bias = (values[-SILENT:] for values in problem.compare(samples))
    assert (std - 1).abs().max() < 0.03 + 2 * MONTE_CARLO
    assert bias.max() < 0.2


def test_an_exact_likelihood_of_little_noise_needs_a_preconditioner() -> None:
    problem = gaussian(0.01)  # steps of a std of .01, and an image that has to move by 1
    plain = annealed_langevin(problem.problem, Many(300), likelihood="exact", schedule=THIRD)
    std, _ = problem.compare(plain)
    assert (std[-SILENT:] > 1.5).all()
    std, _ = problem.compare(pula(problem.problem, Many(300), schedule=HUNDRED))
    assert (std[-SILENT:] < 1.2).all()


def test_released_is_not_the_posterior_and_its_spread_does_not_follow_the_noise() -> None:
    ratio = []
    for noise_std in NOISE:
        problem = gaussian(noise_std)
        std, _ = problem.compare(annealed_langevin(problem.problem, Many(300), likelihood="released", schedule=THIRD))
        ratio.append(std[:-SILENT].mean())
    # the std of the posterior along the measured directions grows 5 to 20 times from .01 to .2; that of the samples is
    # set by the score: several times too large at one end, a small part of it at the other
    assert ratio[0] > 2
    assert 0.3 < ratio[1] < 0.9
    assert ratio[2] < 0.2


OTHERS: list[tuple[str, Callable[..., Tensor], dict[str, Any]]] = [
    ("predictor_corrector", predictor_corrector, {}),
    ("dps", dps, {"schedule": geometric(10.0, 0.01, 300), "scale": 0.1}),
    ("diffpir", diffpir, {"prior_weight": 1.0}),
    ("ddnm", ddnm, {}),
    ("dds", dds, {}),
    ("daps", daps, {"schedule": geometric(10.0, 0.01, 60)}),
]


@pytest.mark.parametrize(("sampler", "options"), [o[1:] for o in OTHERS], ids=[o[0] for o in OTHERS])
def test_the_others_fit_the_data_and_come_near_the_mean_of_the_posterior(
    sampler: Callable[..., Tensor], options: dict[str, Any]
) -> None:
    problem = gaussian(0.05)
    samples = sampler(problem.problem, Many(500), **options)
    misfit = (samples @ problem.matrix.T - problem.data).abs().square().mean().sqrt()
    assert misfit < 2 * 0.05
    mean, covariance = problem.posterior
    away = (samples.mean(0) - mean).abs().square().sum().sqrt()
    # in units of the posterior's own spread: a fit of the data noise and all is 1.5 std away along weak directions
    assert away < 0.8 * covariance.diagonal().real.sum().sqrt()


@pytest.mark.parametrize(("sampler", "options"), [o[1:] for o in OTHERS], ids=[o[0] for o in OTHERS])
def test_the_spread_of_the_others_is_not_that_of_the_posterior(
    sampler: Callable[..., Tensor], options: dict[str, Any]
) -> None:
    std, _ = gaussian(0.05).compare(sampler(gaussian(0.05).problem, Many(1000), **options))
    assert (std - 1).abs().max() > 0.15


def test_daps_is_near_the_posterior_along_the_measured_directions() -> None:
    std, _ = gaussian(0.05).compare(daps(gaussian(0.05).problem, Many(1000)))
    assert (std[:-SILENT] - 1).abs().max() < 0.1
    assert ((std[-SILENT:] > 1.15) & (std[-SILENT:] < 1.4)).all()


@pytest.mark.parametrize("noise_std", [0.01, 0.2])
def test_ddnm_with_one_orthonormal_coil_counts_the_noise_of_the_data_once(noise_std: float) -> None:
    # singular values 0 and 1: x = y wherever measured, and the prior CN(0, 1) elsewhere
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0])
    operator = LinearOperator(lambda x: mask * x, lambda y: mask * y)
    truth = torch.tensor([[0.5 + 0j, -1j, 0, 0]])
    problem = Problem(lambda x, sigma: x / (1 + sigma[:, None].square()), operator, truth, noise_std, (4,))
    samples = ddnm(problem, Many(2000))
    torch.testing.assert_close(samples[:, :2].mean(0), truth[0, :2], atol=0.05, rtol=0)
    torch.testing.assert_close(samples[:, 2:].std(0), torch.ones(2), atol=0.08, rtol=0)


def mixture(noise_std: float, distance: float, width: float, data: complex) -> tuple[Problem, float]:
    """Two Gaussians in two pixels, centres at +-distance, 3 to 7; pixel 0 is measured. And the first's true weight."""
    log_weights = torch.tensor([0.3, 0.7]).log()
    centres = distance * torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).to(torch.complex64)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        square = sigma[:, None, None].square()
        far = (x[:, None] - centres).abs().square().sum(-1) / (width**2 + square[..., 0])
        weight_of = torch.softmax(log_weights - far, 1)
        return (weight_of[..., None] * (centres * square + x[:, None] * width**2) / (width**2 + square)).sum(1)

    mask = torch.tensor([1.0, 0.0])
    operator = LinearOperator(lambda x: mask * x, lambda y: mask * y)
    y = torch.tensor([[data, 0.0]]).to(torch.complex64)
    far = (y[0, :1] - centres[:, 0]).abs().square() / (noise_std**2 + width**2)
    return Problem(denoise, operator, y, noise_std, (2,)), float(torch.softmax(log_weights - far, 0)[0])


def test_pula_gives_two_modes_their_weights() -> None:
    # the data say nothing about which: 4000 chains know 0.3 to 0.007, and the modes part where steps still matter
    problem, weight = mixture(0.5, distance=1.0, width=0.3, data=0.0)
    samples = pula(problem, Many(4000), schedule=HUNDRED)
    assert weight == pytest.approx(0.3)
    assert (samples[:, 1].real > 0).float().mean().item() == pytest.approx(weight, abs=0.03)
    # and each mode its own width
    assert samples[samples[:, 1].real > 0, 1].std().item() == pytest.approx(0.3, rel=0.05)


def test_pula_lets_the_data_change_the_weights_of_modes_as_it_takes_more_levels() -> None:
    # p_sigma(x) p(y|x) gives the data their full say only as sigma falls, and by then modes may no longer mix
    problem, weight = mixture(0.3, distance=0.7, width=0.5, data=0.1)
    assert weight > 0.45
    fractions = [
        (pula(problem, Many(2000), schedule=geometric(10.0, 0.01, n))[:, 1].real > 0).float().mean().item()
        for n in (99, 1000)
    ]
    assert 0.4 < fractions[0] < 0.47
    assert fractions[1] == pytest.approx(weight, abs=0.03)
