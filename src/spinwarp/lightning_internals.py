"""The only file that uses private parts of Lightning, which may change with any of its versions."""

import math
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Any

import lightning
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy

from spinwarp.errors import InputError
from spinwarp.parallel.processes import PARENT

#: the versions whose private parts these are
KNOWN = "2.6."


def check_version(version: str) -> None:
    """Check that Lightning's private parts are those that this file was written for.

    Raises
    ------
    InputError : if they may not be.
    """
    if not version.startswith(KNOWN):
        raise InputError(
            f"this spinwarp works with lightning {KNOWN}*, and {version} is installed; run pip install "
            f"'lightning=={KNOWN}*'"
        )


check_version(lightning.__version__)  # before the imports of what another version may not have

from lightning.fabric.utilities.distributed import _set_num_threads_if_needed  # noqa: E402
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher  # noqa: E402


class LaunchingDDP(DDPStrategy):
    """Lightning's DDP, with ``watch`` in place of Lightning's own watch over the processes that it starts."""

    def watch(self, processes: Sequence[subprocess.Popen]) -> None:
        """Watch the other processes of this machine; runs on a thread of its own."""
        raise NotImplementedError

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = _Launcher(self.cluster_environment, self.num_processes, self.num_nodes)
        self._launcher.watch = self.watch


class _Launcher(_SubprocessScriptLauncher):
    watch: Callable[[Sequence[subprocess.Popen]], None]

    def launch(self, function: Callable, *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:  # noqa: ARG002
        """Start the other processes of this machine, then call the function."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            os.environ[PARENT] = str(os.getpid())
            self._call_children_scripts()
            threading.Thread(target=self.watch, args=(self.procs,), daemon=True, name="watch").start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


def wandb_settings(logger: Any) -> dict[str, Any]:
    """Return the arguments that a ``WandbLogger`` will give to ``wandb.init``; they may be changed until then."""
    return logger._wandb_init


def wandb_run(logger: Any) -> Any:
    """Return the run of a ``WandbLogger``; None if it has not started one."""
    return logger._experiment


def next_batch(trainer: Any) -> tuple[int, int]:
    """Return the epoch and the batch that a trainer trains next; each process counts its own batches.

    A batch counts once it has been trained, however many the workers of the loader have prepared. An epoch that
    ``max_steps`` cut short is not over.
    """
    epoch = max(trainer.fit_loop.epoch_progress.current.started - 1, 0)
    batch = trainer.fit_loop.epoch_loop.batch_progress.current.processed
    return (epoch + 1, 0) if batch >= trainer.num_training_batches else (epoch, batch)


def mark_next_batch(checkpoint: dict[str, Any], trainer: Any) -> None:
    """Set the counters of a checkpoint as they are when the next batch is about to begin.

    Lightning stores its counters as they stand and misreads some of them later: it leaves out a validation if the
    checkpoint was written before it, and takes an epoch that ``max_steps`` cut short for finished.
    """
    epoch, batch = next_batch(trainer)
    loops = checkpoint["loops"]["fit_loop"]
    epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    for counts, done in (
        (epochs["total"], epoch),
        (epochs["current"], epoch),
        (batches["total"], batches["total"]["processed"]),
        (batches["current"], batch),
    ):
        counts.update(ready=done + 1, started=done, processed=done, completed=done)
    for counts in (epochs["total"], epochs["current"]):
        counts["started"] = epoch + 1
    batches["is_last_batch"] = False
    validated = loops["epoch_loop.val_loop.batch_progress"]  # no validation is running
    validated["is_last_batch"] = False
    cleared = [validated["total"], validated["current"]]
    if batch == 0:  # the counts within an epoch start again
        optimizer = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
        within = (loops["epoch_loop.scheduler_progress"], optimizer["step"], optimizer["zero_grad"])
        cleared += [counts["current"] for counts in within]
    for counts in cleared:
        counts.update(dict.fromkeys(counts, 0))
    # the loggers' row number: Lightning adds one when it loads it, unless the next batch only collects gradients
    collects = (batch + 1) % trainer.accumulate_grad_batches and batch + 1 < trainer.num_training_batches
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = trainer.global_step - (0 if collects else 1)
    checkpoint["epoch"] = epoch


class WarmWeightAveraging(WeightAveraging):
    """Lightning's average of weights, which starts from those after a warm start; a run that goes on keeps its own.

    The checkpoint that is written when training ends holds the weights and their average, as every other does, so that
    a longer run goes on from the weights. Lightning's own holds the average twice.
    """

    _ended = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Move to the device of the module, and take over the weights unless some have been averaged already."""
        self._ended = False
        average = self._average_model
        if average is None:
            return
        average.to(pl_module.device)
        if not int(average.n_averaged):
            average.module.load_state_dict(pl_module.state_dict())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Give the module its average, and keep its weights."""
        self._swap_models(pl_module)
        self._ended = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the weights; what evaluation reads is the average."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._ended and "current_model_state" in checkpoint:
            average = checkpoint["current_model_state"]
            checkpoint["current_model_state"], checkpoint["state_dict"] = checkpoint["state_dict"], average


class TrainingProgressBar(RichProgressBar):
    """Lightning's bar, which also counts the epochs of a run that is limited by its steps; else it says ``0/-2``."""

    def _get_train_description(self, current_epoch: int) -> str:
        trainer = self.trainer
        if trainer.max_epochs != -1:
            return super()._get_train_description(current_epoch)
        batches, last = trainer.num_training_batches, ""
        if trainer.max_steps > 0 and 0 < batches < math.inf:
            steps = math.ceil(batches / trainer.accumulate_grad_batches)  # of an epoch; its last batch always ends one
            last = f"/{math.ceil(trainer.max_steps / steps) - 1}"
        return f"Epoch {current_epoch}{last}".ljust(len(self.validation_description))
