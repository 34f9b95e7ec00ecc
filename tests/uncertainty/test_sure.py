"""SURE against errors that are known: closed forms, and the true error of synthetic scans under many masks."""

import math
from collections.abc import Callable
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


def scans(n: int, shape: tuple[int, int] = (4, 36), n_coils: int = 1, noise: float = 0.0) -> tuple[Acquisition, Tensor]:
    """One image under ``n`` independent masks, and the complete k-space; the energy falls towards the edges."""
    h, w = shape
    x = (torch.arange(w) - w // 2).abs().clamp_min(1).double()
    kspace = gaussian((1, n_coils, h, w), 1, torch.complex128) / x
    maps = torch.ones(1, n_coils, h, w, dtype=torch.complex128)
    if n_coils > 1:
        maps = torch.from_numpy(loop_coil_maps(n_coils, shape, RandomState(0)))[None].to(torch.complex128)
        kspace = fftc(expand(ifftc(kspace)[:, 0], maps))
    measured = kspace + noise * gaussian((n, n_coils, h, w), 2, torch.complex128)
    mask = torch.stack([MASK(shape, RandomState(i))[0][None] for i in range(n)])
    return Acquisition(measured * mask, mask, maps=maps.expand(n, -1, -1, -1)), kspace if noise else measured


MASK = RandomMask([0.2], [2])
DENSITY = MASK.density((4, 36)).double()


def true_error(image: Tensor, acquisition: Acquisition, complete: Tensor) -> Tensor:
    assert acquisition.maps is not None
    return (fftc(expand(image, acquisition.maps)) - complete).abs().square().sum((1, 2, 3))


def agrees(estimate: Tensor, truth: Tensor) -> bool:
    """Whether the means differ by at most four standard errors of the differences."""
    difference = estimate - truth
    return bool(difference.mean().abs() < 4 * difference.std() / math.sqrt(len(difference)))


def smooth(acquisition: Acquisition) -> Tensor:
    """A linear filter of the compensated image, other for each line."""
    response = torch.linspace(0.2, 0.9, acquisition.kspace.shape[-1]).double()
    return circular_filter(compensated(acquisition, DENSITY), response, (-1,))


def shrunk(acquisition: Acquisition) -> Tensor:
    return soft_threshold(compensated(acquisition, DENSITY), 0.4)


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


@pytest.mark.parametrize("method", [smooth, shrunk])
def test_the_risk_by_lines_is_right_where_that_of_one_white_level_is_not(method: Callable) -> None:
    n = 6000
    acquisition, complete = scans(n)
    truth = true_error(method(acquisition), acquisition, complete.expand(n, -1, -1, -1))
    lines = sure(method, acquisition, DENSITY, n_probes=36)
    p = DENSITY
    tau = acquisition.kspace.abs().square() * (1 - p) / p**2
    level = float(tau.sum((1, 2, 3)).mean() / (4 * 36)) ** 0.5

    def denoise(image: Tensor) -> Tensor:
        if method is shrunk:
            return soft_threshold(image, 0.4)
        return circular_filter(image, torch.linspace(0.2, 0.9, 36).double(), (-1,))

    white = white_sure(denoise, compensated(acquisition, DENSITY), level).sum((1, 2))
    error = (lines.error - truth).std() / math.sqrt(n) / truth.mean()
    assert error < 0.003  # so that 1 % is more than three standard errors
    assert lines.error.mean() / truth.mean() == pytest.approx(1, abs=0.01)
    assert abs(white.mean() / truth.mean() - 1) > 0.1


@pytest.mark.parametrize("n_coils", [1, 3])
def test_deletion_is_right_for_a_method_that_fills_in_missing_lines_and_the_derivative_is_not(n_coils: int) -> None:
    n = 3000
    acquisition, complete = scans(n, n_coils=n_coils)

    def method(data: Acquisition) -> Tensor:
        assert data.maps is not None
        return (torch.stack([filled(replace(data, kspace=data.kspace[:, i : i + 1]))
                             for i in range(n_coils)], 1) * data.maps.conj()).sum(1)  # fmt: skip

    truth = true_error(method(acquisition), acquisition, complete)
    deletion = sure(method, acquisition, DENSITY, n_probes=36).error
    derivative = sure(method, acquisition, DENSITY, probe="derivative", generator=Generator().manual_seed(0)).error
    assert agrees(deletion, truth)
    assert not agrees(derivative, truth)


def test_the_derivative_is_right_for_a_linear_method() -> None:
    acquisition, complete = scans(2000)
    risk = sure(smooth, acquisition, DENSITY, probe="derivative", generator=Generator().manual_seed(0))
    assert agrees(risk.error, true_error(risk.image, acquisition, complete))
    energy = complete[:1].abs().square().sum()
    assert agrees(risk.energy, energy.expand(2000))


def test_with_the_level_of_the_noise_the_truth_is_free_of_noise() -> None:
    acquisition, clean = scans(2000, noise=0.3)
    level = torch.full((2000,), 0.3, dtype=torch.float64)
    generator = Generator().manual_seed(0)
    risk = sure(smooth, acquisition, DENSITY, n_probes=36, noise_std=level, generator=generator)
    assert agrees(risk.error, true_error(risk.image, acquisition, clean))
    assert not agrees(sure(smooth, acquisition, DENSITY, n_probes=36).error, true_error(risk.image, acquisition, clean))
    assert agrees(risk.energy, clean.abs().square().sum().expand(2000))


def test_the_adapted_density_makes_the_estimate_vary_less_and_keeps_its_mean() -> None:
    acquisition, complete = scans(1000)
    truth = true_error(filled(acquisition), acquisition, complete)
    adapted = adapted_density(acquisition, DENSITY)
    assert (adapted[:, DENSITY == 1] == 1).all()
    plain = sure(filled, acquisition, DENSITY, n_probes=36).error - truth
    better = sure(filled, acquisition, adapted, n_probes=36).error - truth
    assert better.std() < 0.7 * plain.std()
    assert abs(better.mean()) < 0.1 * truth.mean()  # a ratio estimate: biased by some of its variance


def test_zero_padding_misses_nothing() -> None:
    acquisition, _ = scans(1)
    inside = torch.zeros(36, dtype=torch.bool)
    inside[4:32] = True
    cut = replace(acquisition, kspace=acquisition.kspace * inside, mask=acquisition.mask & inside)
    told = replace(cut, headers=(Header(acquired_columns=(4, 32)),))
    outer = DENSITY < 1
    assert (adapted_density(told, DENSITY)[:, outer] > adapted_density(cut, DENSITY)[:, outer]).all()


def test_the_map_adds_up_to_the_error_and_is_where_the_image_changes() -> None:
    acquisition, _ = scans(20, shape=(5, 35))
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
    acquisition, _ = scans(3, shape, n_coils=3)
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
    acquisition, complete = scans(40, n_coils=3)
    wrapped = SureRisk(ZeroFilled(), MASK).to("cpu")(acquisition)
    assert torch.equal(wrapped.image, ZeroFilled()(acquisition).image)
    assert wrapped.std is not None
    assert wrapped.std.shape == wrapped.image.shape
    assert (wrapped.std >= 0).all()
    # half the squared error, which is estimated to some 20 % on 40 masks
    claimed = 2 * wrapped.std.square().sum((1, 2)).mean()
    assert float(claimed / true_error(wrapped.image, acquisition, complete).mean()) == pytest.approx(1, abs=0.4)


def test_what_a_method_draws_it_draws_again_so_that_only_the_lines_differ() -> None:
    acquisition, _ = scans(2)
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
        (None, "without a mask"),
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
    acquisition, _ = scans(1)
    with pytest.raises(InputError, match="n_probes is at least 1"):
        SureRisk(ZeroFilled(), MASK, n_probes=0)
    with pytest.raises(InputError, match="at least one probe"):
        sure(filled, acquisition, DENSITY, n_probes=0)
    with pytest.raises(InputError, match="probe='finite' is not one of deletion, derivative"):
        sure(filled, acquisition, DENSITY, probe="finite")
    with pytest.raises(InputError, match="samples points"):
        sure(filled, replace(acquisition, mask=acquisition.mask.expand(-1, -1, 4, -1)), DENSITY)
    with pytest.raises(InputError, match="probability above 0"):
        sure(filled, acquisition, 0 * DENSITY)
    with pytest.raises(InputError, match="measured lines outside the centre"):
        sure(filled, replace(acquisition, mask=(DENSITY == 1).view(1, 1, 1, -1)), DENSITY)


def test_where_everything_is_measured_nothing_is_missing() -> None:
    acquisition, complete = scans(1)
    whole = replace(acquisition, kspace=complete, mask=torch.ones_like(acquisition.mask))
    # a rounding of the sums
    assert float(sure(lambda a: ifftc(a.kspace)[:, 0], whole, torch.ones(36)).nmse) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("width", [36, 145])
def test_the_density_is_how_often_the_random_mask_samples_a_column(width: int) -> None:
    draws = np.stack([MASK((4, width), RandomState(seed))[0][0].numpy() for seed in range(2000)])
    density = MASK.density((4, width)).numpy()
    assert ((density == 1) == draws.all(0)).all()
    # 4.5 standard errors of a share, for the most extreme of some 150 columns
    assert np.abs(draws.mean(0) - density).max() < 4.5 * 0.5 / math.sqrt(2000)
