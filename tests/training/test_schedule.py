import math
from itertools import pairwise

import pytest

from spinwarp.errors import InputError
from spinwarp.training.schedule import Constant, Cosine, Step, WarmupDecay

PROGRESS = [i / 200 for i in range(201)]


def test_a_constant_schedule_changes_nothing() -> None:
    assert {Constant()(p) for p in PROGRESS} == {1.0}


def test_a_step_drops_once_where_fastmri_does() -> None:
    # StepLR(40, 0.1) over 50 epochs
    schedule = Step()
    assert [schedule(epoch / 50) for epoch in (0, 39, 40, 49)] == [1.0, 1.0, 0.1, 0.1]


def test_a_step_drops_where_and_by_what_it_is_told() -> None:
    schedule = Step(at=0.5, gamma=0.2)
    assert [schedule(p) for p in (0.0, 0.499, 0.5, 1.0)] == [1.0, 1.0, 0.2, 0.2]


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("floor", [0.0, 0.01, 0.3])
def test_a_cosine_rises_to_one_and_falls_to_its_floor(warmup: float, floor: float) -> None:
    schedule = Cosine(warmup, floor)
    values = [schedule(p) for p in PROGRESS]
    assert all(floor - 1e-12 <= value <= 1 for value in values)
    assert schedule(warmup) == pytest.approx(1.0, abs=1e-12)
    assert values[-1] == pytest.approx(floor, abs=1e-12)
    rising = [value for p, value in zip(PROGRESS, values, strict=True) if p <= warmup]
    falling = [value for p, value in zip(PROGRESS, values, strict=True) if p >= warmup]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    # no jumps: the steepest slopes are 1 / warmup and pi / 2 / (1 - warmup)
    steepest = max(1 / warmup if warmup else 0, math.pi / 2 / (1 - warmup))
    assert max(abs(a - b) for a, b in pairwise(values)) <= steepest / 200 + 1e-9


def test_a_cosine_is_halfway_down_halfway_through() -> None:
    assert Cosine(warmup=0.2, floor=0.1)(0.6) == pytest.approx(0.55)


@pytest.mark.parametrize(
    "schedule", [Constant(), Step(), Cosine(), WarmupDecay()], ids=lambda schedule: type(schedule).__name__
)
def test_training_that_runs_over_stays_at_the_end(schedule) -> None:
    assert schedule(1.2) == pytest.approx(schedule(1.0), abs=1e-12)


@pytest.mark.parametrize("warmup", [-0.1, 1.0, 5.0, float("nan")])
def test_a_warmup_that_is_no_fraction_is_refused(warmup: float) -> None:
    with pytest.raises(InputError, match=r"warmup is a fraction of training in \[0, 1\)"):
        Cosine(warmup=warmup)


def test_a_warmup_decay_rises_stays_and_falls_to_zero() -> None:
    schedule = WarmupDecay(warmup=0.1, decay=0.4)
    assert [schedule(p) for p in (0.05, 0.1, 0.3, 0.6)] == pytest.approx([0.5, 1.0, 1.0, 1.0])
    assert [schedule(p) for p in (0.8, 0.9, 1.0)] == pytest.approx([0.5, 0.25, 0.0])
    assert 0 < schedule(0.0) < 0.01  # an optimizer that starts with a rate of zero wastes its first step


@pytest.mark.parametrize(("warmup", "decay"), [(-0.1, 0.2), (0.2, 1.0), (0.6, 0.5), (float("nan"), 0.1)])
def test_fractions_that_do_not_fit_are_refused(warmup: float, decay: float) -> None:
    with pytest.raises(InputError, match="warmup and decay are fractions"):
        WarmupDecay(warmup, decay)
