"""Measures of predicted standard deviations, against what is known of Gaussian errors."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2, norm, t
from torch import Tensor

from spinwarp.uncertainty import CURVE_LEVELS, FACTORS, FRACTIONS, Calibration, foreground, local_intensity, ranks_of
from spinwarp.uncertainty.measures import area, calibration_error, error_ratio, sparsification

N = 40_000
WITHIN_TWO = math.erf(math.sqrt(2))  # .9545, the fraction of a Gaussian within two standard deviations
MONTE_CARLO = 4 * math.sqrt(0.25 / N)  # four standard errors of a fraction, at the fraction where it is largest


def predictions(shape: tuple[int, ...] = (N,), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return Gaussian errors and their standard deviations, uniform between 1 and 3."""
    generator = torch.Generator().manual_seed(seed)
    std = 1 + 2 * torch.rand(shape, generator=generator, dtype=torch.float64)
    return std * torch.randn(shape, generator=generator, dtype=torch.float64), std


def measured(
    error: Tensor, std: Tensor, where: Tensor | None = None, calibration: Calibration | None = None
) -> Calibration:
    """Add pixels: a target of 1 where it counts and of 0 elsewhere, and an image that errs by ``error``."""
    calibration = calibration or Calibration()
    target = torch.ones_like(std) if where is None else where.to(std)
    error, std, target = (part.reshape(1, -1, part.shape[-1]) for part in (error, std, target))
    calibration.update(target + error, std, target, torch.ones(1))
    return calibration


def numbers(error: Tensor, std: Tensor, where: Tensor | None = None) -> dict[str, float]:
    return measured(error, std, where).numbers()


def test_gaussian_errors_of_the_predicted_deviation_are_covered_as_theory_says() -> None:
    found = numbers(*predictions())
    assert found["coverage"] == pytest.approx(WITHIN_TWO, abs=MONTE_CARLO)
    for level in (50, 80, 90, 95):
        assert found[f"coverage_{level}"] == pytest.approx(level / 100, abs=MONTE_CARLO)
    # the mean distance of fractions, each within its own Monte-Carlo error
    assert found["calibration_error"] < MONTE_CARLO
    curve = measured(*predictions()).curves()["coverage"]
    np.testing.assert_allclose(curve, CURVE_LEVELS, atol=MONTE_CARLO)


@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0])
def test_a_scaled_deviation_changes_the_coverage_and_not_the_correlation(scale: float) -> None:
    error, std = predictions()
    plain, scaled = numbers(error, std), numbers(error, scale * std)
    assert scaled["coverage"] == pytest.approx(2 * norm.cdf(2 * scale) - 1, abs=MONTE_CARLO)
    # a power of two scales every number without rounding
    assert scaled["error_correlation"] == pytest.approx(plain["error_correlation"], rel=1e-12)
    assert scaled["sparsification"] == plain["sparsification"]


def test_the_calibration_error_grows_with_the_scale_as_theory_says() -> None:
    error, std = predictions()
    levels = np.linspace(0, 1, 10_001)[1:-1]
    found = [numbers(error, scale * std)["calibration_error"] for scale in (1.0, 1.5, 3.0, 1e9)]
    for value, scale in zip(found, (1.0, 1.5, 3.0, 1e9), strict=True):
        expected = np.abs(2 * norm.cdf(scale * norm.ppf((1 + levels) / 2)) - 1 - levels).mean()
        # fifty levels for the integral of a smooth curve: the midpoint rule errs by less than 1e-3
        assert value == pytest.approx(expected, abs=MONTE_CARLO + 1e-3)
    assert found == sorted(found) and found[-1] == pytest.approx(0.5, rel=1e-12)
    assert numbers(error, 0 * std)["calibration_error"] == pytest.approx(0.5, rel=1e-12)


def test_the_correlation_of_the_true_deviation_is_that_of_theory() -> None:
    # |e| = std |z| with E|z| = sqrt(2/pi): cov = E|z| var(std), var|e| = E std^2 - E|z|^2 (E std)^2; std is U(1, 3)
    half, variance, mean = math.sqrt(2 / math.pi), 1 / 3, 2.0
    expected = half * math.sqrt(variance / (variance + mean**2 - half**2 * mean**2))
    # four standard errors of a correlation, (1 - r^2) / sqrt(n) at most 1 / sqrt(n) for tails as light as these
    assert numbers(*predictions())["error_correlation"] == pytest.approx(expected, abs=4 / math.sqrt(N))


@pytest.mark.parametrize(("n_draws", "promised"), [(2, 0.65), (8, 0.90), (16, 0.93)])
def test_the_docstring_promises_the_coverage_of_a_few_draws_rightly(n_draws: int, promised: float) -> None:
    generator = torch.Generator().manual_seed(1)
    draws = torch.randn(n_draws, N, generator=generator, dtype=torch.float64)
    truth = torch.randn(N, generator=generator, dtype=torch.float64)
    found = numbers(draws.mean(0) - truth, draws.std(0))["coverage"]
    # Student's t: the error of the mean has variance 1 + 1/n, its deviation n - 1 degrees of freedom
    theory = 2 * t.cdf(2 / math.sqrt(1 + 1 / n_draws), n_draws - 1) - 1
    assert found == pytest.approx(theory, abs=MONTE_CARLO)
    assert theory == pytest.approx(promised, abs=0.005)


def test_slices_one_by_one_equal_the_whole_volume_and_numpy() -> None:
    error, std = predictions((7, 40, 30))
    where = torch.rand(std.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    where[3] = False  # a slice without foreground
    whole, slices = Calibration(), Calibration()
    whole.update(where + error, std, where.to(std), torch.ones(7))
    for part in zip(error, std, where, strict=True):
        measured(*part, calibration=slices)
    # the same pixels in the same order; a batch may average neighbours in another one
    assert slices.numbers() == pytest.approx(whole.numbers(), rel=1e-12)
    correlation = np.corrcoef(error[where].abs(), std[where])[0, 1]
    # target + error - target rounds doubles of order one
    assert whole.numbers()["error_correlation"] == pytest.approx(correlation, rel=1e-12)


def test_nearly_equal_deviations_far_from_zero_lose_no_digits() -> None:
    error, std = predictions()
    shifted = numbers(error, std + 1e4)["error_correlation"]
    # adding 1e4 rounds doubles at 1e-12, and the deviations spread over 0.6
    assert shifted == pytest.approx(numbers(error, std)["error_correlation"], rel=1e-9)


def test_signs_and_units_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(3)
    target = torch.rand(1, 30, 40, generator=generator, dtype=torch.float64)
    std = 0.1 * torch.rand(target.shape, generator=generator, dtype=torch.float64)
    error = std * torch.randn(target.shape, generator=generator, dtype=torch.float64)
    plain, mirrored, small = Calibration(), Calibration(), Calibration()
    plain.update(target + error, std, target, torch.ones(1))
    small.update(1e-9 * (target + error), 1e-9 * std, 1e-9 * target, 1e-9 * torch.ones(1))  # scanner units
    mirrored.update(target - error, std, target, torch.ones(1))
    # doubles round at 1e-16, and errors are some hundredths of the image
    assert small.numbers() == pytest.approx(plain.numbers(), rel=1e-9)
    own = {name: value for name, value in plain.numbers().items() if "intensity" not in name}
    assert {name: mirrored.numbers()[name] for name in own} == pytest.approx(own, rel=1e-9)


def test_pixels_outside_the_foreground_do_not_count() -> None:
    error, std = predictions((1000,))
    where = torch.arange(1000) < 500
    spoilt = numbers(torch.where(where, error, 1e9), torch.where(where, std, 0.0), where)
    cut = numbers(error[:500], std[:500])
    # but for the intensity at the border, which averages over five pixels
    assert all(spoilt[name] == cut[name] for name in cut if "intensity" not in name)


def test_nothing_to_measure_is_nan() -> None:
    error, std = predictions((10,))
    for empty in (Calibration(), measured(error, std, torch.zeros(10, dtype=torch.bool))):
        assert all(math.isnan(value) for value in empty.numbers().values())
        curves = empty.curves()
        assert curves["n_pixels"] == sum(curves["ratios"]) == 0
        assert np.isnan(curves["coverage"]).all() and np.isnan(curves["sparsification"]).all()
    single = numbers(error[:1], std[:1])
    assert math.isnan(single["error_correlation"]) and single["sparsification"] == single["sparsification_oracle"] == 1


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e-7])
def test_a_constant_deviation_has_a_coverage_and_neither_correlation_nor_order(constant: float) -> None:
    error, _ = predictions((1001,))
    result = Calibration()
    for part in error.split(100):
        # a third of it is no binary number, so that the means round
        measured(part, torch.full_like(part, constant) / 3, calibration=result)
    assert result.numbers()["coverage"] == float((error.abs() <= 2 * constant / 3).double().mean())
    assert math.isnan(result.numbers()["error_correlation"])
    # of equal predictions any pixel may go first, so the expected mean square stays; doubles round
    assert result.curves()["sparsification"] == pytest.approx([1.0] * len(FRACTIONS), rel=1e-12)


def test_an_error_of_zero_is_covered_by_a_deviation_of_zero() -> None:
    found = numbers(torch.zeros(4), torch.zeros(4))
    assert found["coverage"] == found["coverage_50"] == 1.0
    assert math.isnan(found["sparsification"])  # there is no error to leave out
    assert numbers(torch.ones(4), torch.zeros(4))["coverage"] == 0.0


def test_the_foreground_is_what_is_brighter_than_a_twentieth_of_the_volumes_maximum() -> None:
    target = torch.tensor([0.0, 0.04, 0.06, 1.0]).reshape(1, 2, 2).repeat(2, 1, 1)
    found = foreground(target, torch.tensor([1.0, 10.0]))
    assert found[0].tolist() == [[False, False], [True, True]]
    assert found[1].tolist() == [[False, False], [False, True]]


# ---------------------------------------------------------------------------------------------- sparsification


def test_sparsification_by_the_errors_themselves_is_the_oracles_and_by_chance_is_flat() -> None:
    error, _ = predictions()
    generator = torch.Generator().manual_seed(4)
    perfect = numbers(error, error.abs())
    # the image rounds the error where it is added to the target, which may swap two pixels of nearly equal error
    assert perfect["sparsification"] == pytest.approx(perfect["sparsification_oracle"], rel=1e-9)
    blind = measured(error, torch.rand(N, generator=generator, dtype=torch.float64)).curves()["sparsification"]
    # a twentieth of the pixels is left at the end: the mean of 2,000 squares, whose kurtosis is below 9, twofold in
    # the square and halved by the root: four standard errors are 4 sqrt(8 / 2,000) / 2
    assert blind == pytest.approx([1.0] * len(FRACTIONS), abs=0.13)
    assert perfect["sparsification"] < numbers(*predictions())["sparsification"] < 1


def test_sparsification_is_that_of_sorting_by_hand() -> None:
    error, std = (part.numpy() for part in predictions((400,)))
    kept = np.argsort(std)
    expected = [
        np.sqrt(np.square(error[kept[: round(400 * (1 - s))]]).mean() / np.square(error).mean()) for s in FRACTIONS
    ]
    np.testing.assert_allclose(sparsification(error, std), expected, rtol=1e-12)  # doubles, another order of sums
    assert area(np.ones(20)) == 1.0 and area(np.linspace(1, 0, 20)) == pytest.approx(0.5, rel=1e-12)


def test_sparsification_of_gaussian_errors_is_that_of_theory() -> None:
    # errors of variance v left when the largest predictions go: E[v | v small] / E[v], and std is U(1, 3)
    top = 3 - 2 * FRACTIONS
    expected = np.sqrt((top**3 - 1) / 3 / (top - 1) / (26 / 6))
    error, std = (part.numpy() for part in predictions())
    # as for the flat curve, but errors of nearly one deviation: kurtosis 3
    np.testing.assert_allclose(sparsification(error, std), expected, atol=4 * math.sqrt(2 / 2_000) / 2)


# --------------------------------------------------------------------------------------- baseline and histogram


def test_the_baseline_is_the_local_mean_with_the_mean_square_of_the_error() -> None:
    generator = torch.Generator().manual_seed(5)
    image = torch.rand(2, 9, 11, generator=generator, dtype=torch.float64)
    mean = local_intensity(image)
    assert mean[1, 4, 5] == pytest.approx(float(image[1, 2:7, 3:8].mean()), rel=1e-12)
    assert mean[0, 0, 0] == pytest.approx(float(image[0, :3, :3].mean()), rel=1e-12)
    # errors in proportion to a smooth image: the baseline is then the truth
    smooth = (2 + torch.sin(torch.linspace(0, 6, 200, dtype=torch.float64))).expand(1, 200, 200).contiguous()
    error = 0.01 * smooth * torch.randn(smooth.shape, generator=generator, dtype=torch.float64)
    result = Calibration()
    result.update(smooth + error, torch.ones_like(smooth), smooth, torch.ones(1))
    found = result.numbers()
    # the mean of 25 pixels takes a little of the error with it: .01 / 5 of its size
    assert found["intensity_calibration_error"] < MONTE_CARLO + 0.002
    expected = np.corrcoef(error.abs().ravel(), smooth.ravel())[0, 1]
    assert found["intensity_correlation"] == pytest.approx(expected, abs=4 / math.sqrt(N))
    assert found["intensity_sparsification"] < found["sparsification"] == pytest.approx(1, abs=1e-9)
    shifted = Calibration()
    shifted.update(smooth + error, 7 * torch.ones_like(smooth), smooth, torch.ones(1))
    same = [name for name in found if "intensity" in name]
    assert [shifted.numbers()[name] for name in same] == [found[name] for name in same]


def ranks(spread: float, n_samples: int = 7) -> np.ndarray:
    """Histogram of Gaussian targets among samples of another spread."""
    generator = torch.Generator().manual_seed(6)
    target = 10 + torch.randn(4, 100, 50, generator=generator)
    samples = 10 + spread * torch.randn(n_samples, 4, 100, 50, generator=generator)
    result = Calibration()
    for i in range(4):
        item = slice(i, i + 1)
        drawn = ranks_of(samples[:, item], target[item])
        result.update(samples.mean(0)[item], samples.std(0)[item], target[item], torch.ones(1), drawn)
    return np.array(result.curves()["ranks"])


def test_the_ranks_of_exact_draws_are_flat_and_tell_too_little_from_too_much() -> None:
    flat = ranks(1.0)
    assert len(flat) == 8 and flat.sum() == 20_000
    # Pearson's statistic, seven degrees of freedom: larger in one of ten thousand histograms
    assert ((flat - 2500) ** 2 / 2500).sum() < chi2.ppf(1 - 1e-4, 7)
    too_sure, too_wide = ranks(0.5), ranks(2.0)
    assert min(too_sure[0], too_sure[-1]) > 2 * too_sure[1:-1].max()
    assert max(too_wide[0], too_wide[-1]) < 0.5 * too_wide[3:5].min()


def test_equal_samples_rank_the_target_in_their_middle() -> None:
    result = Calibration()
    ones = torch.ones(1, 2, 2)
    result.update(ones, ones, ones, torch.ones(1), ranks_of(torch.ones(4, 1, 2, 2), ones))
    assert result.curves()["ranks"] == [0, 0, 4, 0, 0]


def test_without_the_same_number_of_samples_for_every_slice_there_is_no_histogram() -> None:
    ones = torch.ones(1, 2, 2)
    for other in (None, torch.ones(5, 1, 2, 2)):
        result = Calibration()
        for samples in (torch.ones(4, 1, 2, 2), other):
            drawn = None if samples is None else ranks_of(samples, ones)
            result.update(ones, ones, ones, torch.ones(1), drawn)
        assert result.curves()["ranks"] is None


def test_the_bins_of_the_ratios_are_those_of_the_factors() -> None:
    error = torch.tensor([0.0, float(FACTORS[0]), float(FACTORS[700]), 2.0, 1e4, 1.0], dtype=torch.float64).numpy()
    std = np.array([0.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    ratio = error_ratio(error, std)
    assert ratio.tolist() == [0, FACTORS[0], FACTORS[700], 2, 1e4, math.inf]
    bins = Calibration()
    bins._parts = [torch.from_numpy(np.stack([error, std, std]))]
    counts = bins.curves()["ratios"]
    assert len(counts) == len(FACTORS) + 1 and sum(counts) == 6
    assert (counts[0], counts[700], counts[-1]) == (2, 1, 2)  # a factor belongs to the bin that it ends
    assert math.isnan(calibration_error(np.zeros(0)))
