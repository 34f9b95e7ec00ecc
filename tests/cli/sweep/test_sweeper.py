"""The search with Optuna, as a user calls it: workers that are killed, trials that fail, the best one trained again."""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

from spinwarp.cli import train

ROOT = Path(__file__).parents[3]
TINY = [f"data.source.files.{key}={value}" for key, value in {
    "n_train": 2, "n_val": 1, "n_test": 2, "n_slices": 2, "height": 32, "width": 32, "n_coils": 2,
}.items()]  # fmt: skip
TRAIN = [
    *TINY, "model=unet_small", "model.net.channels=2", "model.net.pools=1", "trainer.max_epochs=1", "logger=none",
    "callbacks.panel=null", "callbacks.progress=null", "callbacks.last=null",
]  # fmt: skip
SEARCH = ["hydra/sweeper=optuna", "model.optimizer.lr=tag(log,interval(1e-3,1e-1))"]
FAST = ["hydra.sweeper.heartbeat_s=0.5", "hydra.sweeper.grace_s=5.0"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]

Train = Callable[..., tuple[float | None, int]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The phantoms are made once."""
    root = tmp_path_factory.mktemp("search")
    return {f"SPINWARP_{name.upper()}": str(root / name) for name in ("data", "cache", "runs")}


@pytest.fixture
def run_train(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Train]:
    """Run ``train.py`` in this process; returns what it returned last and the exit code."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    for name, value in {**folders, "SPINWARP_STAMP": "call"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.chdir(tmp_path)
    scores: list[float | None] = [None]
    original = train.train

    def spy(config: object) -> float | None:
        scores.append(original(config))
        return scores[-1]

    def run(*overrides: str) -> tuple[float | None, int]:
        monkeypatch.setattr(sys, "argv", ["train.py", *overrides])
        monkeypatch.setattr(train, "train", spy)
        GlobalHydra.instance().clear()
        try:
            train.main()
        except SystemExit as stop:
            return scores[-1], int(stop.code or 0)
        return scores[-1], 0

    yield run
    GlobalHydra.instance().clear()
    for handler in set(root.handlers) - set(before[0]):
        handler.close()
    root.handlers[:], root.level = before


def worker(folders: dict[str, str], *overrides: str) -> subprocess.Popen[str]:
    left_out = ("HYDRA_FULL_ERROR", "SPINWARP_STAMP")
    environment = {k: v for k, v in os.environ.items() if k not in left_out} | folders | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), "-m", *TRAIN, *SEARCH, *FAST, *overrides]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def trials(path: Path) -> list[tuple[int, str]]:
    """Number and state of each trial, read without Optuna's locks."""
    if not path.exists():
        return []
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            rows = connection.execute("select number, state from trials order by number").fetchall()
    except sqlite3.OperationalError:  # not made yet
        return []
    finally:
        if "connection" in locals():
            connection.close()
    return rows


@pytest.mark.slow
def test_two_workers_are_killed_go_on_and_the_best_trial_trains_again_to_the_same_metric(
    folders: dict[str, str], run_train: Train, tmp_path: Path
) -> None:
    where = ["hydra.sweeper.n_trials=8", f"hydra.sweep.dir={tmp_path}"]
    study = tmp_path / "study.db"
    workers = [worker(folders, *where) for _ in range(2)]
    deadline = time.monotonic() + 240
    try:
        # until three are complete and another one is running
        while [s for _, s in trials(study)].count("COMPLETE") < 3 or "RUNNING" not in [s for _, s in trials(study)]:
            assert time.monotonic() < deadline and all(one.poll() is None for one in workers), "no progress"
            time.sleep(0.05)
        for one in workers:
            one.send_signal(signal.SIGKILL)
    finally:
        for one in workers:
            one.kill()
            one.communicate()
    states = [state for _, state in trials(study)]
    assert 3 <= states.count("COMPLETE") < 8 and "RUNNING" in states
    assert not (tmp_path / "best.yaml").exists()

    workers = [worker(folders, *where) for _ in range(2)]
    output = [one.communicate(timeout=300)[0] for one in workers]
    assert [one.returncode for one in workers] == [0, 0], output
    assert any("was killed; its parameters are tried again" in text for text in output)
    assert all("8 trials have ended, 0 of them failed" in text for text in output)
    states = [state for _, state in trials(study)]
    assert states.count("COMPLETE") == 8 and "RUNNING" not in states
    complete = [
        t for t in optuna.load_study(study_name=None, storage=f"sqlite:///{study}").trials if t.value is not None
    ]
    assert len({t.params["model.optimizer.lr"] for t in complete}) == 8

    best = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert best["value"] == max(t.value for t in complete)
    assert (best["metric"], best["direction"]) == ("val/ssim", "maximize")
    assert (Path(best["folder"]) / "checkpoints" / "best.ckpt").is_file()
    assert all(best["command"] in " ".join(text.split("\n")) for text in output)
    score, code = run_train(*best["overrides"])
    assert (score, code) == (best["value"], 0)


@pytest.mark.slow
def test_a_trial_that_fails_is_written_down_and_the_search_goes_on(
    run_train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # this seed draws each of the four pairs once
    sampler = ["hydra.sweeper.sampler._target_=optuna.samplers.RandomSampler", "hydra.sweeper.sampler.seed=2"]
    searched = ["model.optimizer.lr=1e-3,1e30", "data.edge_slices=range(-1,1)", "hydra/sweeper=optuna"]
    where = ["hydra.sweeper.n_trials=4", f"hydra.sweep.dir={tmp_path}"]
    _, code = run_train("-m", *TRAIN, *searched, *sampler, *where)
    assert code == 0
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'study.db'}")
    reasons = sorted(t.user_attrs["error"] for t in study.trials if "error" in t.user_attrs)
    assert reasons[:2] == ["data.edge_slices is at least 0; got -1"] * 2
    assert reasons[2].startswith("the training loss is not finite since step")
    assert "4 trials have ended" in capsys.readouterr().out
    best = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert best["overrides"][-2:] == ["model.optimizer.lr=0.001", "data.edge_slices=0"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.optimizer.lr=1e-3"], "error: nothing is searched: give"),
        (["hydra.sweeper.n_trials=0", *SEARCH[1:]], "error: hydra.sweeper: n_trials is at least 1"),
        (
            ["callbacks.best=null", *SEARCH[1:]],
            "error: the direction of the search is unknown; give hydra.sweeper.direction=maximize",
        ),
        (["trainer.devices=2", *SEARCH[1:]], "error: a multirun with trainer.devices=2 would start"),
    ],
)
def test_a_search_that_cannot_be_ends_in_one_sentence(
    run_train: Train, capsys: pytest.CaptureFixture[str], overrides: list[str], message: str, tmp_path: Path
) -> None:
    where = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", f"hydra.sweep.dir={tmp_path}"]
    _, code = run_train("-m", *TRAIN, *where, *overrides)
    output = capsys.readouterr().err
    assert code == 1
    assert message in output and "Traceback" not in output
    assert not (tmp_path / "best.yaml").exists()


def test_without_optuna_the_search_says_how_to_get_it(
    run_train: Train, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "optuna"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    _, code = run_train("-m", *TRAIN, *SEARCH, f"hydra.sweep.dir={tmp_path}")
    assert code == 1
    assert "error: hydra/sweeper=optuna needs Optuna: pip install 'spinwarp[sweep]'" in capsys.readouterr().err
