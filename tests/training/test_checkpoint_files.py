"""The files of checkpoints: when they are written, and that what is on the disk is whole."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from short_runs import QUIET, StopAt, run, unet

from spinwarp.errors import InputError
from spinwarp.training.checkpoints import WholeCheckpoints

pytestmark = QUIET


def test_a_checkpoint_is_written_after_each_validation_and_every_few_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    save = Trainer.save_checkpoint

    def note(trainer: Trainer, path: Any, *args: Any) -> None:
        if Path(path).name == "last.ckpt":
            written.append(trainer.global_step)
        save(trainer, path, *args)

    monkeypatch.setattr(Trainer, "save_checkpoint", note)
    run(tmp_path, unet, minutes=5)
    assert written == [6, 12, 18]
    clock = iter(range(10**6))  # a second whenever somebody looks
    monkeypatch.setattr("spinwarp.training.checkpoints.time.monotonic", lambda: 20.0 * next(clock))
    written.clear()
    run(tmp_path, unet, minutes=1)
    assert set(written) > {6, 12, 18} and len(set(written)) == len(written) < 18


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    writer = WholeCheckpoints()
    writer.save_checkpoint({"step": 1}, path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("spinwarp.training.checkpoints.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        writer.save_checkpoint({"step": 2}, path)
    assert writer.load_checkpoint(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_what_a_killed_run_had_begun_to_write_is_removed(tmp_path: Path) -> None:
    tmp_path.joinpath(".last.ckpt.12-34.part").write_bytes(b"half")
    tmp_path.joinpath(".something_else").write_bytes(b"kept")
    run(tmp_path, unet, max_epochs=1)
    assert {file.name for file in tmp_path.iterdir()} == {"last.ckpt", "best.ckpt", "metrics", ".something_else"}


def test_a_damaged_checkpoint_and_code_in_one_are_refused(tmp_path: Path) -> None:
    run(tmp_path, unet, max_epochs=1)
    path = tmp_path / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"last\.ckpt cannot be loaded as plain weights"):
        run(tmp_path, unet, going_on=True)
    torch.save({"code": StopAt(1)}, path)
    with pytest.raises(InputError, match=r"last\.ckpt cannot be loaded as plain weights"):
        run(tmp_path, unet, going_on=True)
