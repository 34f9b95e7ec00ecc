"""One command for whoever has a CUDA device: is everything right there, and how fast is it.

    make gpu                            # checks, speed, a short training, in at most eight minutes; OUT=FOLDER
    make gpu FASTMRI=PEER/bin/python    # fastMRI's VarNet beside ours; its environment: benchmarks/varnet.py
    python benchmarks/gpu --dry         # the same code with tiny sizes on the CPU

Each part is a process of its own with a fraction of the time, the most valuable first, so that what goes wrong in one
leaves the others alone. Leaves gpu.json, gpu.md and a log of each part. Ends with 1 if a row failed. docs/gpu.md says
what the columns mean.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent)  # this folder is the package gpu

#: part to its file and its fraction of the time; what one leaves over goes to the next
PARTS = {
    "methods": ("check_methods", 0.15),
    "training": ("check_training", 0.22),
    "networks": ("speed_networks", 0.22),
    "real training": ("speed_training", 0.15),
    "classical": ("speed_classical", 0.08),
    "compiled": ("speed_compiled", 0.18),
}
NEEDED = {
    "torch": "torch", "lightning": "lightning", "hydra": "hydra-core", "omegaconf": "omegaconf", "h5py": "h5py",
    "torchmetrics": "torchmetrics", "numpy": "numpy", "scipy": "scipy", "pywt": "PyWavelets",
    "matplotlib": "matplotlib", "PIL": "pillow", "rich": "rich",
}  # fmt: skip
LEAST = {"torch": (2, 6), "lightning": (2, 6)}  # of pyproject.toml, those that older environments lack
SECONDS = 460.0  # of all parts; the rest of the eight minutes is for starting and ending
DATA = 90.0  # seconds that the parts wait for the phantoms after the first part; those who need them make them then
LAST = 8.0  # seconds that a part has at least


def main() -> None:
    """Run all parts, or one of them for the process that watches it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the results")
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=PARTS, metavar="PART")
    parser.add_argument("--skip", default="$^", metavar="PATTERN", help="rows to leave out, a regular expression")
    parser.add_argument("--seconds", type=float, help="that all parts take at most; no limit where --dry")
    parser.add_argument("--fastmri", default=os.environ.get("FASTMRI", ""), help="a Python that has fastmri")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--channel", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if reason := _missing():
        sys.exit(reason)
    if options.seconds is None:
        options.seconds = float("inf") if options.dry else SECONDS
    options.out = options.out.resolve()
    if options.worker:
        _work(options)
        return
    from gpu.table import device

    try:
        card = {} if options.dry else device()
    except RuntimeError as reason:
        sys.exit(
            f"{sys.executable} cannot compute on a CUDA device ({reason}); python benchmarks/gpu --dry runs the same "
            f"code with tiny sizes on the CPU"
        )
    sys.exit(_run_all(options, card))


def _missing() -> str:
    """Say in a sentence what the interpreter lacks."""
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        return f"{sys.executable} lacks {', '.join(missing)}: pip install {' '.join(missing)}, or make gpu PYTHON=..."
    for package, least in LEAST.items():
        found = version(package)
        if tuple(int(n) for n in re.findall(r"\d+", found)[:2]) < least:
            return f"spinwarp needs {package} {'.'.join(map(str, least))} or newer, and {sys.executable} has {found}"
    if importlib.util.find_spec("spinwarp") is None:
        return "spinwarp is not on the path: run make gpu, or set PYTHONPATH=src"
    return ""


def _work(options: argparse.Namespace) -> None:
    """Run one part, or make its data, and tell the rows to the process that watches."""
    from gpu.setting import Setting, run

    device = "cpu" if options.dry or options.worker == "prepare" else "cuda"
    setting = Setting(device, options.dry, options.out / "work", options.fastmri)
    setting.folder.mkdir(parents=True, exist_ok=True)
    module = importlib.import_module(f"gpu.{options.worker}")
    with os.fdopen(options.channel, "w") as channel:
        rows = {name: row for name, row in module.rows(setting).items() if not re.search(options.skip, name)}
        run(rows, channel, setting)


def _run_all(options: argparse.Namespace, card: dict[str, str]) -> int:
    """Run the parts, print and write what they say; 1 if anything failed."""
    from gpu.table import Table

    table = Table(options.out, card)
    begin = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the parts end with this process
    # phantoms at full size take the CPU a minute, meanwhile checks run; tiny ones are made where they are needed
    data = None if options.dry else _start("prepare", options, None)
    try:
        fraction = 0.0
        for name in options.only:
            module, part = PARTS[name]
            fraction += part
            if data is not None and name != "methods":
                with contextlib.suppress(subprocess.TimeoutExpired):
                    data.wait(DATA)  # nothing is timed beside other work
            # what a part leaves over, the next ones have
            end = max(begin + fraction * options.seconds, time.monotonic() + LAST)
            _watch(name, module, end, options, table)
    except KeyboardInterrupt:
        print("\ninterrupted; what was finished is in the tables")
        return 130
    finally:
        if data is not None:
            _end(data)
        shutil.rmtree(options.out / "work", ignore_errors=True)  # half a gigabyte of phantoms
        table.write()
    print(f"\n{table.summary()}: {options.out / 'gpu.md'} and gpu.json, {time.monotonic() - begin:.0f} s")
    return 1 if table.failed else 0


def _start(module: str, options: argparse.Namespace, channel: int | None) -> subprocess.Popen:
    """Start a part; all that it prints goes to its log."""
    command = [sys.executable, str(HERE), "--worker", module, "--out", str(options.out)]
    command += ["--dry"] * options.dry + ["--fastmri", options.fastmri, f"--skip={options.skip}"]
    if channel is None:
        channel = os.open(os.devnull, os.O_WRONLY)
    command += ["--channel", str(channel)]
    log = options.out / f"{module}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, pass_fds=[channel], start_new_session=True
        )


def _watch(name: str, module: str, end: float, options: argparse.Namespace, table) -> None:
    """Run a part until it is done or its time is over, and note its rows as they come."""
    table.part(name)
    reader, writer = os.pipe()
    process = _start(module, options, writer)
    os.close(writer)
    expected, text, reason, ended = [], b"", "", False
    try:
        while not ended:
            left = max(0.0, end - time.monotonic())
            ready, _, _ = select.select([reader], [], [], None if left == float("inf") else left)
            if not ready:
                reason = "the time of this part was over"
                break
            chunk = os.read(reader, 1 << 16)
            ended = not chunk
            *lines, text = (text + chunk).split(b"\n")
            for line in lines:
                message = json.loads(line)
                expected = message.get("rows", expected)
                if "begin" in message:
                    table.begin(message["begin"])
                if "end" in message:
                    table.add(message["end"], message["status"], message["values"], message["note"])
    finally:
        os.close(reader)
        code = _end(process, 20.0 if ended else 0.0)
    if code and not reason:
        reason = f"the process ended with {code}; see {module}.log"
    late = "not reached" if reason.startswith("the time") else "failed"
    table.complete(expected, late, reason or "the part ended before it")


def _end(process: subprocess.Popen, patience: float = 0.0) -> int:
    """End a process and what it started, unless it ends by itself within some seconds."""
    for number, seconds in ((None, patience), (signal.SIGTERM, 5.0), (signal.SIGKILL, None)):
        if number is not None:
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(seconds)
    return process.wait()


if __name__ == "__main__":
    main()
