"""How ``train.py`` begins and ends: disk, memory, and what it returns to a sweep."""

import errno
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spinwarp.cli.train import _best, _check_disk, _is_of, _sentences
from spinwarp.errors import InputError

TRAINER: Any = SimpleNamespace(is_global_zero=True)


def too_large() -> None:
    torch.empty(2**50)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), r"the GPU's memory is too small: lower data\.batch_size"),
        (MemoryError("Unable to allocate 3 TiB"), r"the memory is too small: lower data\.batch_size"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
            r"a process that loads data was killed, .* lower data\.num_workers",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; make room"),
    ],
)
def test_what_ran_out_is_said_in_a_sentence(error: Exception, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message), _sentences(TRAINER, tmp_path):
        raise error


def test_an_allocation_on_the_cpu_that_fails_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the memory is too small"), _sentences(TRAINER, tmp_path):
        too_large()  # as torch itself says it


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(errno.EACCES, "Permission denied")])
def test_other_errors_stay_what_they_are(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error), match=str(error.args[-1])), _sentences(TRAINER, tmp_path):
        raise error


# a million weights of four bytes, and Adam's two moments of each: 12 MB a checkpoint
@pytest.mark.parametrize(("free", "there", "enough"), [(35, 0, False), (37, 0, True), (11, 2, False), (13, 2, True)])
def test_a_disk_without_room_for_the_checkpoints_is_refused(
    free: int, there: int, enough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = torch.nn.Linear(1000, 1000, bias=False)
    module = SimpleNamespace(state_dict=net.state_dict, trained_parameters=net.parameters)
    (tmp_path / "checkpoints").mkdir()
    for name in ("best.ckpt", "last.ckpt")[:there]:
        (tmp_path / "checkpoints" / name).touch()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free * 1_000_000))
    if enough:
        _check_disk(tmp_path, module)
        return
    with pytest.raises(InputError, match=rf"has {free} MB left, .* take up to {12 * (3 - there)} MB; make room"):
        _check_disk(tmp_path, module)


@pytest.mark.parametrize(
    ("score", "metrics", "returned"),
    [(torch.tensor(0.9), {"val/ssim": 0.9}, 0.9), (None, {"val/ssim": 0.9}, math.nan), (None, {}, None)],
)
def test_a_sweep_is_given_the_best_score_or_nan_where_there_is_none(
    score: Any, metrics: dict[str, float], returned: float | None
) -> None:
    best = SimpleNamespace(monitor="val/ssim", best_model_score=score, best_model_path="best.ckpt")
    found = _best(SimpleNamespace(checkpoint_callback=best, callback_metrics=metrics, fast_dev_run=False))
    assert found == (None if returned is None else pytest.approx(returned, nan_ok=True))


def test_without_a_best_checkpoint_nothing_is_returned() -> None:
    assert _best(SimpleNamespace(checkpoint_callback=None, callback_metrics={})) is None


def test_a_checkpoint_is_of_the_run_in_whose_folder_it_lies(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert _is_of(str(tmp_path / "link" / "checkpoints" / "last.ckpt"), tmp_path / "run")
    assert not _is_of(str(tmp_path / "other" / "checkpoints" / "last.ckpt"), tmp_path / "run")
