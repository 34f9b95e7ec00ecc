"""Record how an iteration proceeds over time."""

import time
from collections.abc import Callable, Mapping

from torch import Tensor

Callback = Callable[[int, Tensor], None]


class Trace:
    """Records figures of each iterate and the seconds until then, without the time of the recording.

    Pass it as the ``trace`` of a solver. The clock starts when it is created.

    Parameters
    ----------
    figures : name to a function from the iterate to a number, such as its objective or error.
    every : record every n-th iteration.

    Attributes
    ----------
    iterations, seconds : of each record.
    values : the recorded figures, by name.
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
