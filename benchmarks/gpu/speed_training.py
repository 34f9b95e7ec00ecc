"""Part four: a real training at full size on phantoms, from files to Adam, and how long the device waits for data."""

import os
import statistics
import time
import warnings
from functools import partial
from typing import Any

import torch
from hydra.utils import instantiate
from lightning import Callback

from gpu.check_training import trainer
from gpu.problems import composed, phantoms
from gpu.setting import FailedError, Rows, Setting, Values, tensor_cores
from gpu.speed_networks import SMALL


def rows(setting: Setting) -> Rows:
    """The long one, and two short ones that differ in who loads."""
    warnings.filterwarnings("ignore")  # of Lightning, on few workers and the like
    torch.backends.cudnn.benchmark = True
    workers = 0 if setting.dry else max(1, min(8, (os.cpu_count() or 1) - 1))
    seconds = 0.0 if setting.dry else 25.0
    return {
        f"VarNet, bf16-mixed, {workers} workers, maps=none": partial(train, setting, workers, "none", seconds, True),
        "VarNet, bf16-mixed, no workers, maps=none": partial(train, setting, 0, "none", seconds / 4),
        "VarNet, bf16-mixed, no workers, maps=low_resolution (default)": partial(
            train, setting, 0, "low_resolution", seconds / 4
        ),
    }


class Clock(Callback):
    """Notes the loss of each step, when it began and ended on the device, and ends the training when time is over.

    On a CUDA device the moments are events in its stream: what lies between the end of one step and the beginning of
    the next is what the device waited for data, their way to it, and Lightning.

    Parameters
    ----------
    setting : the device.
    seconds : after which the training ends, but not before two epochs.
    """

    def __init__(self, setting: Setting, seconds: float) -> None:
        self.setting = setting
        self.seconds = seconds
        self.losses: list[torch.Tensor] = []
        self.begun: list[Any] = []
        self.ended: list[Any] = []
        self._deadline = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Start the clock."""
        self._deadline = time.monotonic() + self.seconds

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Note that the device has its data."""
        self.begun.append(self._moment())

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Note that the step is over."""
        self.ended.append(self._moment())
        self.losses.append(outputs["loss"].detach())
        if trainer.current_epoch >= 1 and time.monotonic() > self._deadline:
            trainer.should_stop = trainer.is_last_batch

    def _moment(self) -> Any:
        if not self.setting.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, first: Any, last: Any) -> float:
        """Seconds from one moment to another."""
        return first.elapsed_time(last) / 1e3 if self.setting.cuda else last - first


def train(setting: Setting, workers: int, maps: str, seconds: float, must_learn: bool = False) -> Values:
    """Train the VarNet; the first epoch, in which algorithms are chosen and files are read, is not timed."""
    tensor_cores(True)
    config = composed(
        "train", "model=varnet", *phantoms(setting, tiny=False), *trainer(setting), "callbacks=none", "logger=none",
        *(f"model.{override}" for override in (SMALL["varnet"] if setting.dry else ())),
        f"data.num_workers={workers}", f"data.maps={maps}", "model.schedule=null", "model.optimizer.lr=1e-3",
        f"trainer.max_epochs={2 if setting.dry else 1000}", "trainer.num_sanity_val_steps=0",
        "trainer.check_val_every_n_epoch=100000", "trainer.precision=bf16-mixed",
    )  # fmt: skip
    torch.manual_seed(0)
    module = instantiate(config.model)
    data = instantiate(config.data, mask=instantiate(config.mask))
    clock = Clock(setting, seconds)
    fit = instantiate(config.trainer, callbacks=[clock], logger=False, default_root_dir=str(setting.folder))
    fit.fit(module, datamodule=data)
    setting.synchronise()
    epoch = len(clock.losses) // (fit.current_epoch or 1)
    losses = torch.stack(clock.losses).float().tolist()
    before, after = statistics.mean(losses[:epoch]), statistics.mean(losses[-epoch:])
    if not after < float("inf") or (must_learn and not after < before):
        raise FailedError(f"the mean loss of an epoch went from {before:.4f} to {after:.4f}")
    begun, ended = clock.begun[epoch:], clock.ended[epoch:]
    waited = sum(clock.between(a, b) for a, b in zip(ended[:-1], begun[1:], strict=True))
    total = clock.between(begun[0], ended[-1])
    return {
        "slices/s": float(f"{len(begun) / total:.3g}"),
        "waiting": f"{100 * max(waited, 0.0) / total:.0f} %",
        "steps": len(losses),
        "loss of first epoch": round(before, 4),
        "of last": round(after, 4),
        "GB": setting.peak(),
    }
