"""Conformal intervals cover what they promise where volumes are exchangeable, and tell when they cannot."""

import math

import numpy as np
import pytest

from spinwarp.errors import InputError
from spinwarp.uncertainty import FACTORS, conformal_factor

N_PIXELS = 100


def volumes(generator: np.random.Generator, n: int, scale: float = 1.0) -> np.ndarray:
    """Exceedances ``(n, factors)`` of volumes that differ: their errors are random multiples of their std."""
    spread = scale * np.exp(0.5 * generator.standard_normal((n, 1)))
    ratio = np.abs(spread * generator.standard_normal((n, N_PIXELS)))
    bins = len(FACTORS) + 1
    counts = np.bincount((np.searchsorted(FACTORS, ratio) + bins * np.arange(n)[:, None]).ravel(), minlength=bins * n)
    return 1 - counts.reshape(n, bins)[:, :-1].cumsum(1) / N_PIXELS


def missed(n: int, level: float, repetitions: int, scale: float = 1.0) -> np.ndarray:
    """Fraction outside the interval in a new volume, whose errors are ``scale`` times those of calibration."""
    generator = np.random.default_rng(n)
    result = []
    for _ in range(repetitions):
        factor = conformal_factor(FACTORS, list(volumes(generator, n)), level)
        result.append(volumes(generator, 1, scale)[0, factor == FACTORS].item())
    return np.array(result)


@pytest.mark.parametrize(("n", "level"), [(9, 0.9), (20, 0.9), (30, 0.8), (60, 0.95)])
def test_new_volumes_are_covered_as_promised_within_the_finite_sample_bound(n: int, level: float) -> None:
    fractions = missed(n, level, 400)
    monte_carlo = 4 * fractions.std() / math.sqrt(len(fractions))  # four standard errors of the mean
    alpha = 1 - level
    # A step of the grid is 1 %: at most .0024 of a Gaussian lies between a factor and the next. A volume's fractions
    # come in steps of 1 / 100, in which mean_i L_i jumps by no more than 1 / 100 / n but for ties.
    grid = 0.0024 + 1 / N_PIXELS / n
    assert alpha - 2 / (n + 1) - grid - monte_carlo <= fractions.mean() <= alpha + monte_carlo


def test_a_shift_loses_the_coverage_that_was_promised() -> None:
    like, unlike = missed(30, 0.9, 300), missed(30, 0.9, 300, scale=2.0)
    # the guarantee is of exchangeable volumes; twice the errors leave more than twice the fraction outside
    assert like.mean() < 0.12 and unlike.mean() > 0.2


def test_a_single_volume_may_have_more_outside_than_was_promised() -> None:
    fractions = missed(30, 0.9, 300)
    assert (fractions > 0.2).mean() > 0.05  # as the docstring says: the expectation is what is promised


def test_the_factor_is_that_of_the_equation() -> None:
    exceedances = volumes(np.random.default_rng(0), 25)
    factor = conformal_factor(FACTORS, list(exceedances), 0.9)
    risk = 25 / 26 * exceedances.mean(0) + 1 / 26
    index = int(np.flatnonzero(factor == FACTORS)[0])
    assert risk[index] <= 0.1 < risk[index - 1]
    assert conformal_factor(FACTORS, [np.zeros(len(FACTORS))] * 9, 0.9) == FACTORS[0]  # 1 / 10 is just enough


@pytest.mark.parametrize(("level", "needed"), [(0.9, 9), (0.8, 4), (0.95, 19), (0.5, 1), (0.99, 99)])
def test_too_few_volumes_are_refused_with_the_number_that_it_takes(level: float, needed: int) -> None:
    perfect = [np.zeros(len(FACTORS))]
    conformal_factor(FACTORS, perfect * needed, level)
    message = f"a coverage of {level:g} needs at least {needed} calibration volumes, got {needed - 1};"
    with pytest.raises(InputError, match=message):
        conformal_factor(FACTORS, perfect * (needed - 1), level)


def test_what_no_factor_covers_is_refused() -> None:
    hopeless = volumes(np.random.default_rng(1), 20)
    hopeless = np.maximum(hopeless, 0.25)  # a quarter of the foreground has errors where none is predicted
    with pytest.raises(InputError, match=r"no scaling covers 0\.9: 25\.0% of the foreground errors exceed even 1000"):
        conformal_factor(FACTORS, list(hopeless), 0.9)
    assert conformal_factor(FACTORS, list(hopeless), 0.6) > 0.1


@pytest.mark.parametrize("level", [0.0, 1.0, 90.0, math.nan])
def test_a_level_that_is_no_coverage_is_refused(level: float) -> None:
    with pytest.raises(InputError, match="is not a coverage; give a number between 0 and 1"):
        conformal_factor(FACTORS, [np.zeros(len(FACTORS))] * 100, level)


def test_the_factors_lie_less_than_one_percent_apart() -> None:
    assert (FACTORS[0], FACTORS[-1]) == (0.01, 1000.0)
    assert np.diff(np.log(FACTORS)).max() < 0.01 and np.diff(FACTORS).min() > 0
