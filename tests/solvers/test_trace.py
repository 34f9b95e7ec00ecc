from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from spinwarp.operators import LinearOperator
from spinwarp.solvers import Trace, admm, conjugate_gradient, fista, primal_dual

IDENTITY = LinearOperator(forward=lambda x: x, adjoint=lambda x: x)
START = torch.ones(2, 3)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("spinwarp.solvers.trace.time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_the_time_of_the_figures_does_not_count(clock: Clock) -> None:
    def slow(x: Tensor) -> float:
        clock.sleep(1000.0)
        return float(x.sum())

    def normal(x: Tensor) -> Tensor:
        clock.sleep(1.0)
        return torch.tensor([1.0, 2.0, 3.0]) * x

    trace = Trace({"sum": slow, "again": slow})
    conjugate_gradient(normal, START, iterations=3, trace=trace)
    assert trace.iterations == [1, 2, 3]
    assert trace.seconds == [1.0, 2.0, 3.0]
    assert trace.values["sum"] == trace.values["again"]
    assert len(trace.values["sum"]) == 3


def test_iterations_between_the_records_cost_no_figure_but_their_time_counts(clock: Clock) -> None:
    seen = []
    trace = Trace({"x": lambda x: seen.append(x) or len(seen)}, every=4)
    for i in range(1, 11):
        clock.sleep(0.5)
        trace(i, START)
    assert trace.iterations == [4, 8]
    assert trace.seconds == [2.0, 4.0]
    assert trace.values == {"x": [1.0, 2.0]}
    assert len(seen) == 2


@pytest.mark.parametrize("solver", ["conjugate_gradient", "fista", "primal_dual", "admm"])
def test_every_solver_reports_each_iterate_and_the_last_one_is_its_result(solver: str) -> None:
    last = []
    trace = Trace({"norm": lambda x: last.append(x) or float(torch.linalg.vector_norm(x))})
    common = {"iterations": 5, "trace": trace}
    result = {
        "conjugate_gradient": lambda: conjugate_gradient(lambda x: 2 * x, START, **common),
        "fista": lambda: fista(lambda x: x - 1, lambda v: 0.9 * v, START, **common),
        "primal_dual": lambda: primal_dual(
            lambda x: x - 1, IDENTITY, lambda v: v.clamp(-0.1, 0.1), START, transform_norm=1.0, dual_step=1.0, **common
        ),
        "admm": lambda: admm(lambda x: x, START, IDENTITY, lambda v: 0.9 * v, 0 * START, penalty=1.0, **common),
    }[solver]()
    assert trace.iterations == [1, 2, 3, 4, 5]
    assert sorted(trace.seconds) == trace.seconds
    assert torch.equal(last[-1], result)


def test_a_trace_changes_nothing() -> None:
    def solve(trace: Trace | None) -> Tensor:
        return fista(lambda x: x - 1, lambda v: 0.9 * v, START, iterations=7, trace=trace)

    assert torch.equal(solve(None), solve(Trace({})))
