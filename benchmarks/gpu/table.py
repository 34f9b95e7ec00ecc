"""The rows' results: printed as they come, in one JSON file and one Markdown table."""

import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gpu.setting import ROOT, Values

PACKAGES = ("torch", "triton", "lightning", "hydra-core", "torchmetrics", "numpy", "scipy", "h5py")


class Table:
    """The rows of all parts.

    Parameters
    ----------
    folder : of ``gpu.json`` and ``gpu.md``, which are written after every part.
    card : what :func:`device` says; empty of a dry run, whose numbers mean nothing.
    """

    def __init__(self, folder: Path, card: dict[str, str]) -> None:
        self.folder = folder
        self.dry = not card
        self.machine = machine() | card
        self.parts: dict[str, list[dict]] = {}
        self._begun = ("", 0.0)
        print("\n".join(f"{key}: {value}" for key, value in self.machine.items()), flush=True)

    def part(self, name: str) -> None:
        """Begin a part."""
        self.write()
        self.parts[name] = []
        print(f"\n== {name}", flush=True)

    def begin(self, row: str) -> None:
        """Note that a row has begun."""
        self._begun = (row, time.monotonic())

    def add(self, row: str, status: str, values: Values, note: str) -> None:
        """Note and print a row."""
        seconds = round(time.monotonic() - self._begun[1], 2) if self._begun[0] == row else 0.0
        rows = list(self.parts.values())[-1]
        rows.append({"row": row, "status": status, "seconds": seconds, "values": values, "note": note})
        message = ", ".join(f"{key} {value}" for key, value in values.items())
        print(f"{status:11} {row}  {message}{note}", flush=True)

    def complete(self, expected: list[str], status: str, reason: str) -> None:
        """Note the rows that did not come, and a part that did not even say which it has."""
        rows = {row["row"] for row in list(self.parts.values())[-1]}
        for row in expected or ["(all rows)"] * (not rows):
            if row not in rows:
                self.add(row, status, {}, reason)

    @property
    def failed(self) -> bool:
        """Whether a row failed."""
        return any(row["status"] == "failed" for rows in self.parts.values() for row in rows)

    def summary(self) -> str:
        """Count the rows by what became of them."""
        counts = Counter(row["status"] for rows in self.parts.values() for row in rows)
        return ", ".join(f"{n} {status}" for status, n in counts.items()) or "no rows"

    def write(self) -> None:
        """Write both files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"machine": self.machine, "dry": self.dry, "parts": self.parts}
        (self.folder / "gpu.json").write_text(json.dumps(content, indent=1) + "\n")
        (self.folder / "gpu.md").write_text(self.markdown())

    def markdown(self) -> str:
        """Return a table for each part."""
        lines = ["# spinwarp on a GPU", ""]
        if self.dry:
            lines += ["A dry run with tiny sizes: the times mean nothing.", ""]
        lines += [f"- {key}: {value}" for key, value in self.machine.items()]
        for part, rows in self.parts.items():
            columns = list(dict.fromkeys(key for row in rows for key in row["values"]))
            lines += ["", f"## {part}", "", f"| row | {' | '.join(['', *columns, 'note'])} |"]
            lines.append("|---" * (len(columns) + 3) + "|")
            for row in rows:
                cells = [row["row"], row["status"], *(row["values"].get(key, "") for key in columns), row["note"]]
                lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
        return "\n".join([*lines, ""])


def machine() -> dict[str, str]:
    """Describe the machine and the versions."""
    return {
        "date": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "revision": _say("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "system": f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores",
        "versions": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
    }


_DEVICE = """
import torch
torch.ones(1, device="cuda").add_(1).item()
card = torch.cuda.get_device_properties(0)
print(f"{card.name}, {card.total_memory / 1e9:.1f} GB, compute capability {card.major}.{card.minor}, "
      f"{card.multi_processor_count} multiprocessors, the first of {torch.cuda.device_count()}; "
      f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
"""


def device() -> dict[str, str]:
    """Describe the CUDA device and its driver, in a process of its own: some machines let only one use the device.

    Raises
    ------
    RuntimeError : with the reason why nothing can be computed on it.
    """
    done = subprocess.run([sys.executable, "-c", _DEVICE], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no reason was given"])[-1])
    query = ("--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader")
    return {
        "device": done.stdout.strip(),
        "driver": f"{_say('nvidia-smi', *query)} (version, highest clock, power limit)",
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _say(*command: str) -> str:
    """Return what a command prints, in one line."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return "; ".join(done.stdout.split("\n")).strip("; ")
