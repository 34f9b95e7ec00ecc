"""The worker of ``classical.py``: one library in a process of its own."""

import contextlib
import json
import resource
import sys
import time
from typing import Any

import numpy as np
from classical_libraries import LIBRARIES, Data, Library
from classical_problem import Watch


def calibration(library: Library, data: Data) -> dict[str, float]:
    """Return seconds, error and memory in MB: at the peak, and how much of it was not there before."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    maps = library.calibrate().reshape(data["maps"].shape)
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    product = np.abs(np.sum(maps.conj() * data["maps"], axis=0)) / np.linalg.norm(maps, axis=0).clip(1e-9)
    error = float(1 - product[data["image"] != 0].mean())
    return {"seconds": seconds, "error": error, "peak": peak / 1024, "more": (peak - before) / 1024}


def work(which: str) -> None:
    """Answer requests, a JSON line each: a problem's file, a task, and what it needs."""
    path, data, library = "", {}, None
    for line in sys.stdin:
        request = json.loads(line)
        if request["problem"] != path:
            path = request["problem"]
            data = dict(np.load(path))
            library = LIBRARIES[which](data)
        task, settings = request["task"], request.get("settings", {})
        if task == "espirit":
            answer: Any = calibration(library, data)
        elif task == "objective":
            answer = library.objective(request["of"], np.load(request["image"]), settings["weight"])
        else:
            watch = Watch(data["image"], request["iterations"], request.get("target", 0))
            with contextlib.suppress(StopIteration):
                library.solve(task, watch, **settings)
            if "image" in request:
                np.save(request["image"], watch.image)
            answer = {"seconds": watch.seconds, "errors": watch.errors}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    work(sys.argv[1])
