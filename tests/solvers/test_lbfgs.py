"""Limited-memory BFGS, each item of a batch on its own."""

from itertools import islice, pairwise

import torch
from torch import Tensor

from spinwarp.solvers.lbfgs import lbfgs


def run(objective, x0: Tensor, iterations: int) -> tuple[Tensor, list[Tensor]]:
    iterates = list(islice(lbfgs(objective, x0), iterations + 1))
    return iterates[-1][0], [value for _, value in iterates]


def problem(n: int = 20, m: int = 12, batch: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(batch, m, n, dtype=torch.float64, generator=generator)
    return matrix, torch.randn(batch, m, dtype=torch.float64, generator=generator)


def misfit(matrix: Tensor, rhs: Tensor):
    return lambda x: (torch.einsum("bij,bj->bi", matrix, x) - rhs).square().sum(1)


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[:, 1:] - x[:, :-1].square()).square() + (1 - x[:, :-1]).square()).sum(1)


def test_of_all_solutions_the_one_nearest_to_the_start_is_found() -> None:
    matrix, rhs = problem()
    x, _ = run(misfit(matrix, rhs), torch.zeros(3, 20, dtype=torch.float64), 60)
    expected = torch.einsum("bij,bj->bi", torch.linalg.pinv(matrix), rhs)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-9)


def test_a_curved_valley_is_followed_to_its_end() -> None:
    x, _ = run(rosenbrock, torch.zeros(2, 6, dtype=torch.float64), 100)
    torch.testing.assert_close(x, torch.ones(2, 6, dtype=torch.float64), rtol=0, atol=1e-5)


def test_no_value_ever_grows() -> None:
    _, values = run(rosenbrock, -1.5 * torch.ones(2, 6, dtype=torch.float64), 60)
    assert all((after <= before).all() for before, after in pairwise(values))


def test_a_batch_equals_its_items() -> None:
    starts = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    starts[2] = 1  # the minimum itself
    together, _ = run(rosenbrock, starts, 20)
    for i in range(3):
        alone, _ = run(rosenbrock, starts[i : i + 1], 20)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-6, atol=1e-9)
    assert torch.equal(together[2], starts[2])


def test_a_step_to_where_nothing_is_finite_is_refused() -> None:
    # the logarithm has no value left of zero, and the first step of length one would go there
    x, values = run(lambda x: (x - 1e-3 * x.log()).sum(1), torch.full((1, 2), 0.5, dtype=torch.float64), 40)
    assert all(value.isfinite().all() for value in values)
    torch.testing.assert_close(x, torch.full_like(x, 1e-3), rtol=1e-4, atol=0)


def test_it_ends_when_every_item_has_arrived() -> None:
    iterates = list(islice(lbfgs(lambda x: (x - 3).square().sum(1), torch.zeros(2, 4)), 1000))
    assert len(iterates) < 10
    assert len(list(lbfgs(lambda x: x.square().sum(1), torch.zeros(2, 4)))) == 1
