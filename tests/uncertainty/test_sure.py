"""SURE against errors that are known: closed forms, and the true error of synthetic scans under many masks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from torch import Generator, Tensor

from spinwarp.acquisition import Acquisition, Header, Reconstruction, item_acquisition
from spinwarp.data.simulation import loop_coil_maps
from spinwarp.errors import InputError
from spinwarp.fourier import circular_filter, fftc, ifftc
from spinwarp.masks import EquispacedMask, GaussianLineMask, MagicMask, Mask, PoissonDiscMask, RandomMask
from spinwarp.operators.sense import expand
from spinwarp.recon import Reconstructor, ZeroFilled
from spinwarp.recon.sure_risk import SureRisk
from spinwarp.solvers import soft_threshold
from spinwarp.uncertainty import adapted_density, compensated, sure, white_sure

N = 100_000


def gaussian(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=Generator().manual_seed(seed))


MASK = RandomMask([0.2], [2])
# of 14 columns the middle four are always sampled, so that all 1024 masks can be gone through
OUTER = torch.tensor([i < 5 or i > 8 for i in range(14)])
DENSITY = torch.where(OUTER, torch.linspace(0.3, 0.7, 14), 1.0).double()
MASKS = torch.ones(1024, 14, dtype=torch.bool)
MASKS[:, OUTER] = torch.cartesian_prod(*[torch.tensor([False, True])] * 10)
CHANCES = torch.where(MASKS, DENSITY, 1 - DENSITY).prod(1)


def expected(values: Tensor) -> float:
    """The mean over all masks, free of chance."""
    return float((CHANCES * values).sum())


def scans(masks: Tensor = MASKS, n_coils: int = 1, noise: float = 0.0, n_rows: int = 3) -> tuple[Acquisition, Tensor]:
    """One image under ``(n, w)`` masks, whose noise differs from one to another, and its complete k-space."""
    n, w = masks.shape
    shape = (n_rows, w)
    distance = (torch.arange(w) - w // 2).abs()
    # the energy falls towards the edges, and a narrow object makes neighbouring lines tell of one another
    image = ifftc(gaussian((1, 1, *shape), 1, torch.complex128) / distance.clamp_min(1)) * (distance < 0.3 * w)
    maps = torch.ones(1, n_coils, *shape, dtype=torch.complex128)
    if n_coils > 1:
        maps = torch.from_numpy(loop_coil_maps(n_coils, shape, RandomState(0)))[None].to(torch.complex128)
        maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()  # their sum of squares is one to float32 only
    kspace = fftc(expand(image[:, 0], maps))
    measured = kspace + noise * gaussian((n, n_coils, *shape), 2, torch.complex128)
    mask = masks.view(n, 1, 1, w)
    return Acquisition(measured * mask, mask, maps=maps.expand(n, -1, -1, -1)), kspace


def drawn(n: int, shape: tuple[int, int]) -> Tensor:
    return torch.cat([MASK(shape, RandomState(i))[0] for i in range(n)])


def true_error(image: Tensor, acquisition: Acquisition, complete: Tensor) -> Tensor:
    assert acquisition.maps is not None
    return (fftc(expand(image, acquisition.maps)) - complete).abs().square().sum((1, 2, 3))


def smooth(acquisition: Acquisition) -> Tensor:
    """A filter of the compensated image that takes the outer lines away."""
    return low_pass(compensated(acquisition, DENSITY))


def low_pass(image: Tensor) -> Tensor:
    return circular_filter(image, torch.where((torch.arange(14) - 7).abs() < 5, 0.9, 0.1).double(), (-1,))


def shrunk(acquisition: Acquisition) -> Tensor:
    return soft_threshold(compensated(acquisition, DENSITY), 0.2)


def filled(acquisition: Acquisition) -> Tensor:
    """Keeps measured lines and puts the mean of the neighbours where one is missing: aware of the mask."""
    k = ifftc(acquisition.kspace, (-2,))
    neighbours = (k.roll(1, -1) + k.roll(-1, -1)) / 2 + 0.5 * k.mean((1, 2), keepdim=True)
    return ifftc(torch.where(acquisition.mask, k, neighbours), (-1,))[:, 0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_risk_of_a_linear_shrinkage_is_that_of_the_closed_form(dtype: torch.dtype) -> None:
    a, s = 0.7, 0.5
    x = gaussian((1, 1, N), 0, dtype)
    noisy = x + s * gaussian(x.shape, 1, dtype)
    expected = (1 - a) ** 2 * float(x.abs().square().mean()) + a**2 * s**2
    # a pixel's estimate is a quadratic of unit numbers, its deviation below 1: four standard errors
    assert float(white_sure(lambda y: a * y, noisy, s).mean()) == pytest.approx(expected, abs=4 / math.sqrt(N))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_risk_of_a_soft_threshold_is_that_of_the_closed_form(dtype: torch.dtype) -> None:
    s, t = 0.5, 0.6
    x = torch.zeros(1, 1, N, dtype=dtype)  # where nothing is, the risk is the energy above the threshold
    noisy = s * gaussian(x.shape, 1, dtype)
    if dtype.is_complex:  # |n| is of Rayleigh, E max(|n| - t, 0)^2 = 2 int_t^inf (r - t) exp(-r^2 / s^2) dr
        expected = s**2 * math.exp(-(t**2) / s**2) - t * s * math.sqrt(math.pi) * math.erfc(t / s)
    else:
        tail = math.erfc(t / s / math.sqrt(2)) / 2
        expected = 2 * ((s**2 + t**2) * tail - s * t * math.exp(-(t**2) / s**2 / 2) / math.sqrt(2 * math.pi))
    found = white_sure(lambda y: soft_threshold(y, t), noisy, s).mean()
    assert float(found) == pytest.approx(expected, abs=4 / math.sqrt(N))


def test_one_rademacher_probe_is_exact_for_a_diagonal_jacobian() -> None:
    gain, noisy = gaussian((1, 8, 9), 0), gaussian((1, 8, 9), 1)
    exact = ((gain - 1) * noisy).square() + 0.3**2 * (2 * gain - 1)
    # doubles over a step of 1e-2 of the noise
    assert torch.allclose(white_sure(lambda y: gain * y, noisy, 0.3), exact, rtol=0, atol=1e-12)


# What follows is a sum over all masks, exact but for doubles over the step of a derivative.
EXACT = 1e-9


def test_the_risk_by_lines_is_right_where_that_of_one_white_level_is_not() -> None:
    acquisition, complete = scans()
    # one probe is exact for a filter
    risk = sure(smooth, acquisition, DENSITY, probe="derivative", n_probes=1)
    truth = expected(true_error(risk.image, acquisition, complete))
    assert expected(risk.error) == pytest.approx(truth, rel=EXACT)
    assert expected(risk.energy) == pytest.approx(float(complete.abs().square().sum()), rel=EXACT)
    tau = acquisition.kspace.abs().square() * (1 - DENSITY) / DENSITY**2
    level = (expected(tau.sum((1, 2, 3))) / (3 * 14)) ** 0.5
    white = white_sure(low_pass, compensated(acquisition, DENSITY), level, generator=Generator().manual_seed(0))
    assert abs(expected(white.sum((1, 2))) / truth - 1) > 0.1


def test_deletion_is_right_for_a_soft_threshold() -> None:
    acquisition, complete = scans()
    risk = sure(shrunk, acquisition, DENSITY, n_probes=10)
    assert expected(risk.error) == pytest.approx(expected(true_error(risk.image, acquisition, complete)), rel=EXACT)


@pytest.mark.parametrize("n_coils", [1, 3])
def test_deletion_is_right_for_a_method_that_fills_in_missing_lines_and_the_derivative_is_not(n_coils: int) -> None:
    acquisition, complete = scans(n_coils=n_coils)

    def method(data: Acquisition) -> Tensor:
        assert data.maps is not None
        coils = [filled(replace(data, kspace=data.kspace[:, i : i + 1])) for i in range(n_coils)]
        return (torch.stack(coils, 1) * data.maps.conj()).sum(1)

    truth = expected(true_error(method(acquisition), acquisition, complete))
    deletion = sure(method, acquisition, DENSITY, n_probes=10).error
    assert expected(deletion) == pytest.approx(truth, rel=EXACT)
    # each of the ten signs of the one probe is tried on 1024 masks, and more probes change this by some percent only
    derivative = sure(method, acquisition, DENSITY, probe="derivative", generator=Generator().manual_seed(0)).error
    assert abs(expected(derivative) / truth - 1) > 0.1
    # groups of several lines miss one another
    assert expected(sure(method, acquisition, DENSITY, n_probes=5).error) == pytest.approx(truth, rel=0.3)


def test_with_the_level_of_the_noise_the_truth_is_free_of_noise() -> None:
    s = 0.5
    acquisition, clean = scans(noise=s)
    level = torch.full((1024,), s, dtype=torch.float64)
    generator = Generator().manual_seed(0)
    aware = sure(smooth, acquisition, DENSITY, n_probes=10, noise_std=level, generator=generator)
    unaware = sure(smooth, acquisition, DENSITY, n_probes=10)
    truth = true_error(aware.image, acquisition, clean)

    def right(estimate: Tensor, exact: Tensor) -> bool:
        """Within four standard errors of the weighted mean: the noise remains a matter of chance."""
        difference = estimate - exact
        return abs(expected(difference)) < 4 * float((CHANCES * difference).square().sum().sqrt())

    energy = clean.abs().square().sum().expand(1024)
    assert right(aware.error, truth)
    assert right(aware.energy, energy)
    assert not right(unaware.error, truth)
    assert not right(unaware.energy, energy)


def test_the_adapted_density_makes_the_estimate_vary_less_and_keeps_its_mean() -> None:
    acquisition, complete = scans(drawn(400, (3, 72)))
    density = MASK.density((3, 72)).double()
    adapted = adapted_density(acquisition, density)
    assert (adapted[:, density == 1] == 1).all()

    def error(weights: Tensor) -> Tensor:
        risk = sure(lambda a: ifftc(a.kspace)[:, 0], acquisition, weights, n_probes=36)
        return risk.error - true_error(risk.image, acquisition, complete)

    truth = true_error(ifftc(acquisition.kspace)[:, 0], acquisition, complete).mean()
    assert error(adapted).std() < 0.7 * error(density).std()
    assert abs(error(adapted).mean()) < 0.1 * truth  # a ratio estimate: biased by some of its variance


def test_zero_padding_misses_nothing() -> None:
    inside = torch.zeros(36, dtype=torch.bool)
    inside[4:32] = True
    acquisition, _ = scans(drawn(1, (3, 36)) & inside)
    density = MASK.density((3, 36))
    cropped = replace(acquisition, headers=(Header(acquired_columns=(4, 32)),))
    outer = density < 1
    assert (adapted_density(cropped, density)[:, outer] > adapted_density(acquisition, density)[:, outer]).all()


def test_the_map_adds_up_to_the_error_and_is_where_the_image_changes() -> None:
    acquisition, _ = scans(drawn(20, (5, 35)), n_rows=5)
    density = MASK.density((5, 35)).double()

    def half(data: Acquisition) -> Tensor:
        image = filled(data)
        image[:, :2] = 0
        return image

    risk = sure(half, acquisition, density)
    assert torch.allclose(risk.map.sum((1, 2)), risk.error.clamp_min(0))
    assert (risk.map[:, :2] == 0).all()
    assert (risk.map >= 0).all()
    still = sure(lambda data: torch.ones_like(data.kspace[:, 0]), acquisition, density)
    assert torch.allclose(still.map, still.map[:, :1, :1].expand_as(still.map))  # nothing changes anywhere


@pytest.mark.parametrize("shape", [(4, 36), (5, 35)])
def test_a_batch_equals_its_items_and_equal_generators_agree(shape: tuple[int, int]) -> None:
    acquisition, _ = scans(drawn(3, shape), n_coils=3, n_rows=shape[0])
    density = MASK.density(shape)
    zero_filled = ZeroFilled()

    def run(data: Acquisition, probe: str) -> Tensor:
        adapted = adapted_density(data, density)
        result = sure(lambda a: zero_filled(a).image, data, adapted, probe=probe, generator=Generator().manual_seed(3))
        return result.error

    for probe in ("deletion", "derivative"):
        batch = run(acquisition, probe)
        assert torch.equal(run(acquisition, probe), batch)
        for i in range(3):  # sums in another order
            assert torch.allclose(run(item_acquisition(acquisition, i), probe), batch[i : i + 1], rtol=1e-5)


class Dithered(Reconstructor):
    """Zero-filled, with noise from the generator."""

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        image = ZeroFilled()(acquisition).image
        return Reconstruction(image + torch.randn(image.shape, generator=generator))


def test_the_wrapped_method_keeps_its_image_and_gets_a_deviation() -> None:
    acquisition, complete = scans(drawn(40, (4, 36)), n_coils=3, n_rows=4)
    wrapped = SureRisk(ZeroFilled(), MASK).to("cpu")(acquisition)
    assert torch.equal(wrapped.image, ZeroFilled()(acquisition).image)
    assert wrapped.std is not None
    assert wrapped.std.shape == wrapped.image.shape
    assert (wrapped.std >= 0).all()
    # half the squared error, which is estimated to some 20 % on 40 masks
    predicted = 2 * wrapped.std.square().sum((1, 2)).mean()
    assert float(predicted / true_error(wrapped.image, acquisition, complete).mean()) == pytest.approx(1, abs=0.4)


def test_what_a_method_draws_it_draws_again_so_that_only_the_lines_differ() -> None:
    acquisition, _ = scans(drawn(2, (4, 36)), n_rows=4)
    plain = SureRisk(ZeroFilled(), MASK)(acquisition)
    dithered = SureRisk(Dithered(), MASK)(acquisition, generator=Generator().manual_seed(0))
    assert torch.equal(dithered.image, Dithered()(acquisition, generator=Generator().manual_seed(0)).image)
    assert plain.std is not None
    assert dithered.std is not None
    # fresh noise in each run would change every pixel alike; the change for want of lines stays where it was
    relative = [std / std.mean((1, 2), keepdim=True) for std in (plain.std, dithered.std)]
    assert torch.allclose(*relative, rtol=1e-3)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (None, "there is no mask"),
        (EquispacedMask([0.08], [4]), "EquispacedMask"),
        (MagicMask([0.08], [4]), "MagicMask"),
        (GaussianLineMask([0.08], [4]), "GaussianLineMask"),
        (PoissonDiscMask([0.08], [4]), "PoissonDiscMask"),
        (RandomMask([0.08, 0.04], [4, 8]), "mix"),
    ],
)
def test_masks_that_are_no_independent_draws_are_refused(mask: Mask | None, reason: str) -> None:
    with pytest.raises(InputError, match=rf"{reason}.*mask=random_4x"):
        SureRisk(ZeroFilled(), mask)


def test_what_cannot_be_estimated_is_refused() -> None:
    acquisition, _ = scans(MASKS[-1:])
    with pytest.raises(InputError, match="n_probes is at least 1"):
        SureRisk(ZeroFilled(), MASK, n_probes=0)
    with pytest.raises(InputError, match="at least one probe"):
        sure(filled, acquisition, DENSITY, n_probes=0)
    with pytest.raises(InputError, match="probe='finite' is not one of deletion, derivative"):
        sure(filled, acquisition, DENSITY, probe="finite")
    with pytest.raises(InputError, match="points were sampled or rows are missing"):
        sure(filled, replace(acquisition, mask=acquisition.mask.expand(-1, -1, 3, -1)), DENSITY)
    with pytest.raises(InputError, match="probability above 0"):
        sure(filled, acquisition, 0 * DENSITY)


def test_where_everything_is_measured_nothing_is_missing() -> None:
    acquisition, complete = scans(MASKS[-1:])
    whole = replace(acquisition, kspace=complete, mask=torch.ones_like(acquisition.mask))
    # a rounding of the sums
    assert float(sure(lambda a: ifftc(a.kspace)[:, 0], whole, torch.ones(14)).nmse) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("width", [36, 145])
def test_the_density_is_how_often_the_random_mask_samples_a_column(width: int) -> None:
    draws = np.stack([MASK((4, width), RandomState(seed))[0][0].numpy() for seed in range(2000)])
    density = MASK.density((4, width)).numpy()
    assert ((density == 1) == draws.all(0)).all()
    # 4.5 standard errors of a fraction, for the most extreme of some 150 columns
    assert np.abs(draws.mean(0) - density).max() < 4.5 * 0.5 / math.sqrt(2000)
