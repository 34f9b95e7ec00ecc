"""What happens beside training: pictures of the validation set, the learning rate."""

from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from spinwarp.acquisition import Example
from spinwarp.figures import panel, save
from spinwarp.training.supervised import target_of


class ExamplePanel(Callback):
    """After each validation, draws target, reconstruction and error of a few slices.

    The picture goes to ``folder`` and to the loggers that take pictures (TensorBoard, Weights & Biases).

    Parameters
    ----------
    folder : where the PNG files go.
    n_examples : slices a picture, evenly spread over the validation set.
    """

    def __init__(self, folder: str, n_examples: int = 4) -> None:
        self.folder = Path(folder)
        self.n_examples = n_examples
        self._rows: list[np.ndarray] = []
        self._titles: list[str] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Forget the last picture."""
        self._rows, self._titles = [], []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: Example,
        batch_idx: int,
        dataloader_idx: int = 0,  # noqa: ARG002
    ) -> None:
        """Keep the first slice of the batches that are to be shown."""
        n_batches = int(trainer.num_val_batches[0])
        shown = {(2 * i + 1) * n_batches // (2 * self.n_examples) for i in range(self.n_examples)}
        if batch_idx not in shown or not trainer.is_global_zero or not isinstance(outputs, Tensor):
            return
        target, image = target_of(batch)[0].float().cpu().numpy(), outputs[0].float().cpu().numpy()
        self._rows += [target, image, np.abs(target - image)]
        self._titles += [f"{batch.volume[0]}, slice {batch.slice[0]}", "reconstruction", "error"]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Draw and log the picture."""
        if not self._rows or trainer.sanity_checking:
            return
        figure = panel(self._rows, self._titles, columns=3)
        path = self.folder / f"step_{trainer.global_step:06d}.png"
        save(figure, path)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("validation", figure, trainer.global_step)
            elif isinstance(logger, WandbLogger):
                logger.log_image("validation", [str(path)], step=trainer.global_step)


class LearningRateWhenLogged(LearningRateMonitor):
    """Logs the learning rate; with ``logger=none`` it has nothing to do, where Lightning's own raises an error."""

    def on_train_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Find the optimizers' names."""
        if trainer.loggers:
            super().on_train_start(trainer, *args, **kwargs)

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Log by step."""
        if trainer.loggers:
            super().on_train_batch_start(trainer, *args, **kwargs)

    def on_train_epoch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Log by epoch."""
        if trainer.loggers:
            super().on_train_epoch_start(trainer, *args, **kwargs)
