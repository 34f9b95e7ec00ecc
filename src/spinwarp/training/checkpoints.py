"""Checkpoints that a run can be taken up from, whenever and however it ended."""

import logging
import os
import signal
import threading
import time
from io import BytesIO
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from spinwarp.files import whole_file
from spinwarp.models.loading import load_plain
from spinwarp.training.loggers import MetricsTable

log = logging.getLogger("spinwarp")


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, and loads nothing but tensors and plain Python.

    The file is on the disk before it takes its name, so that at any moment the name stands for a whole checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        """Write a checkpoint.

        Raises
        ------
        OSError : if it cannot be written, as when the disk is full; the file before it is left as it was.
        """
        content = BytesIO()  # written by torch itself, a full disk would be an error without its reason
        torch.save(checkpoint, content)
        with whole_file(Path(path)) as temporary, temporary.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Load a checkpoint to the CPU.

        Raises
        ------
        InputError : if it is damaged or holds anything else.
        """
        return load_plain(str(path))


class BestCheckpoint(ModelCheckpoint):
    """Keeps the weights of the best validation; takes the arguments of Lightning's ``ModelCheckpoint``.

    A metric that is not finite is never the best. A run that goes on compares with the checkpoints that are in its own
    folder, also when the folder was moved or copied; where there is none, the next validation is the best so far.
    """

    @property
    def state_key(self) -> str:
        """The name of its state in a checkpoint, where Lightning's own class wrote it in earlier versions."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether a value of the metric is good enough to be kept."""
        if current is not None and not current.isfinite():
            log.warning("%s is %g at step %d, so best.ckpt stays as it is", self.monitor, current, trainer.global_step)
            return False
        return super().check_monitor_top_k(trainer, current)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the scores of those checkpoints that are in the folder."""
        folder = Path(str(self.dirpath))
        scores = {str(folder / Path(path).name): s for path, s in state_dict.get("best_k_models", {}).items()}
        found = {path: score for path, score in scores.items() if Path(path).is_file()}
        if scores and not found:
            log.info(
                "the best checkpoint so far (%s %.4f) is not in %s: from here on the best is that of this folder",
                self.monitor,
                float(state_dict["best_model_score"]),
                folder,
            )
        best, worst = (min, max) if self.mode == "min" else (max, min)
        self.best_k_models = found
        self.best_model_path = best(found, key=found.__getitem__, default="")
        self.best_model_score = found.get(self.best_model_path)
        if found and len(found) == self.save_top_k:
            self.kth_best_model_path = worst(found, key=found.__getitem__)
            self.kth_value = found[self.kth_best_model_path]


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``: after each validation, every few minutes, at the end, and when the process is told to stop.

    It is written between two steps of the optimizer, when all that belongs to the first is done (its validation and
    its rows in the loggers too), so that a run that goes on from it is the run that would have been. SIGTERM and
    Ctrl-C let the step, or the validation, that is under way end, write it, and leave with 128 + the signal's number
    (143 and 130); a second one leaves at once.

    Parameters
    ----------
    folder : where ``last.ckpt`` goes.
    minutes : between two writings; 0 writes after every step.
    """

    def __init__(self, folder: str, minutes: float = 5.0) -> None:
        self.path = Path(folder) / "last.ckpt"
        self.minutes = minutes
        self._written = (0, 0.0)  # at which step, when
        self._due = False
        self._signal: int | None = None
        self._says = False
        self._handlers: dict[int, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Remove what a killed run had begun to write."""
        if trainer.is_global_zero:
            for temporary in self.path.parent.glob(".*.ckpt.*.part"):
                temporary.unlink(missing_ok=True)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Listen for signals; Lightning has put its own handlers in place by now."""
        self._listen(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Take up what Lightning's checkpoints leave out: the table of metrics, and that the run had stopped early."""
        self._listen(trainer)
        self._written = trainer.global_step, time.monotonic()
        for logger in trainer.loggers:
            if isinstance(logger, MetricsTable):
                logger.drop_from(trainer.global_step)
        if any(callback.wait_count >= callback.patience for callback in trainer.early_stopping_callbacks):
            log.info("this run had stopped early and is at its end; callbacks.early_stopping=null lets it go on")
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Ask for a checkpoint at the next step."""
        self._due = not trainer.sanity_checking

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        """Write if it is time, and leave if a signal said so; all processes together."""
        if batch_idx % trainer.accumulate_grad_batches:
            return  # gradients that have been collected are in no checkpoint
        step, moment = self._written
        late = time.monotonic() - moment >= 60 * self.minutes and trainer.global_step > step
        asked = self._due or late or self._signal is not None
        if not trainer.strategy.reduce_boolean_decision(asked, all=False):
            return
        self._write(trainer)
        if trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False):
            raise SystemExit(128 + (self._signal or signal.SIGTERM))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Write the end of the run."""
        self._write(trainer)
        self._unlisten()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Leave signals to others. Nothing is written: an error may have come in the middle of a step."""
        self._unlisten()

    def _write(self, trainer: Trainer) -> None:
        if trainer.global_step > self._written[0] and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            for logger in trainer.loggers:
                logger.save()  # what comes before the checkpoint is not trained again
            trainer.save_checkpoint(self.path)
        self._written = trainer.global_step, time.monotonic()
        self._due = False

    def _listen(self, trainer: Trainer) -> None:
        self._says = trainer.is_global_zero
        if not self._handlers and threading.current_thread() is threading.main_thread():
            self._handlers = {n: signal.signal(n, self._hear) for n in (signal.SIGINT, signal.SIGTERM)}

    def _unlisten(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _hear(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self._says:  # past Python's buffers, which the signal may have found in use
            os.write(2, b"\nafter this step the run is saved and ends; a second signal ends it at once\n")
