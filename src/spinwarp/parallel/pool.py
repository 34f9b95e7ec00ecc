"""Processes of one command on one machine, started, watched and ended together."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from spinwarp.errors import InputError
from spinwarp.hardware import keep_freed_memory
from spinwarp.parallel import processes

#: seconds that a process has to save its work
GRACE = 20.0
Advance = Callable[[float], None]


def run(task: Callable[[Any, Advance], None], arguments: Sequence[Any], advance: Advance) -> None:
    """Call ``task(argument, advance)`` for each argument in a process of its own, and wait for all of them.

    The first failure ends the others, as does Ctrl-C: they receive a KeyboardInterrupt.

    Parameters
    ----------
    task : a function at the top level of a module.
    arguments : must be picklable.
    advance : receives what the processes pass to theirs.

    Raises
    ------
    InputError : if a process was killed.
    SystemExit : if one failed; it has printed why.
    """
    context = multiprocessing.get_context("spawn")
    done = context.RawArray("d", len(arguments))  # without a lock, which a killed process would never release
    workers = [
        context.Process(target=_work, args=(task, argument, done, i, os.getpid()))
        for i, argument in enumerate(arguments)
    ]
    reported = 0.0
    try:
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            time.sleep(0.1)
            reported += _report(done, reported, advance)
            _check(workers)
        _check(workers)
        _report(done, reported, advance)
    finally:
        _end(workers)


def _report(done: Sequence[float], reported: float, advance: Advance) -> float:
    new = sum(done) - reported
    advance(new)
    return new


def _check(workers: Sequence[Any]) -> None:
    for i, worker in enumerate(workers):
        if worker.exitcode and worker.exitcode < 0:
            name = signal.Signals(-worker.exitcode).name
            raise InputError(
                f"process {i} of {len(workers)} was killed ({name}; perhaps memory ran out), which ends the run; "
                f"finished volumes are in the result folder"
            )
        if worker.exitcode:
            raise SystemExit(1)


def _end(workers: Sequence[Any]) -> None:
    """End the processes that still run: terminate, wait, kill."""
    begun = [worker for worker in workers if worker.pid is not None]
    for worker in begun:
        worker.terminate()
    deadline = time.monotonic() + GRACE
    for worker in begun:
        worker.join(max(deadline - time.monotonic(), 0))
        worker.kill()
        worker.join()


def _work(task: Callable[[Any, Advance], None], argument: Any, done: Any, index: int, parent: int) -> None:
    processes.end_with(parent)
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent ends the others
    signal.signal(signal.SIGTERM, _interrupt)

    def advance(n: float) -> None:
        done[index] += n

    try:
        task(argument, advance)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
