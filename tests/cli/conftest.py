"""Commands run in the process of a test, since starting one of its own costs seconds, and a run of train.py."""

import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_calls import ROOT, TINY, TINY_UNET, Command, Finished, call, folders
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


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of their own for data, index and runs; phantoms are made once."""
    return folders(tmp_path_factory.mktemp("commands"))


@pytest.fixture
def command(
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Command]:
    """Run a command in this process, its runs in ``tmp_path/runs``."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, {k: logging.getLogger(k).level for k in ("lightning.pytorch", "spinwarp")}
    for name, value in {**environment, "SPINWARP_RUNS": str(tmp_path / "runs")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.chdir(tmp_path)
    counter = iter(range(100))

    def run(name: str, *overrides: str | Path) -> Finished:
        monkeypatch.setenv("SPINWARP_STAMP", f"call_{next(counter)}")
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, overrides)])
        GlobalHydra.instance().clear()
        capsys.readouterr()
        code = 0
        try:
            importlib.import_module(f"spinwarp.cli.{name}").main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    yield run
    GlobalHydra.instance().clear()
    for handler in set(root.handlers) - set(before[0]):
        handler.close()
    root.handlers[:], root.level = before[0], before[1]
    for name, level in before[2].items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(scope="session")
def trained(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a small U-Net, trained by ``train.py`` from another folder."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    runs = tmp_path_factory.mktemp("runs")
    overrides = [*TINY, *TINY_UNET, "trainer.max_epochs=2", "trainer.log_every_n_steps=1"]
    done = call({**environment, "SPINWARP_RUNS": str(runs)}, ROOT / "train.py", *overrides, cwd=elsewhere)
    assert done.code == 0, done.err
    assert list(elsewhere.iterdir()) == []
    assert "realised R" in done.out
    (folder,) = (runs / "train").iterdir()
    assert str(folder) in done.out
    return folder


@pytest.fixture
def measured(environment: dict[str, str], trained: Path) -> Path:
    """A phantom of the test split."""
    (path,) = Path(environment["SPINWARP_DATA"]).rglob("phantom_test_0000.h5")
    return path
