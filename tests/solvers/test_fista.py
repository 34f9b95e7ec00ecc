"""FISTA: closed forms, optimality, restarts, batches, gradients."""

import pytest
import torch
from torch import Tensor

from spinwarp.solvers import fista, soft_threshold


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))


class Lasso:
    """``1/2 |A x - y|^2 + weight |x|_1`` for a batch of random systems, each with a step of its own."""

    def __init__(self, rows: int = 12, columns: int = 20, batch: int = 3, weight: float = 0.5) -> None:
        self.a, self.y = draw(batch, rows, columns), draw(batch, rows, seed=1)
        self.step = 1 / torch.linalg.matrix_norm(self.a, 2).square()
        self.weight, self.start = weight, torch.zeros(batch, columns, dtype=torch.complex128)

    def residual(self, x: Tensor) -> Tensor:
        return (self.a @ x[..., None])[..., 0] - self.y

    def gradient(self, x: Tensor) -> Tensor:
        return (self.a.mH @ self.residual(x)[..., None])[..., 0]

    def objective(self, x: Tensor) -> Tensor:
        return self.residual(x).abs().square().sum(1) / 2 + self.weight * x.abs().sum(1)

    def solve(self, **options: object) -> Tensor:
        threshold = (self.weight * self.step)[:, None]
        return fista(self.gradient, lambda v: soft_threshold(v, threshold), self.start, step=self.step, **options)

    def item(self, index: int) -> "Lasso":
        alone = Lasso(weight=self.weight)
        for name in ("a", "y", "step", "start"):
            setattr(alone, name, getattr(self, name)[index : index + 1])
        return alone


def test_the_lasso_of_a_unitary_matrix_is_a_soft_threshold() -> None:
    unitary, y = torch.linalg.qr(draw(15, 15)).Q, draw(2, 15, seed=1)
    x = fista(
        lambda x: (x @ unitary.T - y) @ unitary.conj(),
        lambda v: soft_threshold(v, 0.7),
        draw(2, 15, seed=2),
        iterations=3,
    )
    # found by the first step, kept by the others
    torch.testing.assert_close(x, soft_threshold(y @ unitary.conj(), 0.7), rtol=0, atol=1e-13)


def test_without_momentum_it_is_proximal_gradient_descent() -> None:
    lasso = Lasso()
    x = lasso.start
    for _ in range(7):
        x = soft_threshold(x - lasso.step[:, None] * lasso.gradient(x), (lasso.weight * lasso.step)[:, None])
    torch.testing.assert_close(lasso.solve(iterations=7, momentum=0.0), x, rtol=0, atol=1e-13)


@pytest.mark.parametrize("restart", [True, False])
def test_the_result_meets_the_conditions_of_optimality(restart: bool) -> None:
    """The gradient has the weight's length and x's direction where x is not zero, and less elsewhere."""
    problem = Lasso()
    x = problem.solve(iterations=1500, restart=restart)
    gradient, support = -problem.gradient(x), x.abs() > 1e-8
    assert 3 < support.sum() < support.numel()
    expected = problem.weight * torch.sgn(x)
    # the iterations converge linearly, without restarts slowly
    torch.testing.assert_close(gradient[support], expected[support], rtol=0, atol=1e-10 if restart else 1e-5)
    assert (gradient.abs() <= problem.weight + 1e-5).all()


def test_with_restarts_the_objective_hardly_ripples_and_ends_lower() -> None:
    problem, curves = Lasso(), {}
    best = problem.objective(problem.solve(iterations=1500))
    for restart in (True, False):
        values = []
        problem.solve(iterations=150, restart=restart, trace=lambda _, x, v=values: v.append(problem.objective(x)))
        curves[restart] = torch.stack(values) - best
    assert (curves[True][-1] < 0.1 * curves[False][-1]).all()
    rises = {restart: curve.diff(dim=0).clamp_min(0).sum() for restart, curve in curves.items()}
    assert rises[True] < 0.1 * rises[False]


def test_momentum_is_faster_than_plain_descent() -> None:
    problem = Lasso()
    best = problem.objective(problem.solve(iterations=1500))
    plain, threshold = problem.start, (problem.weight * problem.step)[:, None]
    for _ in range(60):
        plain = soft_threshold(plain - problem.step[:, None] * problem.gradient(plain), threshold)
    gap = problem.objective(problem.solve(iterations=60)) - best
    assert (gap < 0.2 * (problem.objective(plain) - best)).all()


@pytest.mark.parametrize("tolerance", [0.0, 1e-2, 1e-4])
@pytest.mark.parametrize("restart", [True, False])
def test_a_batch_equals_its_items(tolerance: float, restart: bool) -> None:
    problem = Lasso()
    problem.start = draw(3, 20, seed=2) * torch.tensor([0, 1, 1e3])[:, None]  # so that they stop far apart
    options = {"iterations": 80, "tolerance": tolerance, "restart": restart}
    batch = problem.solve(**options)
    for i in range(3):
        alone = problem.item(i).solve(**options)
        assert norm(alone[0] - batch[i]) < 1e-10 * norm(batch[i])


def test_the_tolerance_ends_the_loop_when_the_last_item_meets_it() -> None:
    problem, counts = Lasso(), []
    for item in (problem, problem.item(0), problem.item(1), problem.item(2)):
        seen = []
        item.solve(iterations=500, tolerance=1e-3, trace=lambda i, _, s=seen: s.append(i))
        counts.append(len(seen))
    assert counts[0] == max(counts[1:]) < 500


def test_without_a_prior_the_result_is_least_squares() -> None:
    a, y = draw(1, 9, 4), draw(1, 9, seed=1)
    step = 1 / torch.linalg.matrix_norm(a, 2).square()
    x = fista(
        lambda x: (a.mH @ (a @ x[..., None] - y[..., None]))[..., 0],
        lambda v: v,
        torch.zeros(1, 4, dtype=torch.complex128),
        step=step,
        iterations=600,
    )
    torch.testing.assert_close(x, torch.linalg.lstsq(a, y[..., None]).solution[..., 0], rtol=0, atol=1e-11)


@pytest.mark.parametrize("restart", [True, False])
def test_gradients_flow_through_the_iterations(restart: bool) -> None:
    a = draw(2, 4, 3)

    def solve(y: Tensor, x0: Tensor, weight: Tensor) -> Tensor:
        return fista(
            lambda x: (a.mH @ (a @ x[..., None] - y[..., None]))[..., 0],
            lambda v: soft_threshold(v, 0.05 * weight),
            x0,
            step=0.05,
            iterations=6,
            restart=restart,
        )

    weight = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    arguments = (draw(2, 4, seed=1).requires_grad_(), draw(2, 3, seed=2).requires_grad_(), weight)
    assert torch.autograd.gradcheck(solve, arguments)


def test_images_of_any_shape_are_solved_for_and_the_start_is_left_as_it_was() -> None:
    target, start = draw(2, 3, 4, 5).real, draw(2, 3, 4, 5, seed=1).real
    before = start.clone()
    x = fista(lambda x: x - target, lambda v: soft_threshold(v, 0.5), start, iterations=4)
    torch.testing.assert_close(x, soft_threshold(target, 0.5))
    assert torch.equal(start, before)
