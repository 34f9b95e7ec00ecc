"""Processes of one command on one machine: started, watched, and ended together."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from spinwarp.errors import InputError
from spinwarp.parallel import processes

#: seconds that a process has to put away what it is at
GRACE = 20.0
Advance = Callable[[float], None]


def run(task: Callable[[Any, Advance], None], arguments: Sequence[Any], advance: Advance) -> None:
    """Call ``task(argument, advance)`` for each argument in a process of its own, and wait for all of them.

    The first that fails ends the others, and so does Ctrl-C: they see a KeyboardInterrupt.

    Parameters
    ----------
    task : a function of a module.
    arguments : what can be pickled.
    advance : told what the processes tell theirs.

    Raises
    ------
    InputError : if a process was killed.
    SystemExit : if one failed, which has said why.
    """
    context = multiprocessing.get_context("spawn")
    done = context.RawArray("d", len(arguments))  # no lock, which a killed process would keep
    workers = [
        context.Process(target=_work, args=(task, argument, done, i, os.getpid()))
        for i, argument in enumerate(arguments)
    ]
    told = 0.0
    try:
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            time.sleep(0.1)
            told += _tell(done, told, advance)
            _check(workers)
        _check(workers)
        _tell(done, told, advance)
    finally:
        _end(workers)


def _tell(done: Sequence[float], told: float, advance: Advance) -> float:
    new = sum(done) - told
    advance(new)
    return new


def _check(workers: Sequence[Any]) -> None:
    for i, worker in enumerate(workers):
        if worker.exitcode and worker.exitcode < 0:
            name = signal.Signals(-worker.exitcode).name
            raise InputError(
                f"process {i} of {len(workers)} was killed ({name}; perhaps memory is short), which ends the run; what "
                f"was finished is in the result folder"
            )
        if worker.exitcode:
            raise SystemExit(1)


def _end(workers: Sequence[Any]) -> None:
    """End what still runs, first by asking."""
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process tells the others
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
