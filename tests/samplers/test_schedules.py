from itertools import pairwise

import pytest

from spinwarp.errors import InputError
from spinwarp.samplers import geometric, jalal, karras


def test_geometric_levels_have_a_constant_ratio() -> None:
    levels = geometric(8.0, 0.5, 5)
    assert levels == pytest.approx((8.0, 4.0, 2.0, 1.0, 0.5))


def test_karras_levels_are_those_of_edm() -> None:
    levels = karras(80.0, 0.002, 18)
    # the second and the last but one by equation 5 of the paper: (80^(1/7) + i / 17 (0.002^(1/7) - 80^(1/7)))^7
    assert levels[:2] == pytest.approx((80.0, 57.586), rel=1e-4)
    assert levels[-1] == pytest.approx(0.002)
    assert all(a > b for a, b in pairwise(levels))


def test_jalals_schedule_is_the_published_one() -> None:
    levels = jalal()
    assert len(levels) == 3975
    assert len(jalal(last_steps=3)) == 3465
    assert levels[0] == pytest.approx(1.232, abs=1e-3)
    assert levels[-1] == pytest.approx(0.0066)


@pytest.mark.parametrize("schedule", [geometric, karras])
@pytest.mark.parametrize("arguments", [(1.0, 2.0, 5), (1.0, 0.0, 5), (1.0, 0.1, 1)])
def test_a_schedule_that_does_not_fall_is_refused(schedule, arguments) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match="falls from sigma_max to sigma_min"):
        schedule(*arguments)
