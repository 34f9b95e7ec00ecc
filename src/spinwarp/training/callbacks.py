"""Callbacks: pictures of the validation set and of samples, the learning rate, and a start from trained weights."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor, nn

from spinwarp.acquisition import Example
from spinwarp.errors import InputError
from spinwarp.figures import panel, save
from spinwarp.models.loading import load_network
from spinwarp.models.widening import widen

log = logging.getLogger("spinwarp")


class ExamplePanel(Callback):
    """Draws target, reconstruction and error of a few slices after each validation.

    The picture goes to ``folder`` and to the loggers that take pictures (TensorBoard, Weights & Biases).

    Parameters
    ----------
    folder : where the PNG files go.
    n_examples : slices per picture, evenly spread over the validation set.
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
        """Keep the first slice of a few batches."""
        n_batches = int(trainer.num_val_batches[0])
        shown = {(2 * i + 1) * n_batches // (2 * self.n_examples) for i in range(self.n_examples)}
        if batch_idx not in shown or not trainer.is_global_zero or not isinstance(outputs, Tensor):
            return
        if batch.target is None:  # a prior needs no target
            return
        target, image = batch.target[0].float().cpu().numpy(), outputs[0].float().cpu().numpy()
        self._rows += [target, image, np.abs(target - image)]
        self._titles += [f"{batch.volume[0]}, slice {batch.slice[0]}", "reconstruction", "error"]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Draw and log the picture."""
        if not self._rows or trainer.sanity_checking:
            return
        figure = panel(self._rows, self._titles, columns=3)
        _publish(trainer, figure, "validation", self.folder)


class SamplePanel(Callback):
    """Draws samples of a prior after each validation; does nothing for other models.

    The noise is the same every time: the pictures show how the same images develop.

    Parameters
    ----------
    folder : where the PNG files go.
    n_samples : images per picture.
    """

    def __init__(self, folder: str, n_samples: int = 4) -> None:
        self.folder = Path(folder)
        self.n_samples = n_samples

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and log the picture."""
        if not isinstance(pl_module, Prior) or trainer.sanity_checking or not trainer.is_global_zero:
            return
        generator = torch.Generator(pl_module.device).manual_seed(0)
        images = pl_module.sample(self.n_samples, generator).abs().float().cpu().numpy()
        _publish(trainer, panel(images, columns=min(self.n_samples, 4)), "samples", self.folder)


@runtime_checkable
class Prior(Protocol):
    """A module that can draw images."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``(n, h, w)`` complex images."""
        ...


def _publish(trainer: Trainer, figure: Any, name: str, folder: Path) -> None:
    """Save a picture and hand it to the loggers that take pictures."""
    path = folder / f"step_{trainer.global_step:06d}.png"
    save(figure, path)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(name, figure, trainer.global_step)
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)], step=trainer.global_step)


class LearningRateWhenLogged(LearningRateMonitor):
    """Logs the learning rate. With ``logger=none`` it does nothing; Lightning's own raises an error."""

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


class WarmStart(Callback):
    """Starts a part of the network from a part of a trained one; does nothing in a run that goes on.

    Weights may fit a network with other settings, such as a number of alternations. The log names those that differ.
    The new network may have more channels, if :func:`~spinwarp.models.widening.widen` can fill them.

    Parameters
    ----------
    path : checkpoint, or name of weights, of the trained network. None: start as initialised.
    take : name of the part of the trained network, such as ``network``; empty for all of it.
    into : name of the part of the new network, such as ``regulariser``; empty for all of it.
    trusted : packages besides spinwarp from which the file may build its network.
    """

    def __init__(self, path: str | None, take: str = "", into: str = "", trusted: Sequence[str] = ()) -> None:
        self.path = path
        self.take = take
        self.into = into
        self.trusted = trusted

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Copy the weights before a checkpoint of the run itself is loaded, which replaces them.

        Raises
        ------
        InputError : if one of the networks has no such part, or the parts differ.
        """
        if self.path is None or stage != "fit":
            return
        trained, _ = load_network(self.path, self.trusted)
        try:
            part = trained.get_submodule(self.take)
            new = pl_module.get_submodule(".".join(filter(None, ("net", self.into))))
            wider = widen(part, new)
        except (AttributeError, RuntimeError, InputError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise InputError(
                f"callbacks.warm_start: {self.path} cannot start model.net.{self.into}: {reason}"
            ) from error
        name = f"net.{self.into}".rstrip(".")
        log.info("%s starts from %s", name, self.path)
        if wider:
            log.info("it has more channels, which change nothing before training: %s, for one", wider)
        for key, (there, here) in _differing_settings(part, new).items():
            log.warning("%s.%s is %s; it was %s when %s was trained", name, key, here, there, self.path)


def _differing_settings(one: nn.Module, other: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Return the plain attributes, but for the mode, that two networks share by name and not by value.

    Of modules that differ alike, the outermost is named.
    """
    found: dict[str, tuple[Any, Any]] = {}
    named: set[tuple[str, Any, Any]] = set()
    others = dict(other.named_modules())
    for path, module in one.named_modules():
        theirs = vars(others[path]) if path in others else {}
        for key, value in vars(module).items():
            difference = key, value, theirs.get(key, value)
            if not isinstance(value, bool | int | float | str) or key.startswith("_"):
                continue
            if key in ("training", "in_channels", "out_channels"):  # weights tell the numbers of channels
                continue
            if difference[1] != difference[2] and difference not in named:
                named.add(difference)
                found[f"{path}.{key}".lstrip(".")] = difference[1:]
    return found
