"""Stops a training that has diverged, and never writes its weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spinwarp.errors import InputError
from spinwarp.models.loading import not_finite

#: batches between two checks of the loss; each check waits for the GPU
CHECK_EVERY = 10
#: batches in a row without a finite loss that end a training with a loss scale, which skips a few by design
SCALED_BATCHES = 20
#: a loss scale below this was halved dozens of times in a row, without a step of the optimizer between
LEAST_SCALE = 2.0**-20


class DivergedError(InputError):
    """Training has diverged; all processes raise this together."""


class DivergenceCheck:
    """Stops a training whose loss is not finite, on all processes together.

    The losses are counted on their device, and no step waits for them. A NaN loss makes all weights NaN at once. In
    16-mixed the loss scale skips such steps, and only many in a row are a fault.
    """

    def __init__(self) -> None:
        self._in_a_row: Tensor | None = None  # how many of the latest losses were not finite

    def see(self, loss: Tensor) -> None:
        """Count the loss of a batch."""
        before = 0 if self._in_a_row is None else self._in_a_row
        self._in_a_row = torch.where(loss.detach().isfinite().all(), 0, before + 1)

    def check(self, trainer: Any) -> None:
        """Stop if the latest losses were not finite; all processes must call this together.

        Raises
        ------
        DivergedError : if they were not finite.
        """
        # a process without a loss takes part too, or the others would wait for it
        none = torch.zeros((), dtype=torch.int64, device=trainer.strategy.root_device)
        in_a_row = none if self._in_a_row is None else self._in_a_row
        batches = int(trainer.strategy.reduce(in_a_row, reduce_op="max"))
        scaler = loss_scaler(trainer)
        if batches >= (1 if scaler is None else SCALED_BATCHES):
            step = trainer.global_step - (batches - 1) // trainer.accumulate_grad_batches
            raise diverged(
                trainer, f"the training loss is not finite since step {step} (epoch {trainer.current_epoch})"
            )
        if scaler is not None and scaler.get_scale() < LEAST_SCALE:
            raise diverged(trainer, f"the gradient is not finite in any step up to {trainer.global_step}")


def check_weights(trainer: Any, checkpoint: Mapping[str, Any]) -> None:
    """Refuse to write a checkpoint whose weights are not finite.

    Raises
    ------
    DivergedError : if its weights or the state of its optimizers hold NaN or infinity.
    """
    if (name := not_finite(checkpoint)) is not None:
        raise diverged(trainer, f"the weights are not finite at step {trainer.global_step} ({name})")


def diverged(trainer: Any, finding: str) -> DivergedError:
    """Return the error that says what was found and what to try."""
    group = trainer.optimizers[0].param_groups[0]
    remedies = [f"a new run with a lower model.optimizer.lr (here {group.get('initial_lr', group['lr']):g})"]
    if not trainer.gradient_clip_val:
        remedies.append("trainer.gradient_clip_val=1.0")
    if not trainer.precision.startswith("32"):
        remedies.append("trainer.precision=32-true")
    return DivergedError(
        f"{finding}, so training stopped; the checkpoints hold only finite weights. Try {' or '.join(remedies)}; "
        f"trainer.detect_anomaly=true shows the operation that fails"
    )


def loss_scaler(trainer: Any) -> Any:
    """Return the loss scaler of a trainer in 16-mixed; None in any other precision."""
    return getattr(trainer.precision_plugin, "scaler", None)
