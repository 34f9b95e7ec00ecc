"""Checkpoints from which a run can go on, whenever and however it ended."""

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

from spinwarp.files import atomic_write
from spinwarp.models.loading import load_plain
from spinwarp.training.loggers import MetricsTable

log = logging.getLogger("spinwarp")


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and loads only tensors and plain Python.

    The file is on the disk before it gets its name: a file of that name is always a whole checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        """Write a checkpoint.

        Raises
        ------
        OSError : if it cannot be written, for example to a full disk; the previous file stays as it is.
        """
        content = BytesIO()  # if torch wrote the file itself, its error would not say that the disk is full
        torch.save(checkpoint, content)
        with atomic_write(Path(path)) as temporary, temporary.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Load a checkpoint to the CPU.

        Raises
        ------
        InputError : if it is damaged or holds other objects.
        """
        return load_plain(str(path))


class BestCheckpoint(ModelCheckpoint):
    """Keeps the weights of the best validation; takes the arguments of Lightning's ``ModelCheckpoint``.

    A metric that is not finite is never the best. A resumed run compares with the checkpoints in its own folder, which
    may have been moved or copied. If the folder has none, the next validation is the best so far.
    """

    @property
    def state_key(self) -> str:
        """The key of its state in a checkpoint: that of ``ModelCheckpoint``, which earlier versions used."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether a value of the metric is among the best."""
        if current is not None and not current.isfinite():
            log.warning("%s is %g at step %d, so best.ckpt stays as it is", self.monitor, current, trainer.global_step)
            return False
        return super().check_monitor_top_k(trainer, current)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the scores of the checkpoints that are in the folder."""
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
    """Writes ``last.ckpt`` after each validation, every few minutes, at the end, and on SIGTERM or Ctrl-C.

    It is written between two steps of the optimizer, after the validation and the log rows of the first. A run resumed
    from it is therefore the same as one that was never stopped. SIGTERM and Ctrl-C wait for the current step or
    validation, write the file, and exit with 128 + the signal's number (143 and 130). A second signal exits at once.

    Parameters
    ----------
    folder : where ``last.ckpt`` goes.
    minutes : between two checkpoints; 0 writes one after every step.
    """

    def __init__(self, folder: str, minutes: float = 5.0) -> None:
        self.path = Path(folder) / "last.ckpt"
        self.minutes = minutes
        self._written = (0, 0.0)  # step and time of the last checkpoint
        self._due = False
        self._signal: int | None = None
        self._says = False
        self._handlers: dict[int, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Remove the unfinished files of a killed run."""
        if trainer.is_global_zero:
            for temporary in self.path.parent.glob(".*.ckpt.*.part"):
                temporary.unlink(missing_ok=True)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Listen for signals; Lightning has put its own handlers in place by now."""
        self._listen(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Restore what Lightning's checkpoints leave out: the table of metrics, and an early stop."""
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
        """Write if it is time, and exit after a signal; all processes together."""
        if batch_idx % trainer.accumulate_grad_batches:
            return  # a checkpoint holds no accumulated gradients
        step, moment = self._written
        late = time.monotonic() - moment >= 60 * self.minutes and trainer.global_step > step
        asked = self._due or late or self._signal is not None
        if not trainer.strategy.reduce_boolean_decision(asked, all=False):
            return
        self._write(trainer)
        if trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False):
            raise SystemExit(128 + (self._signal or signal.SIGTERM))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Write the last checkpoint of the run."""
        self._write(trainer)
        self._unlisten()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Restore the signal handlers. Write nothing: the error may have come in the middle of a step."""
        self._unlisten()

    def _write(self, trainer: Trainer) -> None:
        if trainer.global_step > self._written[0] and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            for logger in trainer.loggers:
                logger.save()  # a resumed run does not write the rows before the checkpoint again
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
        if self._says:  # not by print: the signal may have interrupted a write to Python's buffer
            os.write(2, b"\nafter this step the run is saved and ends; a second signal ends it at once\n")
