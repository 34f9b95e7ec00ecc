"""The speed of spinwarp beside its peers, in one table: docs/benchmarks.md.

    make benchmarks                                   # all rows
    make benchmarks ROWS="VarNet loading"             # rows whose name holds one of the words
    python benchmarks/speed.py --peers FOLDER         # the same; FOLDER is that of benchmarks/peers.sh

Each side of a row is a process of its own; both run in turn, A B A B, so that a machine that drifts slows both. A ratio
is that of neighbouring runs. A row takes as many pairs as fit into ``--seconds``, at least two after one that does not
count. The ratios are kept in ``benchmarks/speed.json``: a row all of whose ratios lie above the one before is marked.
After Ctrl-C the table has the rows that were finished; the others stay as they were.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from peer import Worker, serve

ROOT = Path(__file__).parents[1]
RECORD, PAGE = Path(__file__).with_name("speed.json"), ROOT / "docs" / "benchmarks.md"
HEAD = """# Speed beside the peers

`make benchmarks` wrote this page (`benchmarks/speed.py`). Each side of a row has a process of its own and the same
number of threads, and both run in turn. The ratio is our time over the peer's, the median of neighbouring runs with its
range; without a peer it is the time itself. "One solve" is the same method with the weight given. A row is marked if it
misses its goal, or if all its ratios lie above the one before.
"""
COLUMNS = "| row | ours | peer | ratio (range) | goal | | measured |\n|:--|--:|--:|--:|--:|:--|:--|"
HERE = ("h5py", "skimage", "one solve")  # sides that run in our own environment


def work(side: str) -> None:
    """Answer the name of a row with the seconds of one run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    if side == "deepinv":
        _allow_torchvision_without_operators()
    if side == "ours":
        from spinwarp.hardware import keep_freed_memory

        keep_freed_memory()  # as every command does
    from speed_rows import ROWS, run_of

    ready: dict[str, Any] = {}

    def answer(name: str) -> float:
        if name not in ready:
            ready.clear()
            ready[name] = run_of(next(row for row in ROWS if row.name == name), side)
        return ready[name]()

    serve(answer)


def _allow_torchvision_without_operators() -> None:
    """Let deepinv import a torchvision whose compiled operators do not fit this torch; nothing here uses them."""
    import torch

    register = torch.library.register_fake

    def quiet(name: Any, *arguments: Any, **options: Any) -> Any:
        if str(name).startswith("torchvision::"):
            return lambda function: function
        return register(name, *arguments, **options)

    torch.library.register_fake = quiet


def start(side: str, python: str, threads: int) -> Worker:
    """Start the process of one side."""
    # deepinv's side reads the network of our benchmark, which imports torch alone
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", "PYTHONPATH": os.pathsep.join(paths)}
    return Worker(side, [python, __file__, "--worker", side], **environment)


def measure(name: str, sides: dict[str, Worker], seconds: float) -> dict[str, list[float]]:
    """Run the sides in turn until the time is over."""
    for worker in sides.values():
        worker(name)
    found: dict[str, list[float]] = {side: [] for side in sides}
    end = time.monotonic() + seconds
    while len(found["ours"]) < 2 or (time.monotonic() < end and len(found["ours"]) < 7):
        for side, worker in sides.items():
            found[side].append(worker(name))
    return found


def judged(name: str, peer: str, goal: float, found: dict[str, list[float]], before: dict | None) -> dict[str, Any]:
    """Return what is kept of a row: medians, ratios, and whether it got slower.

    Parameters
    ----------
    found : seconds of the sides.
    before : the same of an earlier call.
    """
    row: dict[str, Any] = {"name": name, "peer": peer, "goal": round(goal, 2), "date": str(date.today())}
    row["seconds"] = {side: float(f"{statistics.median(values):.3g}") for side, values in found.items()}
    values = found["ours"] if len(found) == 1 else [a / b for a, b in zip(found["ours"], found[peer], strict=True)]
    row["values"] = [round(v, 3) for v in (statistics.median(values), min(values), max(values))]
    row["slower"] = before is not None and before["values"][0] < row["values"][1]
    row["before"] = before["values"][0] if before is not None else None
    return row


def line(row: dict[str, Any]) -> str:
    """Return a row of the Markdown table."""
    peer, seconds = row["peer"], row["seconds"]
    middle, low, high = row["values"]
    unit = "" if len(seconds) > 1 else " s"
    marks = ["" if middle <= row["goal"] else "misses its goal"]
    if row["slower"]:
        marks.append(f"slower than before ({row['before']:.2f})")
    theirs = f"{peer} {_time(seconds[peer])}" if peer in seconds else "-"
    ratio, goal = f"{middle:.2f} ({low:.2f} to {high:.2f}){unit}", f"{row['goal']:.2f}{unit}"
    cells = (row["name"], _time(seconds["ours"]), theirs, ratio, goal, ", ".join(filter(None, marks)), row["date"])
    return f"| {' | '.join(cells)} |"


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def write(record: dict[str, Any]) -> None:
    """Write the record and the page."""
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    machine = "\n".join(f"- {key}: {value}" for key, value in record["machine"].items())
    rows = "\n".join(line(row) for row in record["rows"].values())
    PAGE.write_text(f"{HEAD}\n{machine}\n\n{COLUMNS}\n{rows}\n")


def machine(pythons: dict[str, str], threads: int) -> dict[str, str]:
    """Return what the times depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    asked = {"ours": ("torch", "numpy", "h5py", "scikit-image"), **{peer: (peer,) for peer in pythons}}
    versions = []
    for side, packages in asked.items():
        for package in packages:
            command = f"from importlib.metadata import version; print(version({package!r}))"
            try:
                found = version(package) if side == "ours" else _ask(pythons[side], command)
            except (PackageNotFoundError, subprocess.SubprocessError):
                found = "unknown"
            versions.append(f"{package} {found}")
    return {
        "processor": f"{names[0] if names else platform.processor()}, {os.cpu_count()} threads, {threads} used",
        "load when it began": ", ".join(f"{x:.1f}" for x in os.getloadavg()) + " (processes that wanted a core)",
        "Python": platform.python_version(),
        "packages": ", ".join(versions),
    }


def _ask(python: str, command: str) -> str:
    return subprocess.run([python, "-c", command], capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Measure the chosen rows."""
    from speed_rows import ROWS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="measure the rows whose names hold one of these words")
    parser.add_argument("--peers", type=Path, help="folder of benchmarks/peers.sh")
    parser.add_argument("--seconds", type=float, default=40, help="for the pairs of a row")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return
    rows = [row for row in ROWS if not options.words or any(w.lower() in row.name.lower() for w in options.words)]
    if not rows:
        parser.error(f"no row holds one of these words; the rows are: {'; '.join(row.name for row in ROWS)}")
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {"rows": {}}
    # all of them, because the page keeps the rows that are not measured now
    wanted = {row.peer for row in ROWS if row.peer and row.peer not in HERE}
    places = {peer: options.peers / peer / "bin" / "python" for peer in wanted} if options.peers else {}
    pythons = {peer: str(place) for peer, place in places.items() if place.exists()}
    record["machine"] = machine(pythons, options.threads)
    for key, value in record["machine"].items():
        print(f"{key}: {value}")
    try:
        for row in rows:
            python = sys.executable if row.peer in HERE else pythons.get(row.peer)
            if row.peer and python is None:
                print(f"{row.name}: left out, there is no environment of {row.peer} (benchmarks/peers.sh)", flush=True)
                continue
            started = time.monotonic()
            sides = {"ours": start("ours", sys.executable, options.threads)}
            if python:
                sides[row.peer] = start(row.peer, python, options.threads)
            try:
                found = measure(row.name, sides, options.seconds)
            except SystemExit as stop:  # a worker ended, and said why
                print(f"{row.name}: left out, {stop}", flush=True)
                continue
            finally:
                for worker in sides.values():
                    worker.close()
            new = judged(row.name, row.peer, row.goal, found, record["rows"].get(row.name))
            record["rows"][row.name] = new
            order = {r.name: i for i, r in enumerate(ROWS)}
            record["rows"] = dict(sorted(record["rows"].items(), key=lambda item: order.get(item[0], len(order))))
            print(f"{line(new)} {time.monotonic() - started:.0f} s", flush=True)
            write(record)
    except KeyboardInterrupt:
        print(f"interrupted; {PAGE} has the rows that were finished")
        raise SystemExit(130) from None
    print(f"written to {PAGE}")


if __name__ == "__main__":
    main()
