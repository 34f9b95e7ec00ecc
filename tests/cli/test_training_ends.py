"""How ``train.py`` begins and ends: disk, memory, and what it returns to a sweep."""

import errno
import math
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from spinwarp.cli import resume, train
from spinwarp.cli.train import _best, _check_disk, _sentences
from spinwarp.errors import InputError
from spinwarp.losses import L1Loss
from spinwarp.models.unet import MagnitudeUNet
from spinwarp.training import UNetModule

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
    [
        (torch.tensor(0.9), {"val/ssim": 0.9}, 0.9),
        (torch.tensor(0.9), {}, 0.9),
        (None, {"val/ssim": 0.9}, math.nan),
        (None, {}, None),
    ],
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
    assert resume.goes_on_in(tmp_path / "run", str(tmp_path / "link" / "checkpoints" / "last.ckpt"))
    assert not resume.goes_on_in(tmp_path / "run", str(tmp_path / "other" / "checkpoints" / "last.ckpt"))
    assert not resume.goes_on_in(tmp_path / "run", None)


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
def test_a_new_run_does_not_overwrite_the_checkpoints_of_an_earlier_one(tmp_path: Path, name: str) -> None:
    resume.check_nothing_is_overwritten(tmp_path, None)
    path = tmp_path / "checkpoints" / name
    path.parent.mkdir()
    path.touch()
    resume.check_nothing_is_overwritten(tmp_path, str(path))  # goes on here
    for checkpoint in (None, str(tmp_path / "other" / "last.ckpt")):
        with pytest.raises(InputError, match=rf"{name} is of an earlier training.* by ckpt_path=last.*hydra\.run\.dir"):
            resume.check_nothing_is_overwritten(tmp_path, checkpoint)


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    other = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", other, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(InputError, match=r"another process trains in .*hydra\.run\.dir"), resume.alone_in(tmp_path):
            pass
        process.kill()
    with resume.alone_in(tmp_path):
        pass


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"val_check_interval": 1000}, r"`val_check_interval` \(1000\) must be less"),
        ({"limit_train_batches": 0.01}, "increase the `limit_train_batches`"),
        ({"callbacks": [lightning.pytorch.callbacks.EarlyStopping("val/foo")]}, "val/foo` which is not available"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*logging interval", "ignore:.*LeafSpec")
def test_what_lightning_finds_wrong_with_its_settings_is_said_in_a_sentence(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, **settings,
    )  # fmt: skip
    with pytest.raises(InputError, match=f"^these settings of trainer or callbacks do not work: .*{words}"):  # noqa: SIM117
        with _sentences(trainer, tmp_path):
            trainer.fit(BoringModel())


def test_an_optimizer_that_refuses_its_arguments_is_named() -> None:
    module = UNetModule(MagnitudeUNet(channels=2, pools=1), L1Loss(), partial(torch.optim.Adam, lr=-1.0))
    with pytest.raises(InputError, match=r"model\.optimizer cannot be built: Invalid learning rate: -1"):
        module.configure_optimizers()


@pytest.mark.parametrize(
    ("setting", "words"),
    [("seed=-1", "seed=-1 must be from 0"), ("trainer.accumulate_grad_batches=0", "must be at least 1")],
)
def test_a_number_out_of_range_is_refused_at_once(run: Any, setting: str, words: str) -> None:
    done = run(train.main, setting)
    assert done.code == 1 and words in done.err and "Traceback" not in done.err
