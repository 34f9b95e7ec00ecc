"""Soft thresholds and balls: closed forms, phases, and gradients where magnitudes vanish."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spinwarp.solvers import project_ball, soft_threshold


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


@given(magnitude=st.floats(0, 1e3), phase=st.floats(-3.14, 3.14), threshold=st.floats(0, 1e3))
def test_a_soft_threshold_shrinks_the_magnitude_and_keeps_the_phase(
    magnitude: float, phase: float, threshold: float
) -> None:
    x = torch.polar(torch.tensor([magnitude], dtype=torch.float64), torch.tensor([phase], dtype=torch.float64))
    shrunk, projected = soft_threshold(x, threshold), project_ball(x, threshold)
    direction = torch.polar(torch.ones(1, dtype=torch.float64), torch.tensor([phase], dtype=torch.float64))
    # rounding of numbers up to a thousand
    torch.testing.assert_close(shrunk, max(magnitude - threshold, 0) * direction, rtol=0, atol=1e-12)
    torch.testing.assert_close(projected, min(magnitude, threshold) * direction, rtol=0, atol=1e-12)
    torch.testing.assert_close(shrunk + projected, x, rtol=0, atol=1e-12)  # Moreau's decomposition


def test_what_lies_below_the_threshold_is_zero_to_the_bit() -> None:
    x = draw(1000)
    assert (soft_threshold(x, 1.0) == 0).eq(x.abs() <= 1.0).all()
    assert not soft_threshold(torch.zeros(3), 0.5).any()
    assert not project_ball(x, 0.0).any()
    assert torch.equal(soft_threshold(x, 0.0), x)


def test_real_numbers_are_shrunk_towards_zero_from_either_side() -> None:
    x = torch.tensor([-3.0, -1.0, -0.2, 0.0, 0.2, 1.0, 3.0])
    expected = torch.tensor([-2.5, -0.5, 0.0, 0.0, 0.0, 0.5, 2.5])
    torch.testing.assert_close(soft_threshold(x, 0.5), expected)
    torch.testing.assert_close(project_ball(x, 0.5), x.clamp(-0.5, 0.5))


def test_along_a_dimension_the_length_of_the_vector_is_shrunk() -> None:
    x = draw(2, 3, 4)
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    torch.testing.assert_close(soft_threshold(x, 1.5, dim=1), x / length * (length - 1.5).clamp_min(0))
    torch.testing.assert_close(project_ball(x, 1.5, dim=1), x / length * length.clamp_max(1.5))


def test_thresholds_may_differ_from_item_to_item() -> None:
    x, thresholds = draw(3, 4, 5), torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    for function in (soft_threshold, project_ball):
        batch = function(x, thresholds.view(-1, 1, 1))
        for i, threshold in enumerate(thresholds.tolist()):
            torch.testing.assert_close(batch[i], function(x[i], threshold), rtol=0, atol=0)


@given(threshold=st.floats(0.01, 3), seed=st.integers(0, 1000))
def test_a_soft_threshold_minimises_what_it_is_the_proximal_map_of(threshold: float, seed: int) -> None:
    v = draw(2, 5, seed=seed)

    def objective(x: Tensor, dim: int | None) -> Tensor:
        size = x.abs().sum() if dim is None else torch.linalg.vector_norm(x, dim=dim).sum()
        return (x - v).abs().square().sum() / 2 + threshold * size

    for dim in (None, 0):
        x = soft_threshold(v, threshold, dim)
        for scale in (1e-3, 1e-1):
            assert objective(x, dim) <= objective(x + scale * draw(2, 5, seed=seed + 1), dim)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("dim", [None, 1])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_gradients_are_finite_where_magnitudes_are_zero_or_tiny_or_at_the_threshold(
    dtype: torch.dtype, dim: int | None, threshold: float
) -> None:
    sizes = [0.0, 1e-45, 1e-38, 1e-30, 1e-20, 1e-10, threshold, 1.0]
    for function in (soft_threshold, project_ball):
        x = torch.tensor(sizes)[:, None].expand(-1, 3).to(dtype).clone().requires_grad_()
        limit = torch.tensor(threshold, requires_grad=True)
        result = function(x, limit, dim)
        assert result.isfinite().all()
        result.abs().sum().backward()
        assert x.grad.isfinite().all()
        assert limit.grad.isfinite()


@pytest.mark.parametrize("dim", [None, 1])
def test_gradients_are_those_of_finite_differences(dim: int | None) -> None:
    x, threshold = draw(2, 3, 4).requires_grad_(), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    for function in (soft_threshold, project_ball):
        assert torch.autograd.gradcheck(lambda x, t, f=function: f(x, t, dim), (x, threshold))
