from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from spinwarp.data.simulation import (
    _loop_field,
    acquire,
    correlated_noise,
    loop_coil_maps,
    measured_coil_maps,
    smooth_field,
    smooth_phase,
)
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc

SHAPE = (48, 40)


@pytest.fixture
def rng() -> np.random.RandomState:
    return np.random.RandomState(7)


@pytest.fixture
def maps_file(tmp_path: Path) -> Path:
    """Twelve smooth complex maps in the layout of the measured file: (h, w, 1, coil), with an image beside them."""
    rng = np.random.RandomState(0)
    fields = [smooth_field((32, 32), 5.0, rng) + 1j * smooth_field((32, 32), 5.0, rng) for _ in range(12)]
    savemat(tmp_path / "maps.mat", {"xGT": fields[0], "S": np.stack(fields, -1)[:, :, None].astype(np.complex64)})
    return tmp_path / "maps.mat"


def test_smooth_field_has_mean_zero_std_one_and_is_smooth(rng: np.random.RandomState) -> None:
    field = smooth_field((64, 64), 6.0, rng)
    assert field.dtype == np.float32
    assert abs(field.mean()) < 1e-5  # float32 sums of 4096 values
    assert abs(field.std() - 1) < 1e-5
    # under a Gaussian of width s, neighbours differ by about 1 / (sqrt(2) s) = 0.12 of the standard deviation
    assert 0.05 < np.diff(field, axis=0).std() < 0.2


def test_smooth_field_of_one_pixel_is_zero_and_not_nan(rng: np.random.RandomState) -> None:
    assert smooth_field((1, 1), 3.0, rng).tolist() == [[0.0]]


@pytest.mark.parametrize(
    "draw",
    [
        lambda r: smooth_field((5, *SHAPE), (1.0, 3.0, 3.0), r),
        lambda r: smooth_phase(SHAPE, r),
        lambda r: loop_coil_maps(4, SHAPE, r),
        lambda r: correlated_noise(4, SHAPE, 1.0, r),
        lambda r: acquire(np.ones(SHAPE, np.float32), np.ones((2, *SHAPE), np.complex64), 0.1, r),
    ],
    ids=["field", "phase", "maps", "noise", "acquire"],
)
def test_the_same_seed_gives_the_same_draw_and_another_gives_another(draw) -> None:
    first, again, other = (draw(np.random.RandomState(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_phase_varies_slowly_and_differs_by_radians_across_the_image() -> None:
    phases = np.stack([smooth_phase((80, 72), np.random.RandomState(i)) for i in range(20)])
    assert np.abs(np.diff(phases, axis=1)).max() < 0.8  # far from pi: a pixel's neighbour is never ambiguous
    spans = np.ptp(phases, axis=(1, 2))
    assert 3 < np.median(spans) < 20


@pytest.mark.parametrize("n_coils", [1, 2, 6, 16])
@pytest.mark.parametrize("shape", [SHAPE, (33, 47)])
def test_loop_maps_have_a_sum_of_squares_of_one_everywhere(n_coils: int, shape: tuple[int, int]) -> None:
    maps = loop_coil_maps(n_coils, shape, np.random.RandomState(n_coils))
    assert maps.shape == (n_coils, *shape)
    assert maps.dtype == np.complex64
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(0), 1, atol=1e-5)  # complex64 rounding


def test_one_coil_sees_everything_alike(rng: np.random.RandomState) -> None:
    np.testing.assert_array_equal(loop_coil_maps(1, SHAPE, rng), np.ones((1, *SHAPE)))


def test_each_loop_sees_its_own_side_best(rng: np.random.RandomState) -> None:
    maps = np.abs(loop_coil_maps(6, (64, 64), rng))
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    inside = x**2 + y**2 < 0.7
    centroids = np.array([[(m * x)[inside].sum(), (m * y)[inside].sum()] / m[inside].sum() for m in maps])
    angles = np.sort(np.arctan2(centroids[:, 1], centroids[:, 0]))
    gaps = np.diff(np.append(angles, angles[0] + 2 * np.pi))
    assert gaps.max() < 2.2  # six even loops are 1.05 rad apart; jitter moves each by some 0.16 rad
    assert (np.hypot(*centroids.T) > 0.05).all()


def test_a_loop_around_the_axis_gives_the_field_of_the_closed_form() -> None:
    # on the axis of a loop of radius a at distance d: B = 2 pi a / (a^2 + d^2)^1.5 per segment length 2 pi a / n
    a, d, n = 0.5, 2.0, 24
    center, first, second = np.array([d, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])
    field = _loop_field(np.zeros(1, np.float32), np.zeros((1, 1), np.float32), center, a, first, second)
    expected = n * a / (a**2 + d**2 + 0.1**2) ** 1.5  # 0.1: the width of the wire; current of one per segment
    np.testing.assert_allclose(field.real, expected, rtol=1e-5)  # along x, the axis
    np.testing.assert_allclose(field.imag, 0, atol=1e-5 * expected)


@pytest.mark.parametrize("n_coils", [1, 8, 12])
def test_measured_maps_are_resampled_compressed_and_normalised(maps_file: Path, n_coils: int) -> None:
    maps = measured_coil_maps(maps_file, n_coils, SHAPE, np.random.RandomState(1))
    assert maps.shape == (n_coils, *SHAPE)
    assert maps.dtype == np.complex64
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(0), 1, atol=1e-5)
    again = measured_coil_maps(str(maps_file), n_coils, SHAPE, np.random.RandomState(1))
    np.testing.assert_array_equal(maps, again)


def test_measured_maps_that_cannot_be_read_are_reported(maps_file: Path, tmp_path: Path) -> None:
    rng = np.random.RandomState(0)
    with pytest.raises(InputError, match="there is no file"):
        measured_coil_maps(tmp_path / "absent.mat", 4, SHAPE, rng)
    (tmp_path / "text.mat").write_text("not MATLAB, and longer than the header of a MATLAB file " * 10)
    with pytest.raises(InputError, match="not a whole MATLAB file"):
        measured_coil_maps(tmp_path / "text.mat", 4, SHAPE, rng)
    savemat(tmp_path / "real.mat", {"image": np.ones((8, 8))})
    with pytest.raises(InputError, match=r"image \(8, 8\).*expected a complex array"):
        measured_coil_maps(tmp_path / "real.mat", 4, SHAPE, rng)
    with pytest.raises(InputError, match="has 12 coils, but n_coils=13; lower n_coils"):
        measured_coil_maps(maps_file, 13, SHAPE, rng)


@pytest.mark.parametrize("n_coils", [1, 2, 8, 32])
def test_noise_has_the_std_asked_for_in_every_coil(n_coils: int) -> None:
    noise = correlated_noise(n_coils, (200, 200), 0.3, np.random.RandomState(n_coils))
    assert noise.shape == (n_coils, 200, 200)
    assert noise.dtype == np.complex64
    power = (np.abs(noise) ** 2).mean((1, 2))
    np.testing.assert_allclose(np.sqrt(power), 0.3, rtol=0.015)  # 40000 samples: 0.25 % standard error, six of them
    np.testing.assert_allclose(noise.real.std((1, 2)), 0.3 / np.sqrt(2), rtol=0.025)


@pytest.mark.parametrize(("n_coils", "correlation"), [(8, 0.16), (16, 0.16), (8, 0.3), (8, 0.0)])
def test_noise_of_two_coils_is_correlated_as_asked(n_coils: int, correlation: float) -> None:
    noise = correlated_noise(n_coils, (40000,), 1.0, np.random.RandomState(5), correlation).reshape(n_coils, -1)
    rho = np.abs(np.corrcoef(noise))[~np.eye(n_coils, dtype=bool)]
    assert abs(rho.mean() - correlation) < 0.01  # the estimate of one pair has an error of 1 / sqrt(40000) = 0.005


def test_noise_is_white_in_kspace(rng: np.random.RandomState) -> None:
    noise = correlated_noise(4, (200, 200), 1.0, rng)
    lagged = np.abs((noise[:, 1:] * noise[:, :-1].conj()).mean((1, 2)))
    assert lagged.max() < 0.03  # six standard errors


def test_a_correlation_that_no_covariance_has_is_refused(rng: np.random.RandomState) -> None:
    with pytest.raises(ValueError, match=r"expected 0 to 0\.4"):
        correlated_noise(4, SHAPE, 1.0, rng, correlation=0.9)


def test_noiseless_acquisition_gives_the_image_back(rng: np.random.RandomState) -> None:
    maps = loop_coil_maps(5, SHAPE, rng)
    image = (rng.rand(3, *SHAPE) * np.exp(1j * smooth_phase(SHAPE, rng))).astype(np.complex64)
    kspace = acquire(image, maps, 0.0, rng)
    assert kspace.shape == (3, 5, *SHAPE)
    assert kspace.dtype == np.complex64
    combined = (maps.conj() * ifftc(torch.from_numpy(kspace)).numpy()).sum(1)
    np.testing.assert_allclose(combined, image, atol=1e-5)  # float32 FFT
    np.testing.assert_allclose(acquire(image[0], maps, 0.0, rng), kspace[0], atol=1e-5)


def test_noise_level_in_the_image_is_that_of_kspace(rng: np.random.RandomState) -> None:
    maps = loop_coil_maps(4, (160, 160), rng)
    kspace = acquire(np.zeros((160, 160), np.float32), maps, 2.0, rng)
    images = ifftc(torch.from_numpy(kspace)).numpy()
    np.testing.assert_allclose(images.std((1, 2)), 2.0, rtol=0.02)  # 25600 samples: 0.3 % standard error
