"""One problem, several algorithms, one value of the objective (methods.md 13.5)."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.operators import LinearOperator, finite_difference, sense, wavelet
from spinwarp.solvers import admm, fista, primal_dual, project_ball, soft_threshold

SHAPE = (15, 18)


@pytest.fixture(scope="module", params=[False, True], ids=["lines", "plane"])
def acquisition(request: pytest.FixtureRequest, make_acquisition: Callable[..., Acquisition]) -> Acquisition:
    """In double precision, so that what remains is how far the algorithms have come."""
    made = make_acquisition(shape=SHAPE, two_dimensional=request.param)
    return replace(made, kspace=made.kspace.to(torch.complex128), maps=made.maps.to(torch.complex128))


class Problem:
    """``1/2 |A x - y|^2 + weight |K x|``, the norm taken over ``dim``, by three algorithms."""

    def __init__(self, acquisition: Acquisition, transform: LinearOperator, weight: float, dim: int | None) -> None:
        self.operator, self.kspace = sense(acquisition), acquisition.kspace
        self.transform, self.weight, self.dim = transform, weight, dim
        self.rhs = self.operator.adjoint(self.kspace)

    def gradient(self, x: Tensor) -> Tensor:
        return self.operator.normal(x) - self.rhs

    def objective(self, x: Tensor) -> Tensor:
        """Of each item."""
        residual = (self.operator(x) - self.kspace).abs().square().flatten(1).sum(1) / 2
        sparse = self.transform(x)
        size = sparse.abs() if self.dim is None else torch.linalg.vector_norm(sparse, dim=self.dim)
        return residual + self.weight * size.flatten(1).sum(1)

    def by_admm(self, cut: float, iterations: int) -> Tensor:
        return admm(
            self.operator.normal,
            self.rhs,
            self.transform,
            lambda v: soft_threshold(v, cut, self.dim),
            self.rhs,
            penalty=self.weight / cut,
            iterations=iterations,
        )

    def by_primal_dual(self, norm: float, dual_step: float, iterations: int) -> Tensor:
        return primal_dual(
            self.gradient,
            self.transform,
            lambda v: project_ball(v, self.weight, self.dim),
            self.rhs,
            transform_norm=norm,
            dual_step=dual_step,
            iterations=iterations,
        )

    def by_fista(self, iterations: int) -> Tensor:
        """Only of an orthogonal transform."""

        def shrink(v: Tensor) -> Tensor:
            return self.transform.adjoint(soft_threshold(self.transform(v), self.weight))

        return fista(self.gradient, shrink, self.rhs, iterations=iterations)


@pytest.mark.parametrize(("weight", "dim"), [(0.05, 1), (0.5, 1), (0.05, None)], ids=["weak", "strong", "anisotropic"])
def test_admm_and_the_primal_dual_method_find_the_same_total_variation(
    acquisition: Acquisition, weight: float, dim: int | None
) -> None:
    problem = Problem(acquisition, finite_difference(), weight, dim)
    first = problem.objective(problem.by_admm(0.05, iterations=100))
    second = problem.objective(problem.by_primal_dual(8**0.5, dual_step=max(1, 5 * weight), iterations=500))
    # both converge like 1 / iterations; measured 2e-5
    torch.testing.assert_close(first, second, rtol=5e-5, atol=0)
    assert (first < 0.99 * problem.objective(problem.rhs)).all()


@pytest.mark.parametrize("weight", [0.02, 0.2])
def test_fista_admm_and_the_primal_dual_method_find_the_same_sparse_wavelets(
    acquisition: Acquisition, weight: float
) -> None:
    problem = Problem(acquisition, wavelet(SHAPE, "db2", 2), weight, None)
    first = problem.objective(problem.by_fista(iterations=100))
    # orthogonal wavelets: all three converge linearly; 2e-6 is left after so few iterations
    torch.testing.assert_close(problem.objective(problem.by_admm(0.1, iterations=100)), first, rtol=1e-5, atol=0)
    second = problem.by_primal_dual(1.0, dual_step=max(0.1, 5 * weight), iterations=200)
    torch.testing.assert_close(problem.objective(second), first, rtol=1e-5, atol=0)
    assert (first < 0.99 * problem.objective(problem.rhs)).all()
