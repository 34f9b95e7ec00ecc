"""What an iteration looked like from outside: figures against time."""

import time
from collections.abc import Callable, Mapping

from torch import Tensor

Callback = Callable[[int, Tensor], None]


class Trace:
    """Records figures of each iterate and the seconds until then; its own time does not count.

    Pass it as the ``trace`` of a solver; the clock starts when it is made.

    Parameters
    ----------
    figures : names and what to compute of the iterate (its objective, its error), as a number.
    every : record each so many iterations.

    Attributes
    ----------
    iterations, seconds : of the records.
    values : the figures of the records, by name.
    """

    def __init__(self, figures: Mapping[str, Callable[[Tensor], float]], every: int = 1) -> None:
        self.figures = dict(figures)
        self.every = every
        self.iterations: list[int] = []
        self.seconds: list[float] = []
        self.values: dict[str, list[float]] = {name: [] for name in figures}
        self._start = time.perf_counter()

    def __call__(self, iteration: int, x: Tensor) -> None:
        """Record."""
        if iteration % self.every:
            return
        arrived = time.perf_counter()
        self.iterations.append(iteration)
        self.seconds.append(arrived - self._start)
        for name, figure in self.figures.items():
            self.values[name].append(float(figure(x)))
        self._start += time.perf_counter() - arrived
