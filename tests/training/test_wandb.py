"""Runs at Weights & Biases: what they are told, that they go on, and that they never cost a training."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from spinwarp.cli.loggers import reported
from spinwarp.errors import InputError
from spinwarp.training.loggers import WandbRun, finish

wandb = pytest.importorskip("wandb")


class Run:
    """Stands for a run: remembers what it is given, and fails where it is told to."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.rows: list[dict[str, Any]] = []
        self.exit_codes: list[int] = []
        self.config = SimpleNamespace(update=lambda *_, **__: self.fail_at("config"))
        self.id = "abc"

    def fail_at(self, place: str) -> None:
        if place == self.fails:
            raise BrokenPipeError(f"the service of {place} is gone")

    def log(self, row: dict[str, Any]) -> None:
        self.fail_at("log")
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)
        self.fail_at("finish")


class Server:
    """Stands for ``wandb.init``: answers with runs, or with an error where it is online."""

    def __init__(self, error: Exception | None = None, fails: str = "") -> None:
        self.error, self.fails = error, fails
        self.asked: list[dict[str, Any]] = []
        self.runs: list[Run] = []

    def __call__(self, **settings: Any) -> Run:
        self.asked.append(settings)
        if self.error is not None and settings.get("mode") != "offline":
            raise self.error
        self.runs.append(Run(self.fails))
        return self.runs[-1]


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a stand-in in place of the server."""

    def put(server: Server) -> Server:
        monkeypatch.setenv("WANDB_MODE", "online")  # Lightning sets it; so it is put back
        monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
        monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)
        monkeypatch.setattr(wandb, "init", server)
        monkeypatch.setattr(wandb, "run", None)
        monkeypatch.setattr(wandb, "teardown", lambda: None)
        return server

    return put


def started(folder: Path, goes_on: bool = False, group: str | None = None, **settings: Any) -> WandbRun:
    logger = WandbRun(str(folder), **{"name": "unet equispaced_4x phantom", **settings})
    logger.begin(goes_on, group)
    return logger


def test_a_run_has_a_name_and_the_jobs_of_a_sweep_are_a_group(connect: Any, tmp_path: Path) -> None:
    server = connect(Server())
    started(tmp_path, group="2026-01-02")
    started(tmp_path, group="2026-01-02", name="mine")
    mine: dict[str, Any] = {"entity": "us", "tags": ["knee"], "log_model": "all", "offline": False}
    logger = WandbRun(str(tmp_path), project="knees", group="my own", id="mine", **mine)
    logger.begin(goes_on=False, group="2026-01-02")
    assert {key: server.asked[-1][key] for key in ("id", "entity", "tags")} == {
        "id": "mine", "entity": "us", "tags": ["knee"],
    }  # fmt: skip
    assert logger._log_model == "all"
    assert [(a["name"], a["group"], a["project"], a.get("mode")) for a in server.asked] == [
        ("unet equispaced_4x phantom", "2026-01-02", "spinwarp", "offline"),
        ("mine", "2026-01-02", "spinwarp", "offline"),
        (None, "my own", "knees", None),
    ]


def test_a_run_that_goes_on_has_the_same_id_and_a_new_one_in_the_folder_another(connect: Any, tmp_path: Path) -> None:
    server = connect(Server())
    for folder, goes_on in (("a", False), ("a", True), ("a", True), ("a", False), ("a", True), ("b", True)):
        started(tmp_path / folder, goes_on)
    ids = [asked["id"] for asked in server.asked]
    assert ids[0] == ids[1] == ids[2] and ids[3] == ids[4]
    assert len(set(ids)) == 3 and all(ids)
    assert all(asked["resume"] == "allow" for asked in server.asked)


@pytest.mark.parametrize(
    ("error", "code"), [(None, 0), (InputError("diverged"), 1), (SystemExit(143), 143), (KeyboardInterrupt(), 130)]
)
def test_the_run_is_told_how_the_training_ended(
    connect: Any, tmp_path: Path, error: BaseException | None, code: int
) -> None:
    server = connect(Server())
    logger = started(tmp_path)
    try:
        with reported([logger, object()]):
            if error is not None:
                raise error
    except BaseException as raised:
        assert raised is error
    assert server.runs[0].exit_codes == [code]


def test_a_dead_server_leaves_the_run_on_the_disk(
    connect: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = connect(Server(wandb.errors.CommError("timed out after 90 s")))
    with caplog.at_level(logging.WARNING, "spinwarp"):
        logger = started(tmp_path, offline=False)
        logger.log_metrics({"loss": 1.0}, 3)
        finish([logger], 0)
    assert "cannot be reached (timed out after 90 s); the run is written to" in caplog.text
    assert [asked.get("mode") for asked in server.asked] == [None, "offline"]
    assert server.asked[0]["id"] == server.asked[1]["id"]
    assert server.runs[0].rows == [{"loss": 1.0, "trainer/global_step": 3}]


def test_who_is_not_logged_in_is_told_before_training(connect: Any, tmp_path: Path) -> None:
    connect(Server(wandb.errors.UsageError("No API key configured.")))
    with pytest.raises(InputError, match=r"No API key configured.*wandb login, or set logger\.wandb\.offline=true"):
        started(tmp_path, offline=False)


@pytest.mark.parametrize("place", ["log", "config", "finish"])
def test_a_service_that_dies_costs_one_line(
    connect: Any, tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = connect(Server(fails=place))
    logger = started(tmp_path)
    with caplog.at_level(logging.WARNING, "spinwarp"):
        logger.log_hyperparams({"seed": 1})
        for step in range(3):
            logger.log_metrics({"loss": 1.0}, step)
        finish([logger], 1)
    assert caplog.text.count("(the service of") == 1
    assert server.runs[0].exit_codes == [1]
    assert len(server.runs[0].rows) == (0 if place == "log" else 3)


def test_processes_beside_the_first_send_nothing(connect: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = connect(Server())
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = WandbRun(str(tmp_path))
    finish([logger], 0)
    assert server.asked == [] and list(tmp_path.iterdir()) == []
