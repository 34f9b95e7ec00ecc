"""The best checkpoint: only a better score replaces it, wherever the run folder is."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from memory import MemorySource
from short_runs import QUIET, NumpyNoise

from spinwarp.data.module import FastMRIDataModule
from spinwarp.losses import L1Loss
from spinwarp.masks import RandomMask
from spinwarp.models.unet import MagnitudeUNet
from spinwarp.training.checkpoints import BestCheckpoint, LastCheckpoint, WholeCheckpoints

pytestmark = QUIET


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
