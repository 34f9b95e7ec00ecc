"""Short trainings that can be stopped within a batch and taken up again."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from memory import MemorySource

from spinwarp.data.augment import FlipsAndPhase
from spinwarp.data.module import FastMRIDataModule
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

# the warnings of a training that is as short as this
QUIET = [
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
