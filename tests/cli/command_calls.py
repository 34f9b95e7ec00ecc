"""Calls of the three commands as a user makes them, in a process of their own, and what they leave behind."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TINY = [f"data.source.files.{key}={value}" for key, value in {
    "n_train": 2, "n_val": 1, "n_test": 2, "n_slices": 2, "height": 64, "width": 64, "n_coils": 2,
}.items()]  # fmt: skip
TINY_UNET = ["model=unet_small", "model.net.channels=4", "model.net.pools=2"]
QUIET = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]


@dataclass
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line that starts with ``error:``; there is no traceback anywhere."""
        assert self.code == 1, (self.code, self.out, self.err)
        assert "Traceback" not in self.out + self.err, self.err
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        # nothing but a progress bar may stand above it
        assert self.err.rstrip().endswith(line), self.err
        return line


Command = Callable[..., Finished]


def folders(root: Path) -> dict[str, str]:
    """The environment of commands that have folders of their own for data, index and runs."""
    return {
        "SPINWARP_DATA": str(root / "data"),
        "SPINWARP_CACHE": str(root / "cache"),
        "SPINWARP_RUNS": str(root / "runs"),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }


def start(environment: dict[str, str], *arguments: str | Path, **settings: Any) -> subprocess.Popen[str]:
    removed = ("HYDRA_FULL_ERROR", "SPINWARP_STAMP")
    full = {k: v for k, v in os.environ.items() if k not in removed} | environment
    command = [sys.executable, *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **settings}
    return subprocess.Popen(command, env=full, text=True, **pipes)


def call(environment: dict[str, str], *arguments: str | Path, cwd: Path | None = None) -> Finished:
    process = start(environment, *arguments, cwd=cwd)
    out, err = process.communicate(timeout=240)
    return Finished(process.returncode, out, err)


def leftovers(folder: Path) -> list[str]:
    """Every file below a folder but Hydra's own record of the call."""
    found = [path for path in folder.rglob("*") if path.is_file() and ".hydra" not in path.parts]
    return sorted(path.name for path in found if path.suffix != ".log" and path.name != "multirun.yaml")


def report_of(path: Path) -> Any:
    """The head of a report page."""
    return json.loads(path.read_text().partition('id="head">')[2].partition("</script>")[0])
