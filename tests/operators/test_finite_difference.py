"""Differences of neighbours: their adjoint, their norm, their borders."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spinwarp.operators import finite_difference

# double precision: sums of a few numbers of about one round to 1e-16
EXACT = 1e-13
SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


@given(shape=SHAPES, periodic=st.booleans())
def test_the_adjoint_passes_the_dot_test_for_any_size_and_number_of_dimensions(
    shape: tuple[int, ...], periodic: bool
) -> None:
    operator = finite_difference(periodic)
    image, differences = draw(2, *shape), draw(2, len(shape), *shape, seed=1)
    forward, back = operator(image), operator.adjoint(differences)
    assert forward.shape == differences.shape
    assert back.shape == image.shape
    left = torch.vdot(forward.flatten(), differences.flatten())
    right = torch.vdot(image.flatten(), back.flatten())
    assert abs(left - right) < EXACT * (1 + differences.numel())
    torch.testing.assert_close(operator.normal(image), operator.adjoint(forward), rtol=0, atol=EXACT)


@given(shape=SHAPES, periodic=st.booleans())
def test_both_directions_are_linear(shape: tuple[int, ...], periodic: bool) -> None:
    operator, factor = finite_difference(periodic), 2 - 3j
    for apply, size in ((operator, shape), (operator.adjoint, (len(shape), *shape))):
        a, b = draw(2, *size), draw(2, *size, seed=1)
        torch.testing.assert_close(apply(factor * a + b), factor * apply(a) + apply(b), rtol=0, atol=EXACT)


@pytest.mark.parametrize("shape", [(7,), (6, 5), (1, 4), (3, 4, 5)])
def test_the_differences_are_those_of_torch_and_zero_or_around_at_the_end(shape: tuple[int, ...]) -> None:
    image = draw(2, *shape)
    for periodic in (False, True):
        differences = finite_difference(periodic)(image)
        for i in range(len(shape)):
            dim, n = i + 1, shape[i]
            expected = torch.diff(image, dim=dim)
            around = image.narrow(dim, 0, 1) - image.narrow(dim, n - 1, 1)
            last = around if periodic else torch.zeros_like(around)
            torch.testing.assert_close(differences[:, i], torch.cat([expected, last], dim), rtol=0, atol=0)


@pytest.mark.parametrize("periodic", [False, True])
def test_a_constant_has_no_differences_and_a_single_pixel_neither(periodic: bool) -> None:
    constant = torch.full((2, 5, 1, 3), 1 - 2j, dtype=torch.complex128)
    assert not finite_difference(periodic)(constant).any()
    assert not finite_difference(periodic)(draw(3, 1)).any()
    assert not finite_difference(periodic).adjoint(draw(3, 2, 1, 1)).any()


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("shape", [(9,), (8,), (6, 5), (6, 4), (4, 3, 2), (4, 4, 2)])
def test_the_squared_norm_is_at_most_four_per_dimension_and_that_for_periodic_even_sizes(
    shape: tuple[int, ...], periodic: bool
) -> None:
    operator, bound = finite_difference(periodic), 4 * len(shape)
    n = torch.tensor(shape).prod()
    basis = torch.eye(int(n), dtype=torch.complex128).reshape(-1, *shape)
    largest = torch.linalg.matrix_norm(operator(basis).flatten(1), 2) ** 2
    assert largest <= bound + EXACT
    reached = periodic and all(size % 2 == 0 for size in shape)
    assert (largest > bound - EXACT) == reached
    # the same by power iteration, which approaches from below; the square grows slowly where eigenvalues are close
    image = draw(1, *shape)
    for _ in range(200):
        image = operator.normal(image / torch.linalg.vector_norm(image))
    estimate = torch.linalg.vector_norm(image)
    assert 0.99 * largest < estimate <= bound + EXACT


@pytest.mark.parametrize("periodic", [False, True])
def test_gradients_flow_through_both_directions(periodic: bool) -> None:
    operator = finite_difference(periodic)
    assert torch.autograd.gradcheck(operator, draw(2, 3, 1, 4).requires_grad_())
    assert torch.autograd.gradcheck(operator.adjoint, draw(2, 2, 3, 4).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
def test_precision_is_kept_and_the_arguments_are_left_as_they_were(dtype: torch.dtype) -> None:
    image, differences = draw(2, 4, 5), draw(2, 2, 4, 5)
    if not dtype.is_complex:
        image, differences = image.real, differences.real
    image, differences = image.to(dtype), differences.to(dtype)
    before = image.clone(), differences.clone()
    for periodic in (False, True):
        operator = finite_difference(periodic)
        assert operator(image).dtype == operator.adjoint(differences).dtype == dtype
    assert torch.equal(image, before[0])
    assert torch.equal(differences, before[1])
