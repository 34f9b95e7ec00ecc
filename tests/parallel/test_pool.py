"""Processes that a command starts, watches and ends."""

import os
import signal
import time
from pathlib import Path

import pytest

from spinwarp.errors import InputError
from spinwarp.parallel import pool, processes


def work(argument: tuple[str, Path], advance: pool.Advance) -> None:
    what, note = argument
    advance(0.5)
    if what == "die":
        while not note.exists():  # the other one has begun
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "complain":
        raise InputError("this cannot be")
    elif what == "wait":
        note.touch()
        try:
            time.sleep(120)
        except KeyboardInterrupt:
            note.write_text("put away")
            raise
    advance(1.5)


def test_every_argument_is_worked_on_and_progress_adds_up(tmp_path: Path) -> None:
    reported: list[float] = []
    pool.run(work, [("do", tmp_path), ("do", tmp_path)], reported.append)
    assert sum(reported) == 4.0


def test_a_killed_process_ends_the_others_which_may_put_their_work_away(tmp_path: Path) -> None:
    note = tmp_path / "note"
    with pytest.raises(InputError, match=r"process 1 of 2 was killed \(SIGKILL"):
        pool.run(work, [("wait", note), ("die", note)], lambda _: None)
    assert note.read_text() == "put away"


def test_what_a_process_complains_of_is_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        pool.run(work, [("complain", tmp_path), ("do", tmp_path)], lambda _: None)
    assert stop.value.code == 1
    assert capfd.readouterr().err == "error: this cannot be\n"


SLURM = {
    "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1",
}  # fmt: skip


def test_the_tasks_of_srun_agree_on_a_stamp_without_talking(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.place() == processes.Place(0, 0, 1)
    assert processes.agreed("now") == "now"
    assert processes.is_first()
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert processes.place() == processes.Place(3, 1, 4)
    assert not processes.is_first()
    assert processes.agreed("now") == "slurm_77_0"


def test_the_last_one_to_be_done_knows_it_and_old_notes_do_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {**SLURM, "SLURM_STEP_NUM_TASKS": "2"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "1.done").write_text("an older run")
    found = []
    for rank in ("0", "1", "1"):
        monkeypatch.setenv("SLURM_PROCID", rank)
        found.append(processes.is_last(tmp_path, "this run"))
    assert found == [False, True, False]
