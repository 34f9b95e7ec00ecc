"""Conjugate gradients: the solution, its batches, its gradients, and what singular systems must not do."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from spinwarp.operators import sense
from spinwarp.solvers import conjugate_gradient

EPS = torch.finfo(torch.float64).eps


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.complex128) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def with_spectrum(values: list[float], batch: int = 1) -> Tensor:
    """Hermitian matrices ``(batch, n, n)`` with these eigenvalues and random eigenvectors."""
    vectors = torch.linalg.qr(draw(batch, len(values), len(values), seed=7)).Q
    return (vectors * torch.tensor(values, dtype=torch.float64)) @ vectors.mH


def apply(matrices: Tensor):
    """Multiply each item of a batch by its matrix."""
    return lambda x: (matrices @ x[..., None])[..., 0]


def norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))


def test_the_solution_is_that_of_a_direct_solver() -> None:
    matrices, rhs = with_spectrum([0.1, 0.3, 1, 2, 5, 9, 9.5, 10], batch=3), draw(3, 8)
    x = conjugate_gradient(apply(matrices), rhs, iterations=40)
    # a condition of 100 times the rounding at which it stops
    torch.testing.assert_close(x, torch.linalg.solve(matrices, rhs), rtol=0, atol=1e4 * EPS * norm(rhs))


def test_images_of_any_shape_are_solved_for() -> None:
    weights = 0.5 + torch.rand(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rhs = draw(2, 3, 4, 5, dtype=torch.float64)
    x = conjugate_gradient(lambda x: weights * x, rhs, iterations=60)
    torch.testing.assert_close(x, rhs / weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize("values", [[3.0], [1.0, 4.0], [0.5, 2.0, 7.0], [0.1, 1.0, 2.0, 5.0]])
def test_as_many_steps_suffice_as_there_are_different_eigenvalues(values: list[float]) -> None:
    matrices, rhs = with_spectrum(values * 5), draw(1, 5 * len(values))
    exact = torch.linalg.solve(matrices, rhs)
    assert norm(conjugate_gradient(apply(matrices), rhs, iterations=len(values)) - exact) < 1e-11 * norm(exact)
    if len(values) > 1:
        assert norm(conjugate_gradient(apply(matrices), rhs, iterations=len(values) - 1) - exact) > 1e-3 * norm(exact)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(10, 20), (30, 50), (1, 12)])
def test_a_singular_system_stays_at_its_smallest_solution_however_long_it_runs(
    rows: int, columns: int, dtype: torch.dtype
) -> None:
    """Fewer data than unknowns: nothing moves the part of x that is not seen, and rounding must not either."""
    a, y = draw(rows, columns, dtype=dtype), draw(2, rows, seed=1, dtype=dtype)
    gram, rhs = a.mH @ a, y @ a.conj()
    x = conjugate_gradient(lambda x: x @ gram.T, rhs, iterations=1000)
    smallest = y @ torch.linalg.pinv(a).T
    # the residual reaches rounding, 10 eps, and the solution that times the condition, below 32 squared
    assert norm(x - smallest) < 1e4 * torch.finfo(dtype).eps * norm(smallest)


@pytest.mark.parametrize(("rows", "columns", "unseen"), [(10, 20, "right side"), (1, 12, "start")])
def test_a_large_part_that_the_system_does_not_see_is_not_followed_without_bound(
    rows: int, columns: int, unseen: str
) -> None:
    a, x0 = draw(rows, columns, dtype=torch.complex64), draw(2, columns, dtype=torch.complex64)
    gram, rhs = a.mH @ a, draw(2, rows, seed=1, dtype=torch.complex64) @ a.conj()
    if unseen == "right side":
        rhs, start = rhs + (x0 - x0 @ (torch.linalg.pinv(a) @ a).T), None
    else:
        start = x0
    worst = []
    conjugate_gradient(
        lambda x: x @ gram.T, rhs, start, iterations=1000, trace=lambda _, x: worst.append(norm(x @ gram.T - rhs))
    )
    # a curvature of rounding, 1e-6 of the largest, bounds the last step to 1e6, and its rounding to a thousand or so
    assert max(worst) < 1e4 * norm(rhs)
    assert torch.tensor(worst).isfinite().all()


def test_one_undersampled_coil_does_not_diverge(make_acquisition) -> None:
    """A^H A is a projection there: solved after one step, and singular."""
    acquisition = make_acquisition(n_coils=1, maps=False)
    operator = sense(acquisition)
    rhs = operator.adjoint(acquisition.kspace)
    worst = []
    conjugate_gradient(
        operator.normal, rhs, iterations=1000, trace=lambda _, x: worst.append(norm(operator.normal(x) - rhs))
    )
    assert max(worst) < 1e-5 * norm(rhs)  # float32


def test_a_right_hand_side_of_zeros_gives_zeros_and_a_finite_gradient() -> None:
    matrices = with_spectrum([1, 2, 3], batch=2).requires_grad_()
    rhs = draw(2, 3)
    rhs[0] = 0
    rhs.requires_grad_()
    x = conjugate_gradient(apply(matrices), rhs, iterations=10)
    assert not x[0].any()
    x.abs().square().sum().backward()
    assert rhs.grad.isfinite().all()
    assert matrices.grad.isfinite().all()
    assert not rhs.grad[0].any()


def test_an_item_that_is_solved_stays_to_the_bit_while_others_move() -> None:
    x0 = draw(2, 5)
    rhs = torch.stack([2 * x0[0], draw(5, seed=1)])
    scale = torch.tensor([[2, 2, 2, 2, 2], [1, 2, 3, 4, 5]], dtype=torch.float64)
    x = conjugate_gradient(lambda x: scale * x, rhs, x0, iterations=50)
    assert torch.equal(x[0], x0[0])
    torch.testing.assert_close(x[1], rhs[1] / scale[1], rtol=0, atol=1e-13)


@pytest.mark.parametrize("tolerance", [0.0, 1e-1, 1e-3, 1e-6])
def test_a_batch_equals_its_items(tolerance: float) -> None:
    """Their stopping points are far apart: conditions of 1, 3, 1000."""
    matrices = torch.cat([with_spectrum([low, 0.5 + low / 2, 0.8, 1.0]) for low in (1.0, 0.3, 0.001)])
    rhs, x0 = draw(3, 4), draw(3, 4, seed=1)
    batch = conjugate_gradient(apply(matrices), rhs, x0, iterations=30, tolerance=tolerance)
    for i in range(3):
        one = slice(i, i + 1)
        alone = conjugate_gradient(apply(matrices[one]), rhs[one], x0[one], iterations=30, tolerance=tolerance)
        assert norm(alone[0] - batch[i]) < 1e-9 * norm(batch[i])  # rounding times the condition


def test_items_of_very_different_scale_do_not_disturb_each_other() -> None:
    matrices, rhs = with_spectrum([0.2, 1, 3, 7]), draw(1, 4).repeat(3, 1)
    scale = torch.tensor([[1e-6], [1], [1e6]])
    batch = conjugate_gradient(apply(matrices), scale * rhs, iterations=3, tolerance=1e-8)
    # three steps of four: rounding is not yet amplified
    torch.testing.assert_close(batch / scale, batch[1:2].repeat(3, 1), rtol=1e-12, atol=1e-12)


def test_the_tolerance_is_met_and_ends_the_loop() -> None:
    matrices, rhs, seen = with_spectrum([1, 2, 3, 4, 5, 6, 7, 8]), draw(1, 8), []
    x = conjugate_gradient(apply(matrices), rhs, iterations=99, tolerance=1e-2, trace=lambda i, _: seen.append(i))
    assert norm(apply(matrices)(x) - rhs) <= 1e-2 * norm(rhs)
    assert seen == list(range(1, len(seen) + 1))
    assert 1 < len(seen) < 8
    before = conjugate_gradient(apply(matrices), rhs, iterations=len(seen) - 1)
    assert norm(apply(matrices)(before) - rhs) > 1e-2 * norm(rhs)


def test_the_error_never_grows_in_the_norm_of_the_system() -> None:
    matrices, rhs, errors = with_spectrum([10 ** (-k / 3) for k in range(12)]), draw(1, 12), []
    exact = torch.linalg.solve(matrices, rhs)

    def error(_: int, x: Tensor) -> None:
        errors.append(float(torch.vdot((x - exact)[0], apply(matrices)(x - exact)[0]).real))

    conjugate_gradient(apply(matrices), rhs, iterations=60, trace=error)
    floor = (EPS * 1e4) ** 2 * errors[0]  # where rounding begins
    assert all(after <= before * (1 + 1e-9) + floor for before, after in pairwise(errors))
    assert errors[-1] < 1e-12 * errors[0]


@pytest.mark.parametrize("iterations", [2, 4])
def test_gradients_reach_the_right_hand_side_the_start_and_the_system(iterations: int) -> None:
    base = with_spectrum([1, 2, 4, 8], batch=2)

    def solve(rhs: Tensor, x0: Tensor, damping: Tensor) -> Tensor:
        return conjugate_gradient(lambda x: apply(base)(x) + damping * x, rhs, x0, iterations=iterations)

    damping = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    arguments = (draw(2, 4).requires_grad_(), draw(2, 4, seed=1).requires_grad_(), damping)
    assert torch.autograd.gradcheck(solve, arguments)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_iterations_beyond_the_solution_leave_the_gradient_that_of_the_inverse(dtype: torch.dtype) -> None:
    matrices = with_spectrum([1, 2, 4, 8]).to(dtype).requires_grad_()
    hermitian = (matrices + matrices.mH) / 2
    rhs, towards = draw(1, 4, dtype=dtype).requires_grad_(), draw(1, 4, seed=1, dtype=dtype)
    gradients = []
    for x in (torch.linalg.solve(hermitian, rhs), conjugate_gradient(apply(hermitian), rhs, iterations=25)):
        loss = (x * towards.conj()).sum().real
        gradients.append(torch.autograd.grad(loss, (rhs, matrices), retain_graph=True))
    for exact, found in zip(*gradients, strict=True):
        # one divides by residuals, which are small just before the end
        assert norm(found - exact) < 1e4 * torch.finfo(dtype).eps * norm(exact)


def test_the_arguments_are_left_as_they_were() -> None:
    rhs, x0 = draw(2, 4), draw(2, 4, seed=1)
    before = rhs.clone(), x0.clone()
    conjugate_gradient(apply(with_spectrum([1, 2, 3, 4])), rhs, x0)
    assert torch.equal(rhs, before[0])
    assert torch.equal(x0, before[1])
