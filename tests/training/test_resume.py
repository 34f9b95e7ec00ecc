"""A run that was stopped and taken up again is the run that would have been, bit for bit."""

import csv
import errno
import os
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from memory import MemorySource

from spinwarp.data.augment import FlipsAndPhase
from spinwarp.data.module import FastMRIDataModule
from spinwarp.errors import InputError
from spinwarp.losses import L1Loss
from spinwarp.masks import RandomMask
from spinwarp.models.denoiser import Denoiser
from spinwarp.models.score_unet import ScoreUNet
from spinwarp.models.unet import MagnitudeUNet
from spinwarp.training import ScoreModule, UNetModule
from spinwarp.training.base import NetworkModule
from spinwarp.training.callbacks import LearningRateWhenLogged
from spinwarp.training.checkpoints import BestCheckpoint, LastCheckpoint, WholeCheckpoints
from spinwarp.training.loggers import MetricsTable
from spinwarp.training.schedule import Cosine

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    # torch renamed a class that Lightning still asks for
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]

BATCHES = 6  # an epoch of the twelve slices, two at a time


def unet(seed: int = 0) -> NetworkModule:
    """Draws dropout in every step."""
    seed_everything(seed, verbose=False)
    net = MagnitudeUNet(channels=2, pools=2, dropout=0.3)
    return UNetModule(net, L1Loss(), partial(torch.optim.Adam, lr=1e-3), Cosine())


def score(seed: int = 0) -> NetworkModule:
    """Draws noise levels, noise and dropout, and keeps the average of its weights."""
    seed_everything(seed, verbose=False)
    net = Denoiser(ScoreUNet(2, widths=(8, 8), dropout=0.2), "complex")
    return ScoreModule(net, partial(torch.optim.Adam, lr=1e-3), Cosine())


class NumpyNoise(UNetModule):
    """Draws from numpy and Python, as a network of somebody else may."""

    def training_step(self, example: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(example, batch_idx) * (1 + np.random.rand() + random.random())


def numpy_noise(seed: int = 0) -> NetworkModule:
    seed_everything(seed, verbose=False)
    return NumpyNoise(MagnitudeUNet(channels=2, pools=2), L1Loss(), partial(torch.optim.Adam, lr=1e-3))


class StopAt(Callback):
    """Pulls the plug within a batch; what is on the disk then is all that is left."""

    def __init__(self, n_batches: int | None) -> None:
        self.n_batches = n_batches
        self.seen = 0

    def on_train_batch_end(self, *args: Any) -> None:
        self.seen += 1
        if self.seen == self.n_batches:
            raise UnpluggedError


class UnpluggedError(Exception):
    pass


def run(
    folder: Path,
    make: Callable[[int], NetworkModule],
    stop: int | None = None,
    going_on: bool = False,
    workers: int = 0,
    minutes: float = 0,
    callbacks: tuple[Callback, ...] = (),
    ckpt: str = "last.ckpt",
    **settings: Any,
) -> dict[str, Any]:
    """Train in ``folder``; returns the content of its last checkpoint."""
    module = make(99 if going_on else 0)  # whatever a resumed process draws first
    torch.rand(7 if going_on else 1)
    mask = None if module.whole_images else RandomMask([0.16], [4])
    data = FastMRIDataModule(
        MemorySource(crop=(24, 32)), mask, batch_size=2, num_workers=workers, augment=FlipsAndPhase()
    )
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 3,
        "gradient_clip_val": 1.0,
        "logger": MetricsTable(str(folder / "metrics")),
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "plugins": [WholeCheckpoints()],
        "callbacks": [
            LearningRateWhenLogged(logging_interval="step"),
            EarlyStopping("val/loss", patience=20, check_on_train_epoch_end=False),
            BestCheckpoint(
                folder, "best", monitor="val/loss", enable_version_counter=False, save_on_train_epoch_end=False
            ),
            LastCheckpoint(str(folder), minutes=minutes),
            StopAt(stop),
            *callbacks,
        ],
        "default_root_dir": folder,
    }
    trainer = Trainer(**{**defaults, **settings})
    if stop is None:
        trainer.fit(module, datamodule=data, ckpt_path=str(folder / ckpt) if going_on else None)
    else:
        with pytest.raises(UnpluggedError):
            trainer.fit(module, datamodule=data, ckpt_path=str(folder / ckpt) if going_on else None)
    return torch.load(folder / "last.ckpt", weights_only=True)


# the run folders differ; the score validated last is stored by Lightning, but neither restored nor used
APART = ("_path", "dirpath", "best_k_models", "current_score")


def assert_same(one: Any, other: Any, place: str = "") -> None:
    """Everything of a checkpoint, to the bit: weights, averages, optimizer, schedule, counters, callbacks."""
    assert type(one) is type(other), place
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        keys = {key for key in one if not str(key).endswith(APART)}
        assert keys == {key for key in other if not str(key).endswith(APART)}, place
        for key in keys:
            assert_same(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{place}[{i}]")
    else:
        assert one == other, place


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics" / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


# what is on the disk is of the step before: a run that is stopped within its third batch goes on from the second step
STOPS = [
    (score, (3,), {}),  # within the first epoch
    (unet, (6,), {}),  # in its last batch
    (score, (7, 1, 3), {}),  # at its end; again and again, once without a single step
    (numpy_noise, (13, 6), {}),
    (unet, (3, 8), {"workers": 2}),  # which have prepared batches that nobody has trained
    (unet, (5, 7), {"val_check_interval": 2}),  # at validations within an epoch
    (unet, (7, 8), {"check_val_every_n_epoch": 2}),  # at the end of an epoch without one
    (score, (4, 4), {"accumulate_grad_batches": 2}),  # within what a step collects
    (unet, (7,), {"accumulate_grad_batches": 4}),  # the last step of an epoch has less to collect
    (unet, (5, 3), {"limit_train_batches": 4}),
    (unet, (5, 10), {"max_epochs": -1, "max_steps": 15}),  # ends within an epoch
]


# torch forks its workers; Python from 3.12 on warns of that in a process with threads
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize(("make", "stops", "settings"), STOPS)
def test_a_run_that_was_stopped_ends_as_the_one_that_was_not(
    tmp_path: Path, make: Callable[[int], NetworkModule], stops: tuple[int, ...], settings: dict[str, Any]
) -> None:
    straight = run(tmp_path / "straight", make, **settings)
    for i, stop in enumerate(stops):
        run(tmp_path / "stopped", make, stop=stop, going_on=i > 0, **settings)
    resumed = run(tmp_path / "stopped", make, going_on=True, **settings)
    assert_same(straight, resumed)
    assert table(tmp_path / "stopped") == table(tmp_path / "straight")


def test_more_steps_after_an_end_within_an_epoch_are_those_that_would_have_followed(tmp_path: Path) -> None:
    endless: dict[str, Any] = {"max_epochs": -1}
    straight = run(tmp_path / "straight", numpy_noise, max_steps=15, **endless)
    for i, max_steps in enumerate((4, 12, 15)):
        resumed = run(tmp_path / "longer", numpy_noise, going_on=i > 0, max_steps=max_steps, **endless)
        assert resumed["global_step"] == max_steps
    assert_same(straight, resumed)


def test_the_best_checkpoint_can_be_gone_on_from_too(tmp_path: Path) -> None:
    """Lightning writes it within a validation."""
    straight = run(tmp_path / "straight", score, max_epochs=2)
    run(tmp_path / "stopped", score, stop=7, max_epochs=2)
    assert torch.load(tmp_path / "stopped" / "best.ckpt", weights_only=True)["global_step"] == BATCHES
    resumed = run(tmp_path / "stopped", score, going_on=True, max_epochs=2, ckpt="best.ckpt")
    assert_same(straight["state_dict"], resumed["state_dict"])
    assert_same(straight["optimizer_states"], resumed["optimizer_states"])


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


# ----------------------------------------------------------------------------------------------- the best checkpoint


class Scores(NumpyNoise):
    """Its validation loss is what the test says, epoch by epoch."""

    scores: ClassVar[list[float]] = []

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log("score", self.scores[self.current_epoch])


def score_run(folder: Path, going_on: Path | None = None, **settings: Any) -> BestCheckpoint:
    module = Scores(MagnitudeUNet(channels=2, pools=2), L1Loss(), partial(torch.optim.Adam, lr=1e-3))
    best = BestCheckpoint(
        folder, monitor="score", mode="max", save_on_train_epoch_end=False, enable_version_counter=False,
        **{"filename": "best", **settings},
    )  # fmt: skip
    trainer = Trainer(
        accelerator="cpu", max_epochs=2 if going_on is None else 4, limit_train_batches=1, limit_val_batches=1,
        logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        plugins=[WholeCheckpoints()], callbacks=[best, LastCheckpoint(str(folder))], default_root_dir=folder,
    )  # fmt: skip
    data = FastMRIDataModule(MemorySource(crop=(24, 32)), RandomMask([0.16], [4]), batch_size=2)
    trainer.fit(module, datamodule=data, ckpt_path=None if going_on is None else str(going_on / "last.ckpt"))
    return best


@pytest.mark.parametrize(
    ("later", "kept_at", "kept"),
    [([0.5, 0.6], 1, 0.7), ([0.8, 0.6], 3, 0.8)],  # nothing better came; something did
)
@pytest.mark.parametrize("how", ["in place", "moved", "copied"])
def test_only_a_better_score_replaces_the_best_checkpoint_wherever_the_run_is(
    how: str, later: list[float], kept_at: int, kept: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scores, "scores", [0.7, 0.4, *later])
    first, second = tmp_path / "first", tmp_path / ("first" if how == "in place" else "second")
    score_run(first)
    if how != "in place":
        (shutil.move if how == "moved" else shutil.copytree)(first, second)
    best = score_run(second, going_on=second)
    assert float(best.best_model_score or 0) == pytest.approx(kept)
    assert best.best_model_path == str(second / "best.ckpt")
    assert torch.load(second / "best.ckpt", weights_only=True)["global_step"] == kept_at
    if how == "copied":
        assert torch.load(first / "best.ckpt", weights_only=True)["global_step"] == 1


@pytest.mark.parametrize("why", ["best.ckpt is lost", "a new run folder"])
def test_where_there_is_no_best_checkpoint_the_best_begins_anew(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Scores, "scores", [0.7, 0.4, 0.5, 0.3])
    first, second = tmp_path / "first", tmp_path / "second"
    score_run(first)
    if why == "best.ckpt is lost":
        (first / "best.ckpt").unlink()
        second = first
    with caplog.at_level("INFO", "spinwarp"):
        best = score_run(second, going_on=first)
    assert f"the best checkpoint so far (score 0.7000) is not in {second}" in caplog.text
    assert float(best.best_model_score or 0) == pytest.approx(0.5)
    assert torch.load(second / "best.ckpt", weights_only=True)["global_step"] == 3


def test_of_several_best_checkpoints_those_that_are_there_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scores, "scores", [0.7, 0.4, 0.5, 0.3])
    settings = {"save_top_k": 2, "filename": "{epoch}"}
    score_run(tmp_path / "first", **settings)
    shutil.move(tmp_path / "first", tmp_path / "second")
    best = score_run(tmp_path / "second", tmp_path / "second", **settings)
    assert sorted(path.name for path in (tmp_path / "second").glob("epoch*")) == ["epoch=0.ckpt", "epoch=2.ckpt"]
    assert float(best.best_model_score or 0) == pytest.approx(0.7)


def test_a_best_score_of_an_earlier_version_is_found(tmp_path: Path) -> None:
    """Lightning's own class wrote it, under its own name."""
    arguments: dict[str, Any] = {"monitor": "val/ssim", "mode": "max", "every_n_epochs": 2}
    ours, theirs = BestCheckpoint(tmp_path, "best", **arguments), ModelCheckpoint(tmp_path, "best", **arguments)
    assert ours.state_key == theirs.state_key


# ----------------------------------------------------------------------------------------------- the learning rate


def test_the_learning_rate_that_is_said_is_the_one_of_the_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def of_rate(rate: float) -> Callable[[int], NetworkModule]:
        def make(seed: int) -> NetworkModule:
            seed_everything(seed, verbose=False)
            net = MagnitudeUNet(channels=2, pools=2)
            return UNetModule(net, L1Loss(), partial(torch.optim.Adam, lr=rate), reference_batch=4)

        return make

    with caplog.at_level("INFO", "spinwarp"):
        run(tmp_path, of_rate(1e-2), max_epochs=1)
        content = run(tmp_path, of_rate(1e-5), going_on=True, max_epochs=2)
    # a batch of two where the rate is for four
    assert (
        "effective batch size 2 (1 processes x batch 2 x accumulation 1), learning rate 0.005: 0.01 x 2/4"
        in caplog.text
    )
    assert "learning rate 0.005 of the checkpoint (a new run would have 5e-06)" in caplog.text
    assert content["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(5e-3)  # there is no schedule


def test_a_run_that_had_stopped_early_stays_stopped_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    early = (EarlyStopping("val/loss", patience=1, min_delta=1e9, mode="max", check_on_train_epoch_end=False),)
    assert run(tmp_path, unet, callbacks=early, max_epochs=9)["global_step"] == 2 * BATCHES
    with caplog.at_level("INFO", "spinwarp"):
        assert run(tmp_path, unet, going_on=True, callbacks=early, max_epochs=9)["global_step"] == 2 * BATCHES
    assert "this run had stopped early and is at its end; callbacks.early_stopping=null lets it go on" in caplog.text


# ----------------------------------------------------------------------------------------------- files, whole or not


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


# ----------------------------------------------------------------------------------------------- the table of metrics


def test_the_table_goes_on_at_the_step_of_the_checkpoint_with_columns_old_and_new(tmp_path: Path) -> None:
    first = MetricsTable(str(tmp_path))
    for step in range(5):
        first.log_metrics({"loss": 0.5, "rate": 1.0}, step)
    first.save()
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text() + "0.5,1")  # the beginning of row 17, which a kill has cut
    second = MetricsTable(str(tmp_path))
    second.drop_from(3)
    second.log_metrics({"loss": 0.25, "ssim": 0.9}, 3)
    second.save()
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["loss"] for row in rows] == ["0.5", "0.5", "0.5", "0.25"]
    assert [row["ssim"] for row in rows] == ["", "", "", "0.9"]
    assert [row["rate"] for row in rows] == ["1.0", "1.0", "1.0", ""]


def test_a_new_run_begins_a_new_table(tmp_path: Path) -> None:
    for _ in range(2):
        logger = MetricsTable(str(tmp_path))
        logger.drop_from(0)
        logger.log_metrics({"loss": 0.5}, 0)
        logger.save()
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 2
