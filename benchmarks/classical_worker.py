"""The worker of ``classical.py``: one library in a process of its own."""

import contextlib
import resource
import sys
import time
from typing import Any

import numpy as np
from classical_libraries import LIBRARIES, Data, Library
from classical_problem import Watch
from peer import serve


def calibration(library: Library, data: Data) -> dict[str, float]:
    """Return seconds, error and memory in MB: the peak, and its growth during the calibration."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    maps = library.calibrate().reshape(data["maps"].shape)
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    product = np.abs(np.sum(maps.conj() * data["maps"], axis=0)) / np.linalg.norm(maps, axis=0).clip(1e-9)
    error = float(1 - product[data["image"] != 0].mean())
    return {"seconds": seconds, "error": error, "peak": peak / 1024, "more": (peak - before) / 1024}


def work(which: str) -> None:
    """Answer a task, the file of its problem, and what the task needs."""
    path, data, library = "", {}, None

    def answer(task: str, problem: str, request: dict[str, Any]) -> Any:
        nonlocal path, data, library
        if problem != path:
            path, data = problem, dict(np.load(problem))
            library = LIBRARIES[which](data)
        settings = request.get("settings", {})
        if task == "espirit":
            return calibration(library, data)
        if task == "objective":
            return library.objective(request["of"], np.load(request["image"]), settings["weight"])
        watch = Watch(data["image"], request["iterations"], request.get("target", 0))
        with contextlib.suppress(StopIteration):
            library.solve(task, watch, **settings)
        if "image" in request:
            np.save(request["image"], watch.image)
        return {"seconds": watch.seconds, "errors": watch.errors}

    serve(answer)


if __name__ == "__main__":
    work(sys.argv[1])
