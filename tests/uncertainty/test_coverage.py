"""Coverage and correlation of claimed standard deviations, against what is known of Gaussian errors."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm, t
from torch import Tensor

from spinwarp.uncertainty import Calibration, foreground

N = 200_000
WITHIN_TWO = math.erf(math.sqrt(2))  # .9545, the share of a Gaussian within two standard deviations
MONTE_CARLO = 4 * math.sqrt(0.25 / N)  # four standard errors of a share, at the share where it is largest


def claims(shape: tuple[int, ...] = (N,), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return Gaussian errors and their standard deviations, uniform between 1 and 3."""
    generator = torch.Generator().manual_seed(seed)
    std = 1 + 2 * torch.rand(shape, generator=generator, dtype=torch.float64)
    return std * torch.randn(shape, generator=generator, dtype=torch.float64), std


def calibration(error: Tensor, std: Tensor, where: Tensor | None = None) -> Calibration:
    result = Calibration()
    result.update(error, std, torch.ones_like(std, dtype=torch.bool) if where is None else where)
    return result


def test_gaussian_errors_of_the_claimed_deviation_are_covered_as_theory_says() -> None:
    assert calibration(*claims()).coverage == pytest.approx(WITHIN_TWO, abs=MONTE_CARLO)


@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0])
def test_a_scaled_deviation_changes_the_coverage_and_not_the_correlation(scale: float) -> None:
    error, std = claims()
    scaled = calibration(error, scale * std)
    assert scaled.coverage == pytest.approx(2 * norm.cdf(2 * scale) - 1, abs=MONTE_CARLO)
    # a power of two scales every number without rounding
    assert scaled.correlation == pytest.approx(calibration(error, std).correlation, rel=1e-12)


def test_the_correlation_of_the_true_deviation_is_that_of_theory() -> None:
    # |e| = std |z| with E|z| = sqrt(2/pi): cov = E|z| var(std), var|e| = E std^2 - E|z|^2 (E std)^2; std is U(1, 3)
    half, variance, mean = math.sqrt(2 / math.pi), 1 / 3, 2.0
    expected = half * math.sqrt(variance / (variance + mean**2 - half**2 * mean**2))
    # four standard errors of a correlation, (1 - r^2) / sqrt(n) at most 1 / sqrt(n) for tails as light as these
    assert calibration(*claims()).correlation == pytest.approx(expected, abs=4 / math.sqrt(N))


@pytest.mark.parametrize(("n_draws", "promised"), [(2, 0.65), (8, 0.90), (16, 0.93)])
def test_the_docstring_promises_the_coverage_of_a_few_draws_rightly(n_draws: int, promised: float) -> None:
    generator = torch.Generator().manual_seed(1)
    draws = torch.randn(n_draws, N, generator=generator, dtype=torch.float64)
    truth = torch.randn(N, generator=generator, dtype=torch.float64)
    found = calibration(draws.mean(0) - truth, draws.std(0)).coverage
    # Student's t: the error of the mean has variance 1 + 1/n, its deviation n - 1 degrees of freedom
    theory = 2 * t.cdf(2 / math.sqrt(1 + 1 / n_draws), n_draws - 1) - 1
    assert found == pytest.approx(theory, abs=MONTE_CARLO)
    assert theory == pytest.approx(promised, abs=0.005)


def test_slices_one_by_one_equal_the_whole_volume_and_numpy() -> None:
    error, std = claims((7, 40, 30))
    where = torch.rand(std.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    where[3] = False  # a slice without foreground
    whole, slices = calibration(error, std, where), Calibration()
    for part in zip(error, std, where, strict=True):
        slices.update(*part)
    assert slices.coverage == whole.coverage
    # double precision, other orders of summation over some 2,000 pixels
    assert slices.correlation == pytest.approx(whole.correlation, rel=1e-12)
    assert whole.correlation == pytest.approx(np.corrcoef(error[where].abs(), std[where])[0, 1], rel=1e-12)


def test_nearly_equal_deviations_far_from_zero_lose_no_digits() -> None:
    error, std = claims()
    shifted = calibration(error, std + 1e4)
    # adding 1e4 rounds doubles at 1e-12, and the deviations spread over 0.6
    assert shifted.correlation == pytest.approx(calibration(error, std).correlation, rel=1e-9)


def test_signs_and_units_do_not_matter() -> None:
    error, std = (part.float() for part in claims((1000,)))
    plain = calibration(error, std)
    small = calibration(-1e-9 * error, 1e-9 * std)  # scanner units
    assert small.coverage == plain.coverage
    assert small.correlation == pytest.approx(plain.correlation, rel=1e-5)  # one float32 rounding a pixel


def test_pixels_outside_the_foreground_do_not_count() -> None:
    error, std = claims((1000,))
    where = torch.arange(1000) < 500
    spoilt = torch.where(where, error, torch.nan), torch.where(where, std, 0.0)
    masked, cut = calibration(*spoilt, where), calibration(error[:500], std[:500])
    assert (masked.coverage, masked.correlation) == (cut.coverage, cut.correlation)


def test_nothing_to_measure_is_nan() -> None:
    error, std = claims((10,))
    for empty in (Calibration(), calibration(error, std, torch.zeros(10, dtype=torch.bool))):
        assert math.isnan(empty.coverage) and math.isnan(empty.correlation)
    assert math.isnan(calibration(error[:1], std[:1]).correlation)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e-7])
def test_a_constant_deviation_has_a_coverage_and_no_correlation(constant: float) -> None:
    error, _ = claims((1001,))
    result = Calibration()
    for part in error.split(100):
        # a third of it is no binary number, so that the means round
        result.update(part, torch.full_like(part, constant) / 3, torch.ones_like(part, dtype=torch.bool))
    assert result.coverage == float((error.abs() <= 2 * constant / 3).double().mean())
    assert math.isnan(result.correlation)


def test_an_error_of_zero_is_covered_by_a_deviation_of_zero() -> None:
    assert calibration(torch.zeros(4), torch.zeros(4)).coverage == 1.0


def test_the_foreground_is_what_is_brighter_than_a_twentieth_of_the_volumes_maximum() -> None:
    target = torch.tensor([0.0, 0.04, 0.06, 1.0]).reshape(1, 2, 2).repeat(2, 1, 1)
    found = foreground(target, torch.tensor([1.0, 10.0]))
    assert found[0].tolist() == [[False, False], [True, True]]
    assert found[1].tolist() == [[False, False], [False, True]]
