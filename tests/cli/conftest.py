"""A command run in the process of a test: starting one of its own costs seconds."""

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from spinwarp.cli import app
from spinwarp.parallel import processes

pytest.register_assert_rewrite("live_server")

Task = Callable[[DictConfig], Any]


@dataclass
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Run a command in this process, with a task of the test's or the command's own."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.getLogger("spinwarp").level
    for name in ("DATA", "CACHE", "RUNS"):
        monkeypatch.setenv(f"SPINWARP_{name}", str(tmp_path / name.lower()))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv(processes.STAMP, "now")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(command: str | Callable[[], None], *overrides: str, task: Task | None = None) -> Ended:
        monkeypatch.setattr(sys, "argv", ["command.py", *overrides])
        GlobalHydra.instance().clear()
        capsys.readouterr()
        code: Any = 0
        try:
            if callable(command):
                command()
            else:
                assert task is not None
                app.run(command, task, {})
        except SystemExit as stop:
            code = stop.code
        return Ended(code, *capsys.readouterr())

    yield call
    GlobalHydra.instance().clear()
    for handler in set(root.handlers) - set(before[0]):
        handler.close()
    root.handlers[:], root.level = before[0], before[1]
    logging.getLogger("spinwarp").setLevel(before[2])
