"""CG-SENSE, TV, l1-wavelets and ESPIRiT beside sigpy, BART (in process, by bartorch) and mrpro.

    python -m venv SIGPY && SIGPY/bin/pip install sigpy==0.1.27
    python -m venv BARTORCH && BARTORCH/bin/pip install bartorch==0.0.17
    python -m venv MRPRO && MRPRO/bin/pip install mrpro==0.261015
    python benchmarks/classical.py --sigpy SIGPY/bin/python --bartorch BARTORCH/bin/python --mrpro MRPRO/bin/python

The data: the Shepp-Logan phantom that sigpy draws at 256 x 256, 8 birdcage coils, 68 of 256 columns at random with 20
in the centre, complex noise of 0.01; true maps given. The error is |x - truth|^2 / |truth|^2 of the complex image.

Each method takes the settings of a small sweep with which its final error is least, and those with which it reaches
0.02 soonest, of three runs the fastest. Seconds leave out the loading of data and the measuring of errors, not the
preparation of a solver. Methods alternate; ratios are of neighbouring runs, which hold where machines drift. A peer
not given is left out. All of it takes a quarter of an hour on two busy cores.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from classical_problem import problem as acquire

Settings = dict[str, Any]
PEERS = ("sigpy", "bartorch", "mrpro")
TARGETS = (0.05, 0.02)


def grid(iterations: int, **axes: tuple) -> tuple[int, list[Settings]]:
    """Return the number of iterations and all combinations of settings."""
    return iterations, [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


# an iteration of ADMM holds several of CG; sigma is the dual step of sigpy's TV, 1 if not given
SWEEPS = {
    "tv": {
        "ours": grid(40, weight=(0.002, 0.005, 0.01)),
        "sigpy": grid(200, weight=(0.005, 0.016), sigma=(0.03, 0.1, 1)),
        "bartorch": grid(30, weight=(0.005, 0.01), rho=(0.02, 0.05, 0.1), cg_maxiter=(5, 10)),
    },
    "wavelet": {
        "ours": grid(80, weight=(0.002, 0.005, 0.01), wavelet=("haar", "db2")),
        "sigpy": grid(120, weight=(0.002, 0.005, 0.01), wavelet=("haar", "db2")),
        "bartorch": grid(80, weight=(0.002, 0.005, 0.01), wavelet=("haar", "db2")),
    },
}
# iterations until the objectives stand still: "fixed" is anisotropic periodic TV, and periodic wavelets not shifted
CONVERGED: dict[str, dict[str, tuple[int, Settings]]] = {
    "tv": {"ours": (400, {"weight": 0.005, "fixed": True}), "sigpy": (500, {"weight": 0.005, "sigma": 0.1})},
    "wavelet": {"ours": (300, {"weight": 0.005, "fixed": True}), "sigpy": (300, {"weight": 0.005, "fixed": True})},
}
CG_ITERATIONS, CG_WEIGHT = 30, 0.001
SIZES = {"8x256x256": (8, 256, 256, 20), "15x640x368": (15, 640, 368, 24)}  # coils, height, width, central columns


class Worker:
    """One library in a process of its own."""

    def __init__(self, name: str, python: str) -> None:
        self.name = name
        # OpenMP's waiting threads burn the time of the others where cores are shared, BART's above all
        environment = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", **os.environ}
        script = str(Path(__file__).with_name("classical_worker.py"))
        self._process = subprocess.Popen(
            [python, script, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self, task: str, problem: str, **request: Any) -> Any:
        """Send a request and return the answer."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"task": task, "problem": problem, **request}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"the worker of {self.name} stopped; its reason is above")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def until(curve: dict[str, list[float]], target: float) -> float:
    """Seconds until the error is below a target; infinite if it never was."""
    return next((s for s, e in zip(curve["seconds"], curve["errors"], strict=True) if e < target), float("inf"))


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Median and range of the ratios of neighbouring runs."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    if not np.isfinite(ratios).all() or max(theirs) == float("inf"):
        return "-"
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def table(*columns: str) -> None:
    """Print the head of a Markdown table."""
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def choose(worker: Worker, task: str, problem: str) -> list[tuple[Settings, dict]]:
    """Sweep the settings of a method: those of the least final error, and those soonest at the last target."""
    iterations, combinations = SWEEPS[task][worker.name]
    worker(task, problem, settings=combinations[0], iterations=2)  # the first call allocates
    sweep = [(s, worker(task, problem, settings=s, iterations=iterations)) for s in combinations]

    def soonest(run: tuple[Settings, dict]) -> float:
        settings, curve = run
        if min(curve["errors"]) >= TARGETS[-1]:
            return float("inf")
        request = {"settings": settings, "iterations": iterations, "target": TARGETS[-1]}
        return min(worker(task, problem, **request)["seconds"][-1] for _ in range(3))

    by_error = sorted(sweep, key=lambda run: run[1]["errors"][-1])
    return [by_error[0], min(by_error, key=soonest)]


def compare(task: str, workers: dict[str, Worker], problem: str, repeats: int) -> None:
    """Print errors against time: the sweep's choices, timed again in turn."""
    goal = TARGETS[-1]
    choices = {name: choose(workers[name], task, problem) for name in SWEEPS[task] if name in workers}
    heads = [f"s to {target}" for target in TARGETS]
    table(task, "settings", "ms per iteration", *heads, "least error", f"to {goal}: ours over it")
    for i, why in enumerate(("least final error", f"soonest at {goal}")):
        chosen = {name: choice[i] for name, choice in choices.items()}
        times: dict[str, list[dict]] = {name: [] for name in chosen}
        for _, (name, (settings, curve)) in itertools.product(range(repeats), chosen.items()):
            # a few iterations time one that never gets there
            iterations = len(curve["errors"]) if until(curve, goal) < float("inf") else 20
            request = {"settings": settings, "iterations": iterations, "target": goal}
            times[name].append(workers[name](task, problem, **request))
        reached = {name: [[until(run, target) for run in runs] for target in TARGETS] for name, runs in times.items()}
        for name, (settings, curve) in chosen.items():
            step = statistics.median(1e3 * float(np.median(np.diff(run["seconds"]))) for run in times[name])
            seconds = (statistics.median(s) for s in reached[name])
            best = int(np.argmin(curve["errors"]))
            cells = (
                f"{name}, {why}",
                ", ".join(f"{key} {value}" for key, value in settings.items()),
                f"{step:.0f}",
                *(f"{s:.2f}" if s < float("inf") else "never" for s in seconds),
                f"{curve['errors'][best]:.5f} at {best + 1} of {len(curve['errors'])}",
                ratio(reached["ours"][-1], reached[name][-1]),
            )
            print(f"| {' | '.join(cells)} |", flush=True)


def objectives(workers: dict[str, Worker], problem: str, folder: Path) -> None:
    """Print the objectives of converged images: TV anisotropic and periodic, wavelets periodic and not shifted."""
    for task, runs in CONVERGED.items():
        table(f"converged {task}", *(f"objective by {name}" for name in runs))
        for name, (iterations, settings) in runs.items():
            image = str(folder / f"{task}_{name}.npy")
            workers[name](task, problem, settings=settings, iterations=iterations, image=image)
            weight = {"weight": settings["weight"]}
            values = [workers[by]("objective", problem, of=task, image=image, settings=weight) for by in runs]
            print(f"| image of {name} | {' | '.join(f'{value:.5f}' for value in values)} |", flush=True)


def conjugate_gradients(workers: dict[str, Worker], problem: str, repeats: int) -> None:
    """Print the time of one iteration of CG-SENSE."""
    request = {"settings": {"weight": CG_WEIGHT}, "iterations": CG_ITERATIONS}
    runs = [{name: worker("cg", problem, **request) for name, worker in workers.items()} for _ in range(repeats + 1)]
    table(f"CG, {CG_ITERATIONS} iterations", "ms per iteration", "error", "ours over it")
    seconds = {name: [run[name]["seconds"][-1] for run in runs[1:]] for name in workers}  # the first call allocates
    for name, times in seconds.items():
        step, error = 1e3 * statistics.median(times) / CG_ITERATIONS, runs[0][name]["errors"][-1]
        print(f"| {name} | {step:.1f} | {error:.5f} | {ratio(seconds['ours'], times)} |", flush=True)


def espirit(pythons: dict[str, str], problems: dict[str, str], repeats: int) -> None:
    """Print the time, error and memory of a calibration; its processes are fresh, for the memory."""
    error = "mean over the object of 1 - abs(correlation) with the true maps"
    table("ESPIRiT", "s", error, "MB at the peak", "MB of them for the calibration", "ours over it")
    for size, problem in problems.items():
        workers = {name: Worker(name, python) for name, python in pythons.items() if name != "mrpro"}
        runs = [{name: worker("espirit", problem) for name, worker in workers.items()} for _ in range(repeats + 1)]
        seconds = {name: [run[name]["seconds"] for run in runs[1:]] for name in workers}
        for name, times in seconds.items():
            first = runs[0][name]
            cells = (f"{size}, {name}", f"{statistics.median(times):.2f}", f"{first['error']:.1e}")
            cells += (f"{first['peak']:.0f}", f"{first['more']:.0f}", ratio(seconds["ours"], times))
            print(f"| {' | '.join(cells)} |", flush=True)
            workers[name].close()


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for peer in PEERS:
        parser.add_argument(f"--{peer}", help=f"Python of the environment that has {peer}")
    parser.add_argument("--repeats", type=int, default=5)
    parts = ("tv", "wavelet", "objective", "cg", "espirit")
    parser.add_argument("--parts", nargs="*", choices=parts, default=list(parts))
    options = parser.parse_args()
    given = {peer: getattr(options, peer) for peer in PEERS}
    pythons = {"ours": sys.executable, **{peer: python for peer, python in given.items() if python}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {size: str(folder / f"{size}.npz") for size in SIZES}
        for size, path in paths.items():
            np.savez(path, **acquire(*SIZES[size]))
        small = paths["8x256x256"]
        workers = {name: Worker(name, python) for name, python in pythons.items()}
        for task in ("tv", "wavelet"):
            if task in options.parts:
                compare(task, workers, small, options.repeats)
        if "objective" in options.parts and options.sigpy:
            objectives(workers, small, folder)
        if "cg" in options.parts:
            conjugate_gradients(workers, small, options.repeats)
        for worker in workers.values():
            worker.close()
        if "espirit" in options.parts:
            espirit(pythons, paths, min(options.repeats, 3))


if __name__ == "__main__":
    main()
