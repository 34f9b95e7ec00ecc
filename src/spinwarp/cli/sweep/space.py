"""The search space: sweeps in the syntax of Hydra as distributions of Optuna."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from spinwarp.errors import InputError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def split(overrides: Sequence[Override]) -> tuple[list[str], dict[str, "BaseDistribution"]]:
    """Separate the overrides that all trials share from the searched parameters.

    ``a=1,2`` and ``choice(...)`` are unordered choices, ``range(start,stop,step)`` a grid without ``stop``, as in
    Hydra, ``interval(a,b)`` real numbers, ``int(interval(a,b))`` whole numbers; ``tag(log,...)`` searches the
    logarithm.

    Raises
    ------
    InputError : if nothing is searched, or an interval or range is invalid.
    """
    searched = {o.get_key_element(): distribution(o) for o in overrides if o.is_sweep_override()}
    if not searched:
        raise InputError(
            "nothing is searched: give a parameter a choice, a range or an interval, such as "
            "'model.optimizer.lr=tag(log,interval(1e-4,1e-2))', here or in hydra.sweeper.params"
        )
    fixed = [o for o in overrides if not o.is_sweep_override()]
    # a deletion has no value
    lines = [o.get_key_element() + ("" if o.is_delete() else f"={o.get_value_element_as_str()}") for o in fixed]
    return lines, searched


def distribution(override: Override) -> "BaseDistribution":
    """Return the distribution of one searched parameter.

    Raises
    ------
    InputError : if it is empty, or has both a step and a logarithm.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep = override.value()
    log = "log" in getattr(sweep, "tags", ())
    try:
        if isinstance(sweep, IntervalSweep):
            low: Any = sweep.start
            high: Any = sweep.end
            whole = isinstance(low, int) and isinstance(high, int)  # int(interval(a,b))
            return IntDistribution(low, high, log=log) if whole else FloatDistribution(low, high, log=log)
        if isinstance(sweep, RangeSweep):
            values = sorted(sweep.range())
            if not values:
                raise ValueError("the range is empty")
            if all(isinstance(value, int) for value in values):
                return IntDistribution(values[0], values[-1], log=log, step=abs(int(sweep.step)))
            return FloatDistribution(values[0], values[-1], log=log, step=abs(float(sweep.step)))
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    except ValueError as error:
        raise InputError(f"{override.input_line} cannot be searched: {error}") from error


def as_overrides(parameters: dict[str, object]) -> list[str]:
    """Write the parameters of a trial as overrides; numbers keep every digit."""
    return [f"{key}={value}" for key, value in parameters.items()]
