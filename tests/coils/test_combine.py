import pytest
import torch
from torch import Tensor

from spinwarp.coils import combine, root_sum_of_squares, with_phase_of


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def test_the_root_sum_of_squares_is_over_coils() -> None:
    coils = draw(2, 3, 5, 4)
    expected = sum(coils[:, i].abs() ** 2 for i in range(3)).sqrt()
    torch.testing.assert_close(root_sum_of_squares(coils), expected)


def test_the_gradient_of_the_root_sum_of_squares_is_finite_at_zero() -> None:
    coils = draw(1, 3, 4, 4)
    coils[..., 0, 0] = 0
    coils.requires_grad_()
    root_sum_of_squares(coils).sum().backward()
    assert coils.grad.isfinite().all()
    assert not coils.grad[..., 0, 0].any()


@pytest.mark.parametrize("with_maps", [True, False])
@pytest.mark.parametrize("n_coils", [1, 4])
def test_the_magnitude_of_the_combination_is_the_root_sum_of_squares(n_coils: int, with_maps: bool) -> None:
    coils = draw(2, n_coils, 6, 5)
    image = combine(coils, draw(2, n_coils, 6, 5, seed=1) if with_maps else None)
    assert image.shape == (2, 6, 5)
    assert image.dtype == torch.complex64
    torch.testing.assert_close(image.abs(), root_sum_of_squares(coils))


def test_with_maps_the_phase_is_that_of_the_combination() -> None:
    maps, truth = draw(2, 4, 6, 5, seed=1), draw(2, 6, 5, seed=2)
    maps = maps / root_sum_of_squares(maps)[:, None]
    # 1e-5: a complex64 phase times a magnitude of a few
    torch.testing.assert_close(combine(maps * truth[:, None], maps), truth, rtol=1e-5, atol=1e-5)


def test_without_maps_the_phase_is_that_of_each_item_s_strongest_coil() -> None:
    coils = draw(2, 3, 6, 5)
    coils[0, 2] *= 5
    coils[1, 0] *= 5
    image = combine(coils, None)
    for i, strongest in ((0, 2), (1, 0)):
        torch.testing.assert_close(image[i] / image[i].abs(), coils[i, strongest] / coils[i, strongest].abs())


def test_a_single_coil_without_maps_is_the_image_itself() -> None:
    coils = draw(2, 1, 6, 5)
    assert torch.equal(combine(coils, None), coils[:, 0])


@pytest.mark.parametrize("with_maps", [True, False])
def test_the_gradient_of_the_combination_is_finite_where_nothing_was_received(with_maps: bool) -> None:
    coils = draw(1, 3, 4, 4)
    coils[..., :2, :] = 0
    coils.requires_grad_()
    combine(coils, draw(1, 3, 4, 4, seed=1) if with_maps else None).abs().sum().backward()
    assert coils.grad.isfinite().all()
    assert coils.grad[..., 2:, :].abs().min() > 0


def test_the_gradient_of_the_magnitude_of_the_combination_is_that_of_the_root_sum_of_squares() -> None:
    coils, maps = draw(1, 3, 4, 4).requires_grad_(), draw(1, 3, 4, 4, seed=1).requires_grad_()
    (direct,) = torch.autograd.grad(root_sum_of_squares(coils).square().sum(), coils)
    through = torch.autograd.grad(combine(coils, maps).abs().square().sum(), (coils, maps), allow_unused=True)
    torch.testing.assert_close(through[0], direct, rtol=1e-4, atol=1e-5)
    assert through[1] is None  # the maps have no gradient


def test_the_combination_turns_with_the_phase_of_the_coils_and_so_does_its_gradient() -> None:
    maps = torch.tensor([0.6, 0.8j]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    # the first pixel is one that the maps explain, the second is orthogonal to them
    coils = torch.stack([maps[0, :, 0, 0] * (2 - 1j), torch.tensor([0.8, -0.6j])], -1).view(1, 2, 1, 2)
    angle = torch.zeros(2, requires_grad=True)
    image = combine(coils * torch.polar(torch.ones(2), angle), maps)[0, 0]
    torch.testing.assert_close(image[0].detach(), torch.tensor(2 - 1j))
    (turned,) = torch.autograd.grad(image.imag.sum(), angle, retain_graph=True)
    # of the first, d Im(exp(ia) z) / da = Re z; the second has no phase to speak of
    torch.testing.assert_close(turned, torch.tensor([2.0, 0.0]), rtol=1e-5, atol=1e-5)


def test_with_phase_of_keeps_the_sign_of_a_negative_magnitude() -> None:
    magnitude, reference = torch.tensor([[2.0, -3.0, 0.0]]), torch.tensor([[1j, 2j, 0j]])
    expected = torch.tensor([[2j, -3j, 0j]])
    torch.testing.assert_close(with_phase_of(magnitude, reference), expected, rtol=0, atol=1e-6)
