"""Training that is killed, again and again, ends with the weights of training that was left alone.

The processes come from a server that has imported everything, so that each life costs little beside training.
"""

import contextlib
import itertools
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch

OVERRIDES = [
    *(f"data.source.files.{key}={value}" for key, value in {
        "n_train": 2, "n_val": 1, "n_test": 1, "n_slices": 5, "height": 64, "width": 64, "n_coils": 2,
    }.items()),
    "model=unet_small", "model.net.channels=2", "model.net.pools=2", "model.net.dropout=0.2",
    "trainer.max_epochs=10", "trainer.log_every_n_steps=1", "callbacks.early_stopping.patience=100",
    "callbacks.panel=null", "callbacks.progress=null",
]  # fmt: skip
STEPS = 10 * 10
KILLS = 10


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where data and runs go."""
    return tmp_path_factory.mktemp("killed")


def train(root: str, log: str, overrides: list[str]) -> None:
    """Call ``train.py`` in this process."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    for name in ("HYDRA_FULL_ERROR", "SPINWARP_STAMP"):
        os.environ.pop(name, None)
    for name in ("DATA", "CACHE", "RUNS"):
        os.environ[f"SPINWARP_{name}"] = f"{root}/{name.lower()}"
    sys.argv = ["train.py", *OVERRIDES, *overrides]

    from spinwarp.cli.train import main

    main()


@contextlib.contextmanager
def life(root: Path, run: str, *overrides: str) -> Iterator[ForkServerProcess]:
    """A process that trains in the run folder ``root/run``, its words in ``root/run.log``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning", "hydra", "spinwarp.training", "spinwarp.data.module"])
    words = [f"hydra.run.dir={root / run}", "ckpt_path=last", *overrides]
    process = context.Process(target=train, args=(str(root), str(root / f"{run}.log"), words))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"]) if path.exists() else 0


def wait_for(process: ForkServerProcess, happened: Any) -> None:
    deadline = time.monotonic() + 240
    while not happened():
        assert process.is_alive(), "training ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def stop_within_a_writing(process: ForkServerProcess, folder: Path) -> None:
    """Freeze the process while the temporary file of a checkpoint lies there."""
    assert process.pid is not None
    while True:
        wait_for(process, lambda: any(folder.glob(".last.ckpt.*.part")))
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(0.01)  # it takes effect a little later
        if any(folder.glob(".last.ckpt.*.part")):
            return
        os.kill(process.pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def straight(root: Path) -> dict[str, Any]:
    """The last checkpoint of a run that was left alone; it writes after each validation only."""
    with life(root, "straight") as process:
        process.join(240)
        assert process.exitcode == 0, (root / "straight.log").read_text()
    assert "checkpoints/last.ckpt yet; training starts from the beginning" in (root / "straight.log").read_text()
    content: dict[str, Any] = torch.load(root / "straight" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == STEPS
    return content


def assert_the_run_that_would_have_been(content: dict[str, Any], straight: dict[str, Any]) -> None:
    assert content["global_step"] == STEPS
    for name, value in straight["state_dict"].items():
        assert torch.equal(value, content["state_dict"][name]), name
    moments, expected = (state["optimizer_states"][0]["state"] for state in (content, straight))
    for index, state in expected.items():
        assert all(torch.equal(value, moments[index][name]) for name, value in state.items())


@pytest.mark.slow
def test_training_killed_at_any_moment_goes_on_and_ends_with_the_same_weights(
    root: Path, straight: dict[str, Any]
) -> None:
    moments = random.Random(20)
    folder = root / "killed" / "checkpoints"
    last = folder / "last.ckpt"
    steps = [0]
    for kill in range(KILLS):
        with life(root, "killed", "callbacks.last.minutes=0") as process:
            before = last.stat().st_mtime_ns if last.exists() else 0
            wait_for(process, lambda: last.exists() and last.stat().st_mtime_ns > before)  # noqa: B023
            if kill % 2:
                delay = moments.uniform(0, 0.2)
                time.sleep(delay)
                print(f"killed {delay:.3f} s after a checkpoint")  # noqa: T201
            else:
                stop_within_a_writing(process, folder)
                print("killed while a checkpoint was written")  # noqa: T201
            assert process.is_alive()
            process.kill()  # SIGKILL
            process.join()
            assert process.exitcode == -signal.SIGKILL
        steps.append(step_of(last))  # whole, whatever lies beside it
        assert kill % 2 or list(folder.glob(".last.ckpt.*.part"))
    print("checkpoints left behind, by step:", steps)  # noqa: T201
    assert all(later > earlier for earlier, later in itertools.pairwise(steps))
    assert any(step % 10 for step in steps), "no kill came within an epoch"
    with life(root, "killed") as process:
        process.join(240)
        assert process.exitcode == 0, (root / "killed.log").read_text()
    words = (root / "killed.log").read_text()
    assert all(f"going on from step {step} (epoch {step // 10}) of {last}" in words for step in steps[1:])
    assert_the_run_that_would_have_been(torch.load(last, weights_only=True), straight)
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    tables = [(root / run / "metrics" / "metrics.csv").read_text() for run in ("killed", "straight")]
    assert tables[0] == tables[1]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_training_told_to_stop_saves_says_how_to_go_on_and_does(
    root: Path, straight: dict[str, Any], number: signal.Signals, code: int
) -> None:
    last = root / number.name / "checkpoints" / "last.ckpt"
    with life(root, number.name) as process:
        wait_for(process, last.exists)  # in the second epoch
        written = step_of(last)
        assert process.pid is not None
        os.kill(process.pid, number)
        process.join(60)
        assert process.exitcode == code
    words = (root / f"{number.name}.log").read_text()
    assert "after this step the run is saved and ends" in words
    assert f"interrupted; continue with ckpt_path={last}, or in this folder with ckpt_path=last hydra.run.dir=" in words
    assert "Traceback" not in words
    assert step_of(last) > written  # saved where it was stopped, not at the validation before
    with life(root, number.name) as process:
        process.join(240)
        assert process.exitcode == 0
    assert_the_run_that_would_have_been(torch.load(last, weights_only=True), straight)
