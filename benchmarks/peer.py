"""Workers of the benchmarks: each library runs in a process of its own and answers requests, a JSON line each.

Needs the standard library alone, because the environments of the peers import it too.
"""

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any


class Worker:
    """A process of one library; calling it sends a request and returns the answer.

    Parameters
    ----------
    name : of the library.
    command : the Python to run, the script and its arguments; the script calls :func:`serve`.
    environment : variables beside those of this process.
    """

    def __init__(self, name: str, command: Sequence[str], **environment: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )

    def __call__(self, *request: Any) -> Any:
        """Send a request and return the answer."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"the {self.name} worker stopped; its reason is above")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def serve(answer: Callable[..., Any]) -> None:
    """Answer the requests of a :class:`Worker` until it closes."""
    for line in sys.stdin:
        print(json.dumps(answer(*json.loads(line))), flush=True)


def alternate(workers: dict[str, Worker], *request: Any, repeats: int) -> dict[str, list[float]]:
    """Ask every worker in turn for the seconds of a run; return ``repeats`` of them for each name."""
    rounds = [{name: worker(*request) for name, worker in workers.items()} for _ in range(repeats)]
    return {name: [seconds[name] for seconds in rounds] for name in workers}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Median and range of the ratios of neighbouring runs; "-" if one of them never ended."""
    if not all(map(math.isfinite, [*ours, *theirs])):
        return "-"
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
