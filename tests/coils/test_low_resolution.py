import numpy as np
import pytest
import torch
from torch import Tensor

from spinwarp.coils import low_resolution_maps, with_smooth_phase
from spinwarp.data.simulation import loop_coil_maps
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc


def smooth_scene(shape: tuple[int, int], n_coils: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Fully sampled k-space of a smooth object, the true maps, and where the object is."""
    h, w = shape
    y, x = torch.linspace(-1, 1, h)[:, None], torch.linspace(-1, 1, w)
    radius = (x / 0.8) ** 2 + (y / 0.8) ** 2
    image = torch.polar(torch.exp(-2 * radius**2), x - 0.5 * y)
    maps = torch.from_numpy(loop_coil_maps(n_coils, shape, np.random.RandomState(0)))[None]
    return fftc(image * maps), maps, radius < 1


def only_centre(kspace: Tensor, n: int) -> Tensor:
    first = (kspace.shape[-1] - n + 1) // 2
    kept = torch.zeros_like(kspace)
    kept[..., first : first + n] = kspace[..., first : first + n]
    return kept


def error(estimate: Tensor, truth: Tensor, inside: Tensor) -> float:
    """Largest distance of two unit vectors of sensitivities inside the object, a common phase aside."""
    phase = (truth * estimate.conj()).sum(1).angle()
    aligned = estimate * torch.polar(torch.ones_like(phase), phase)[:, None]
    return float((aligned - truth).abs().square().sum(1).sqrt()[:, inside].max())


@pytest.mark.parametrize("shape", [(64, 64), (65, 48)])
def test_the_maps_approach_the_true_ones_as_the_centre_grows(shape: tuple[int, int]) -> None:
    kspace, truth, inside = smooth_scene(shape)
    errors = [error(low_resolution_maps(kspace, torch.tensor([n])), truth, inside) for n in (8, 12, 16, 24)]
    # measured: .32 .20 .13 .07 for the first shape, at the edge of the object, where the blurred maps are worst
    assert errors == sorted(errors, reverse=True)
    assert errors[-2] < 0.15
    assert errors[-1] < 0.08
    # a flat guess is not as near
    flat = torch.full_like(truth, truth.shape[1] ** -0.5)
    assert error(flat, truth, inside) > 0.3


@pytest.mark.parametrize("n_coils", [2, 5])
def test_the_sum_of_squares_is_one(n_coils: int) -> None:
    kspace, _, _ = smooth_scene((33, 26), n_coils)
    maps = low_resolution_maps(kspace, torch.tensor([10]))
    assert maps.shape == kspace.shape
    assert maps.dtype == torch.complex64
    torch.testing.assert_close(maps.abs().square().sum(1), torch.ones(1, 33, 26), rtol=0, atol=1e-5)


def test_only_the_central_columns_are_used() -> None:
    kspace, _, _ = smooth_scene((33, 26))
    n = torch.tensor([9])
    torch.testing.assert_close(low_resolution_maps(kspace, n), low_resolution_maps(only_centre(kspace, 9), n))


def test_a_batch_with_centres_of_different_widths_equals_its_items() -> None:
    kspace, _, _ = smooth_scene((33, 26))
    both = low_resolution_maps(torch.cat([kspace, 2 * kspace]), torch.tensor([6, 10]))
    torch.testing.assert_close(both[:1], low_resolution_maps(kspace, torch.tensor([6])))
    torch.testing.assert_close(both[1:], low_resolution_maps(kspace, torch.tensor([10])))


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**10])  # powers of two round nothing, so that even air agrees
def test_the_scale_of_the_data_does_not_matter(scale: float) -> None:
    kspace, _, _ = smooth_scene((33, 26))
    n = torch.tensor([8])
    torch.testing.assert_close(low_resolution_maps(scale * kspace, n), low_resolution_maps(kspace, n))


def test_all_zero_data_and_a_centre_wider_than_the_readout_give_finite_maps() -> None:
    assert low_resolution_maps(torch.zeros(1, 3, 12, 20, dtype=torch.complex64), torch.tensor([8])).isfinite().all()
    kspace, _, _ = smooth_scene((6, 40))
    assert low_resolution_maps(kspace, torch.tensor([40])).isfinite().all()


@pytest.mark.parametrize("counts", [[0], [12, 0]])
def test_a_mask_without_calibration_lines_is_refused_with_a_remedy(counts: list[int]) -> None:
    kspace = torch.ones(len(counts), 3, 12, 20, dtype=torch.complex64)
    with pytest.raises(InputError, match=r"this mask leaves it out.* recon\.maps=given .* recon=zero_filled"):
        low_resolution_maps(kspace, torch.tensor(counts))


def test_the_data_are_left_as_they_were() -> None:
    kspace, _, _ = smooth_scene((33, 26))
    before = kspace.clone()
    low_resolution_maps(kspace, torch.tensor([8]))
    assert torch.equal(kspace, before)


def test_maps_with_the_smooth_phase_leave_a_real_image() -> None:
    kspace, truth, inside = smooth_scene((64, 64))
    scene = ifftc(kspace)
    n = torch.tensor([24])
    image = (scene * with_smooth_phase(truth, kspace, n).conj()).sum(1)
    assert float(image.angle()[:, inside].abs().max()) < 0.1  # the phase that 24 columns do not resolve
    assert float((scene * truth.conj()).sum(1).angle()[:, inside].abs().max()) > 0.8  # by itself it has one
    torch.testing.assert_close(image.abs(), (scene * truth.conj()).sum(1).abs())


def test_maps_of_a_scan_of_zeros_keep_their_phase() -> None:
    _, truth, _ = smooth_scene((12, 20))
    assert torch.equal(with_smooth_phase(truth, torch.zeros_like(truth), torch.tensor([8])), truth)
