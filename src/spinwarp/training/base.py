"""What every training has: a network, its optimizer and schedule, and a checkpoint that rebuilds it."""

import logging
import random
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from spinwarp import __version__
from spinwarp.errors import InputError
from spinwarp.lightning_internals import mark_next_batch
from spinwarp.metrics import BatchMean, VolumeMetrics
from spinwarp.training.divergence import CHECK_EVERY, DivergenceCheck, check_weights, diverged, loss_scaler
from spinwarp.training.schedule import Constant

log = logging.getLogger("spinwarp")

CHECKPOINT_KEY = "spinwarp"


class NetworkModule(LightningModule):
    """A network in training.

    A subclass updates ``validation_loss`` and ``metrics`` in its validation step. They are logged as ``val/...``; their
    values do not depend on the number of processes.

    A training step on ``W`` processes equals a step on one process with ``accumulate_grad_batches=W``: the same batches
    and their mean gradient. Only the last step of an epoch may repeat batches, to give each process one.

    Parameters
    ----------
    net : the network.
    optimizer : makes the optimizer of the parameters.
    schedule : factor on the learning rate as a function of training progress; None: constant.
    reference_batch : slices per step, over all devices, for which the optimizer's learning rate was chosen. With
        another number the rate is scaled in proportion (Goyal et al. 2017, arXiv 1706.02677). None: it is not scaled.

    Raises
    ------
    InputError : if ``reference_batch`` is below 1.
    """

    #: whether it learns from fully sampled images, and takes no mask
    whole_images: ClassVar[bool] = False
    #: whether it learns from the split of what was measured, and from no reference
    without_references: ClassVar[bool] = False
    #: whether it can learn from scans without a reference beside scans with one
    some_without_references: ClassVar[bool] = False

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Callable[[float], float] | None = None,
        reference_batch: int | None = None,
    ) -> None:
        super().__init__()
        if reference_batch is not None and reference_batch < 1:
            raise InputError(f"model.reference_batch is at least 1; got {reference_batch}")
        self.reference_batch = reference_batch
        self.net = net
        self.make_optimizer = optimizer
        self.schedule = schedule or Constant()
        #: plain Python in the checkpoint, from which the network is rebuilt without any other file
        self.record: dict[str, Any] = {}
        self._seed: int | None = None
        self._divergence = DivergenceCheck()
        self._new_rate: float | None = None  # the learning rate before a checkpoint restores its own
        self.validation_loss = BatchMean()
        self.metrics = VolumeMetrics()

    def trained_parameters(self) -> Iterable[nn.Parameter]:
        """Return the weights that the optimizer gets: those of the network."""
        return self.net.parameters()

    def parameter_groups(self) -> Iterable[Any]:
        """Return what the optimizer is made of: the weights, or groups of them with options of their own."""
        return self.trained_parameters()

    def rate_factor(self, slices: int) -> float:
        """Return the factor on the optimizer's learning rate for a number of slices per step."""
        return 1.0 if self.reference_batch is None else slices / self.reference_batch

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimizer; its learning rate follows the schedule step by step."""
        try:
            optimizer = self.make_optimizer(self.parameter_groups())
        except (TypeError, ValueError) as error:
            raise InputError(f"model.optimizer cannot be built: {error}") from error
        if self.reference_batch is not None:
            optimizer.param_groups[0]["lr"] *= self.rate_factor(self._slices_a_step())  # of the network
        self._new_rate = optimizer.param_groups[0]["lr"]
        n_steps = self.trainer.estimated_stepping_batches
        if n_steps == float("inf"):
            raise InputError("training has no end: set trainer.max_epochs or trainer.max_steps")
        scheduler = LambdaLR(optimizer, lambda step: self.schedule(step / max(int(n_steps), 1)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Use the seed of the process, unless a checkpoint has restored the seed of its run."""
        self._divergence = DivergenceCheck()
        if self._seed is None:
            self._seed = torch.initial_seed()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Seed the random numbers of the step (noise, dropout) by run, epoch, batch and process.

        A resumed run therefore draws the same numbers, and checkpoints need no random state.
        """
        key = (self._seed, self.current_epoch, batch_idx, self.global_rank)
        state = np.random.SeedSequence([int(k or 0) for k in key]).generate_state(4)
        torch.manual_seed(int(state[:2].view(np.uint64)[0]))
        np.random.seed(state[2:3])
        random.seed(int(state[3]))

    def _slices_a_step(self) -> int:
        trainer: Any = self.trainer  # Any, as it does not declare the data module
        return int(trainer.datamodule.batch_size * trainer.accumulate_grad_batches * trainer.world_size)

    def on_train_start(self) -> None:
        """Log the slices per step and the learning rate, which a checkpoint has restored by now."""
        trainer: Any = self.trainer
        if trainer.datamodule is None or not trainer.is_global_zero:
            return
        rate, slices = trainer.optimizers[0].param_groups[0]["initial_lr"], self._slices_a_step()
        origin = ""
        if rate != self._new_rate:
            origin = f" of the checkpoint (a new run would have {self._new_rate:g})"
        elif self.reference_batch is not None:
            origin = f": {rate / self.rate_factor(slices):g} x {slices}/{self.reference_batch} slices a step"
        log.info(
            "effective batch size %d (%d processes x batch %d x accumulation %d), learning rate %g%s",
            slices,
            trainer.world_size,
            trainer.datamodule.batch_size,
            trainer.accumulate_grad_batches,
            rate,
            origin,
        )

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Stop if the loss is not finite; checked every few batches."""
        if outputs:
            self._divergence.see(outputs["loss"] if isinstance(outputs, dict) else outputs)
        if (batch_idx + 1) % CHECK_EVERY == 0:
            self._divergence.check(self.trainer)

    def on_train_epoch_end(self) -> None:
        """Stop if the loss is not finite."""
        self._divergence.check(self.trainer)

    def on_validation_start(self) -> None:
        """Stop if the loss is not finite, before a pointless validation."""
        if self.trainer.state.fn == "fit":
            self._divergence.check(self.trainer)

    def on_validation_epoch_end(self) -> None:
        """Log the mean loss and the means over volumes, gathered from all processes.

        Raises
        ------
        DivergedError : if the loss is not finite while the network is trained.
        """
        loss = self.validation_loss.compute()
        if self.trainer.state.fn == "fit" and not loss.isfinite() and loss_scaler(self.trainer) is None:
            when = f"after step {self.trainer.global_step} (epoch {self.current_epoch})"
            raise diverged(self.trainer, f"the validation loss is not finite {when}")
        self._log_validated("loss", loss)
        for name, value in self.metrics.compute().items():
            self._log_validated(name, value)
        self.validation_loss.reset()
        self.metrics.reset()

    def _log_validated(self, name: str, value: Tensor) -> None:
        # on the device, as NCCL needs it there; in float32, as a device may have no float64
        value = value.to(torch.float32).to(self.device)
        self.log(f"val/{name}", value, prog_bar=name in ("loss", "ssim"), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the record of the network, the seed, and where training goes on."""
        checkpoint[CHECKPOINT_KEY] = {"version": __version__, **self.record}
        if self._seed is not None:  # the network has been trained
            checkpoint[CHECKPOINT_KEY]["seed"] = self._seed
            check_weights(self.trainer, checkpoint)
            mark_next_batch(checkpoint, self.trainer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the seed of the run."""
        self._seed = checkpoint.get(CHECKPOINT_KEY, {}).get("seed")
