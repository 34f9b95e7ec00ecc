"""Times and memory of something that is run again and again."""

import statistics
import time
from collections.abc import Callable

from gpu.setting import Setting, Values


def measure(
    step: Callable[[], object], setting: Setting, *, repeats: int = 10, seconds: float = 4.0, part: float = 1.0
) -> Values:
    """Run ``step`` until it was timed ``repeats`` times or ``seconds`` are over, but three times at least.

    The first call, which chooses algorithms and compiles, is timed by itself; one more is not counted. Each run is
    timed alone, between two waits for the device.

    Parameters
    ----------
    part : what is reported is this part of a run, as where a run makes several steps.

    Returns
    -------
    Median, least and longest time in ms, number of runs, first call in s, peak memory in GB.
    """
    if setting.dry:
        repeats, seconds = 1, 0.0
    setting.forget()
    first = _seconds(step, setting)
    if not setting.dry:
        step()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < min(3, repeats) or (len(times) < repeats and time.perf_counter() < end):
        times.append(_seconds(step, setting))
    return {**in_ms([part * t for t in times]), "first s": round(first, 2), "GB": setting.peak()}


def in_ms(times: list[float]) -> Values:
    """Median, least and longest of seconds, in ms."""
    numbers = {"ms": statistics.median(times), "least": min(times), "most": max(times)}
    return {**{name: float(f"{1e3 * value:.4g}") for name, value in numbers.items()}, "runs": len(times)}


def _seconds(step: Callable[[], object], setting: Setting) -> float:
    setting.synchronise()
    start = time.perf_counter()
    step()
    setting.synchronise()
    return time.perf_counter() - start
