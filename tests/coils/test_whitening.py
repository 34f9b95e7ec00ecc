from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.coils import border_covariance, noise_covariance, noise_level, whiten
from spinwarp.data.simulation import correlated_noise, loop_coil_maps
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.operators import sense


def noise_of(n_coils: int, shape: tuple[int, ...], std: float = 0.05, seed: int = 0) -> Tensor:
    return torch.from_numpy(correlated_noise(n_coils, shape, std, np.random.RandomState(seed), correlation=0.3))


def acquisition_of(noise: Tensor, batch: int = 1, height: float = 0.8) -> tuple[Acquisition, Tensor]:
    """A fully sampled acquisition of a smooth object with this noise ``(coil, h, w)``, and the object."""
    n_coils, h, w = noise.shape
    y, x = torch.linspace(-1, 1, h)[:, None], torch.linspace(-1, 1, w)
    image = torch.polar(torch.exp(-4 * ((x / 0.7) ** 2 + (y / height) ** 2)), x - y)[None].expand(batch, -1, -1)
    maps = torch.from_numpy(loop_coil_maps(n_coils, (h, w), np.random.RandomState(1)))[None].expand(batch, -1, -1, -1)
    kspace = fftc(image[:, None] * maps) + noise
    return Acquisition(kspace, torch.ones(batch, 1, 1, w, dtype=torch.bool), maps=maps), image


def distance(covariance: Tensor) -> float:
    """Largest distance of an element from the identity."""
    return float((covariance - torch.eye(covariance.shape[-1]).to(covariance)).abs().max())


@pytest.mark.parametrize("n_coils", [1, 4, 12])
def test_the_covariance_of_noise_is_the_mean_of_its_outer_products(n_coils: int) -> None:
    noise = noise_of(n_coils, (2000,))
    expected = torch.from_numpy(np.cov(noise.numpy(), bias=True)).reshape(n_coils, n_coils)
    mean = noise.mean(1, keepdim=True)  # the covariance about zero knows that the mean is zero
    torch.testing.assert_close(noise_covariance(noise), expected.to(noise) + mean @ mean.mH, rtol=1e-4, atol=1e-8)
    batch = torch.stack([noise, 2 * noise]).view(2, n_coils, 50, 40)
    torch.testing.assert_close(noise_covariance(batch)[1], 4 * noise_covariance(noise))


@pytest.mark.parametrize("n_coils", [1, 4, 12])
def test_noise_is_white_and_of_unit_level_after_whitening(n_coils: int) -> None:
    # one realisation of the coils' covariance, measured on one half of the samples and applied to the other
    n = 20000
    scan, fresh = noise_of(n_coils, (2, 100, 200)).unbind(1)
    assert n_coils == 1 or distance(noise_covariance(scan[None])[0] / 0.05**2) > 0.2
    acquisition = Acquisition(fresh[None], torch.ones(1, 1, 1, 200, dtype=torch.bool))
    white = whiten(acquisition, noise_covariance(scan[None]))
    # an element of either covariance has a standard deviation of 1 / sqrt(n), so of both together sqrt(2 / n);
    # five of them are passed once in 10^6
    assert distance(noise_covariance(white.kspace)[0]) < 5 * (2 / n) ** 0.5
    assert torch.equal(white.noise_std, torch.ones(1))
    # measured on the very samples it is applied to, only rounding is left
    itself = whiten(acquisition, noise_covariance(fresh[None]))
    assert distance(noise_covariance(itself.kspace)[0]) < 1e-4


@pytest.mark.parametrize("n_coils", [1, 5])
def test_the_image_stays_the_same(n_coils: int) -> None:
    noise = noise_of(n_coils, (32, 30))
    acquisition, image = acquisition_of(0 * noise)
    white = whiten(acquisition, noise_covariance(noise[None]))
    forward = sense(white)
    torch.testing.assert_close(forward(image), white.kspace, rtol=1e-4, atol=1e-4)
    # everything is sampled: the least squares of each pixel
    weights = white.maps.abs().square().sum(1)
    solution = forward.adjoint(white.kspace) / weights
    torch.testing.assert_close(solution, image, rtol=0, atol=1e-5)


def test_whitening_lowers_the_noise_of_the_combined_image() -> None:
    noise = noise_of(6, (64, 60))
    errors = []
    acquisition, image = acquisition_of(noise)
    for a in (acquisition, whiten(acquisition, noise_covariance(noise[None]))):
        solution = sense(a).adjoint(a.kspace) / a.maps.abs().square().sum(1)
        errors.append(float((solution - image).norm()))
    assert errors[1] < 0.9 * errors[0]  # measured: 0.84


@pytest.mark.parametrize("kind", ["all", "lines", "padded", "ellipse"])
def test_the_corners_of_k_space_tell_the_covariance(kind: str) -> None:
    noise = noise_of(5, (160, 128))
    acquisition, _ = acquisition_of(noise)
    mask = torch.ones(1, 1, 160, 128, dtype=torch.bool)
    if kind == "lines":
        mask = mask[:, :, :1].clone()
        mask[..., ::2] = False
        mask[..., 56:72] = True
    elif kind == "padded":
        mask[..., :20] = mask[..., 108:] = False
    elif kind == "ellipse":
        y, x = torch.linspace(-1, 1, 160)[:, None], torch.linspace(-1, 1, 128)
        mask &= x**2 + y**2 < 1
    covariance = border_covariance(acquisition.kspace * mask, mask)
    n = 0.1 * mask.expand(-1, -1, 160, -1).sum()
    truth = noise_covariance(noise[None])  # of all 20480 samples, so nearly exact
    # relative to the true one: five standard deviations of 1 / sqrt(n), as above
    factor = torch.linalg.inv(torch.linalg.cholesky(truth))
    assert distance(factor @ covariance @ factor.mH) < 5 * float(n) ** -0.5


def test_a_tail_of_the_signal_along_an_axis_does_not_reach_the_corners() -> None:
    noise = noise_of(4, (96, 96))
    acquisition, _ = acquisition_of(noise)
    tail = torch.zeros(96, 96)
    tail[40:56] = 2.0  # twenty times the noise, up to the highest frequency of the other direction
    with_tail = acquisition.kspace + tail
    torch.testing.assert_close(
        border_covariance(with_tail, acquisition.mask), border_covariance(acquisition.kspace, acquisition.mask)
    )


def sharp_scan(n_coils: int, readout: slice, *, std: float = 0.002) -> tuple[Tensor, Tensor]:
    """K-space of a disc with a hard edge, whose signal reaches the corners, and its mask: every third line."""
    y, x = torch.linspace(-1, 1, 96)[:, None], torch.linspace(-1, 1, 80)
    disc = ((y / 0.8) ** 2 + (x / 0.9) ** 2 < 1) + 0j
    maps = torch.from_numpy(loop_coil_maps(n_coils, (96, 80), np.random.RandomState(1)))
    kspace = torch.zeros(1, n_coils, 96, 80, dtype=torch.complex64)
    kspace[0, :, readout] = (fftc(disc * maps) + noise_of(n_coils, (96, 80), std))[:, readout]
    mask = torch.zeros(1, 1, 1, 80, dtype=torch.bool)
    mask[..., ::3] = mask[..., 34:46] = True
    return kspace * mask, mask


@pytest.mark.parametrize("n_coils", [1, 6])
@pytest.mark.parametrize("readout", [slice(0, 96), slice(21, 96)])
def test_rows_of_air_tell_the_noise_where_the_signal_reaches_the_corners(n_coils: int, readout: slice) -> None:
    kspace, mask = sharp_scan(n_coils, readout)
    corner = kspace[0, :, 91:, -5:][..., mask[0, 0, 0, -5:]]
    assert float(corner.abs().square().mean().sqrt()) > 2 * 0.002  # the corners are no noise
    # 34 lines: blocks of 8 rows of 272 samples, of which the Hann window leaves two thirds independent, so one standard
    # deviation is 3.7 %; the least of the few blocks in the air may be two below
    assert float(noise_level(kspace, mask)) == pytest.approx(0.002, rel=0.1)


def test_air_that_was_set_to_zero_is_no_noise() -> None:
    noise = noise_of(2, (96, 80), 0.05)
    noise_image = ifftc(noise)
    noise_image[:, :12] = noise_image[:, -12:] = 0
    kspace, mask = fftc(noise_image)[None], torch.ones(1, 1, 1, 80, dtype=torch.bool)
    # three quarters of the rows are left, and so is three quarters of the power of each sample
    assert float(noise_level(kspace, mask)) == pytest.approx(0.05 * 0.75**0.5, rel=0.05)


def test_a_point_mask_has_no_lines_so_the_corners_count() -> None:
    kspace, _ = sharp_scan(3, slice(0, 96), std=0.3)
    points = torch.from_numpy(np.random.RandomState(0).uniform(size=(1, 1, 96, 80)) < 0.5)
    points[..., 40:56, 32:48] = True
    kspace = (kspace + noise_of(3, (96, 80), 0.3, seed=3)) * points
    outside = noise_level(kspace, points)
    frequency = torch.minimum((torch.arange(96) - 48).abs()[:, None] / 48, (torch.arange(80) - 40).abs() / 40)
    chosen = kspace[0][:, points[0, 0] & (frequency > 0.7)]
    assert float(outside) == pytest.approx(float(chosen.abs().square().mean().sqrt()), rel=0.05)


def test_each_item_has_a_covariance_of_its_own() -> None:
    acquisition, _ = acquisition_of(noise_of(4, (40, 48)), batch=2)
    kspace = acquisition.kspace * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    both = replace(acquisition, kspace=kspace)
    covariance = border_covariance(kspace, acquisition.mask)
    torch.testing.assert_close(covariance[1], 9 * covariance[0])
    white = whiten(both, covariance)
    # a louder item is quieter by as much after whitening
    torch.testing.assert_close(white.kspace[1], white.kspace[0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(3 * white.maps[1], white.maps[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(white.noise_std, torch.ones(2))


def test_the_acquisition_is_left_as_it_was_and_its_mask_is_kept() -> None:
    acquisition, _ = acquisition_of(noise_of(4, (40, 48)))
    mask = acquisition.mask.clone()
    mask[..., 5:9] = False
    acquisition = replace(acquisition, kspace=acquisition.kspace * mask, mask=mask, n_acs=torch.tensor([8]))
    before = acquisition.kspace.clone(), acquisition.maps.clone()
    white = whiten(acquisition, border_covariance(acquisition.kspace, mask))
    assert torch.equal(acquisition.kspace, before[0])
    assert torch.equal(acquisition.maps, before[1])
    assert acquisition.noise_std is None
    assert torch.equal(white.mask, mask)
    assert torch.equal(white.n_acs, acquisition.n_acs)
    assert not white.kspace[..., 5:9].any()
    assert whiten(replace(acquisition, maps=None), torch.eye(4).to(white.kspace)).maps is None


def test_too_few_samples_of_noise_are_refused() -> None:
    with pytest.raises(InputError, match="39 samples of noise are too few for 4 coils; give at least 40"):
        noise_covariance(noise_of(4, (39,)))
    acquisition, _ = acquisition_of(noise_of(4, (12, 14)))
    with pytest.raises(InputError, match=r"\d+ samples of noise are too few"):
        border_covariance(acquisition.kspace, acquisition.mask)
    with pytest.raises(InputError, match="0 samples of noise are too few"):
        border_covariance(acquisition.kspace, ~acquisition.mask)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5])
def test_a_share_of_the_samples_that_cannot_be_is_refused(fraction: float) -> None:
    acquisition, _ = acquisition_of(noise_of(4, (18, 20)))
    with pytest.raises(InputError, match="above 0 and at most 1"):
        border_covariance(acquisition.kspace, acquisition.mask, fraction)


def test_noise_and_covariances_that_are_not_finite_are_refused() -> None:
    noise = noise_of(4, (100,))
    acquisition, _ = acquisition_of(noise_of(4, (18, 20)))
    noise[1, 3] = torch.nan
    with pytest.raises(InputError, match="not finite; repair"):
        noise_covariance(noise)
    with pytest.raises(InputError, match="not finite; estimate"):
        whiten(acquisition, noise @ noise.mH)


def test_a_silent_coil_and_a_combination_of_others_are_refused() -> None:
    acquisition, _ = acquisition_of(noise_of(4, (18, 20)))
    noise = noise_of(4, (1000,))
    silent, copied = noise.clone(), noise.clone()
    silent[2] = 0
    copied[3] = copied[0] - 1j * copied[1]
    for samples in (silent, copied):
        with pytest.raises(InputError, match="singular: a coil is silent or a combination of others"):
            whiten(acquisition, noise_covariance(samples))
    # gains that differ by orders of magnitude are no fault
    uneven = noise * torch.tensor([1.0, 1e-4, 1e4, 1.0])[:, None]
    assert whiten(acquisition, noise_covariance(uneven)).kspace.isfinite().all()


def test_a_covariance_of_another_array_is_refused() -> None:
    acquisition, _ = acquisition_of(noise_of(4, (18, 20)))
    for shape in ((3, 3), (2, 4, 4)):
        with pytest.raises(InputError, match="does not fit 1 items of 4 coils"):
            whiten(acquisition, torch.eye(shape[-1]).to(torch.complex64).expand(shape))
