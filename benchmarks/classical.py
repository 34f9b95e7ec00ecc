"""CG-SENSE, TV, l1-wavelets and ESPIRiT beside sigpy, BART (in process, by bartorch) and mrpro.

    python -m venv SIGPY && SIGPY/bin/pip install sigpy==0.1.27
    python -m venv BARTORCH && BARTORCH/bin/pip install bartorch==0.0.17
    python -m venv MRPRO && MRPRO/bin/pip install mrpro==0.261015
    python benchmarks/classical.py --sigpy SIGPY/bin/python --bartorch BARTORCH/bin/python --mrpro MRPRO/bin/python

The data: the Shepp-Logan phantom that sigpy draws at 256 x 256, 8 birdcage coils, 68 of 256 columns at random with 20
in the centre, complex noise of 0.01; true maps given. The error is |x - truth|^2 / |truth|^2 of the complex image.

A small sweep chooses two settings for each method: those with the least final error, and those that reach 0.02 soonest
(the fastest of three runs). Seconds include the preparation of a solver, but not loading data or measuring errors.
Methods alternate, and ratios are those of neighbouring runs, because machines drift and ratios hold. A peer that is not
given is left out. The whole comparison takes a quarter of an hour on two busy cores.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from classical_problem import problem as acquire
from peer import Worker, ratio

Settings = dict[str, Any]
PEERS = ("sigpy", "bartorch", "mrpro")
TARGETS = (0.05, 0.02)
THREADS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}


def grid(iterations: int, **axes: tuple) -> tuple[int, list[Settings]]:
    """Return the number of iterations and all combinations of settings."""
    return iterations, [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


# each iteration of ADMM runs several of CG; sigma is the dual step of sigpy's TV (default 1)
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
# iterations after which the objectives no longer change; "fixed": anisotropic periodic TV, periodic wavelets unshifted
CONVERGED: dict[str, dict[str, tuple[int, Settings]]] = {
    "tv": {"ours": (400, {"weight": 0.005, "fixed": True}), "sigpy": (500, {"weight": 0.005, "sigma": 0.1})},
    "wavelet": {"ours": (300, {"weight": 0.005, "fixed": True}), "sigpy": (300, {"weight": 0.005, "fixed": True})},
}
CG_ITERATIONS, CG_WEIGHT = 30, 0.001
SIZES = {"8x256x256": (8, 256, 256, 20), "15x640x368": (15, 640, 368, 24)}  # coils, height, width, central columns


def library(name: str, python: str) -> Worker:
    """Start the worker of one library."""
    script = str(Path(__file__).with_name("classical_worker.py"))
    # OpenMP's waiting threads, BART's above all, take time from the other workers where they share cores
    environment = {key: os.environ.get(key, value) for key, value in THREADS.items()}
    return Worker(name, [python, script, name], **environment)


def until(curve: dict[str, list[float]], target: float) -> float:
    """Seconds until the error is below a target; infinite if it never was."""
    return next((s for s, e in zip(curve["seconds"], curve["errors"], strict=True) if e < target), float("inf"))


def table(*columns: str) -> None:
    """Print the head of a Markdown table."""
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def choose(worker: Worker, task: str, problem: str) -> list[tuple[Settings, dict]]:
    """Sweep the settings of a method; return those with the least final error and those soonest at the last target."""
    iterations, combinations = SWEEPS[task][worker.name]
    worker(task, problem, {"settings": combinations[0], "iterations": 2})  # the first call allocates
    sweep = [(s, worker(task, problem, {"settings": s, "iterations": iterations})) for s in combinations]

    def soonest(run: tuple[Settings, dict]) -> float:
        settings, curve = run
        if min(curve["errors"]) >= TARGETS[-1]:
            return float("inf")
        request = {"settings": settings, "iterations": iterations, "target": TARGETS[-1]}
        return min(worker(task, problem, request)["seconds"][-1] for _ in range(3))

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
            # a few iterations are enough to time a method that never gets there
            iterations = len(curve["errors"]) if until(curve, goal) < float("inf") else 20
            request = {"settings": settings, "iterations": iterations, "target": goal}
            times[name].append(workers[name](task, problem, request))
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
    """Print the objectives of converged images: anisotropic periodic TV, periodic wavelets without shifts."""
    for task, runs in CONVERGED.items():
        table(f"converged {task}", *(f"objective by {name}" for name in runs))
        for name, (iterations, settings) in runs.items():
            image = str(folder / f"{task}_{name}.npy")
            workers[name](task, problem, {"settings": settings, "iterations": iterations, "image": image})
            request = {"of": task, "image": image, "settings": {"weight": settings["weight"]}}
            values = [workers[by]("objective", problem, request) for by in runs]
            print(f"| image of {name} | {' | '.join(f'{value:.5f}' for value in values)} |", flush=True)


def conjugate_gradients(workers: dict[str, Worker], problem: str, repeats: int) -> None:
    """Print the time of one iteration of CG-SENSE."""
    request = {"settings": {"weight": CG_WEIGHT}, "iterations": CG_ITERATIONS}
    runs = [{name: worker("cg", problem, request) for name, worker in workers.items()} for _ in range(repeats + 1)]
    table(f"CG, {CG_ITERATIONS} iterations", "ms per iteration", "error", "ours over it")
    seconds = {name: [run[name]["seconds"][-1] for run in runs[1:]] for name in workers}  # the first call allocates
    for name, times in seconds.items():
        step, error = 1e3 * statistics.median(times) / CG_ITERATIONS, runs[0][name]["errors"][-1]
        print(f"| {name} | {step:.1f} | {error:.5f} | {ratio(seconds['ours'], times)} |", flush=True)


def espirit(pythons: dict[str, str], problems: dict[str, str], repeats: int) -> None:
    """Print the time, error and memory of a calibration, whose memory is measured in fresh processes."""
    error = "mean over the object of 1 - abs(correlation) with the true maps"
    table("ESPIRiT", "s", error, "MB at the peak", "MB of them for the calibration", "ours over it")
    for size, problem in problems.items():
        workers = {name: library(name, python) for name, python in pythons.items() if name != "mrpro"}
        runs = [{name: worker("espirit", problem, {}) for name, worker in workers.items()} for _ in range(repeats + 1)]
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
        workers = {name: library(name, python) for name, python in pythons.items()}
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
