"""Supervised training of networks that take an acquisition and return an image."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from spinwarp.acquisition import Example, center_crop
from spinwarp.coils import root_sum_of_squares
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc
from spinwarp.models.unet import statistics
from spinwarp.training.base import NetworkModule

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class SupervisedModule(NetworkModule):
    """Trains a network on the magnitude inside the target's crop, and validates volume by volume.

    Parameters
    ----------
    net : ``Acquisition`` to complex image ``(batch, h, w)``.
    loss : ``loss(image, target, data_range)`` on magnitudes.
    optimizer : makes the optimizer of the parameters.
    schedule : factor on the learning rate as a function of training progress.
    reference_batch : see :class:`~spinwarp.training.base.NetworkModule`.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Loss,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Callable[[float], float] | None = None,
        reference_batch: int | None = None,
    ) -> None:
        super().__init__(net, optimizer, schedule, reference_batch)
        self.loss = loss

    def training_loss(self, magnitude: Tensor, example: Example) -> Tensor:
        """Loss of a cropped magnitude image ``(batch, h, w)``."""
        return self.loss(magnitude, target_of(example), example.data_range)

    def magnitude(self, example: Example) -> Tensor:
        """Reconstruct the magnitude ``(batch, h, w)`` inside the target's crop."""
        target = target_of(example)
        image: Tensor = self.net(example.acquisition)
        return center_crop(image.abs(), (target.shape[-2], target.shape[-1]))

    def loss_and_magnitude(self, example: Example) -> tuple[Tensor, Tensor]:
        """Return the loss and the magnitude that it is of."""
        magnitude = self.magnitude(example)
        return self.training_loss(magnitude, example), magnitude

    def training_step(self, example: Example, batch_idx: int) -> Tensor:  # noqa: ARG002
        """One step."""
        loss, _ = self.loss_and_magnitude(example)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(example))
        return loss

    def validation_step(self, example: Example, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Collect the metrics of the batch; returns the magnitude, from which callbacks draw."""
        loss, magnitude = self.loss_and_magnitude(example)
        self.validation_loss.update(loss, example.volume, example.slice)
        self.metrics.update(magnitude, target_of(example), example.data_range, example.volume, example.slice)
        return magnitude


class UNetModule(SupervisedModule):
    """The U-Net baseline: the loss is taken in units of each zero-filled image's deviation, the target clamped to +-6.

    With ``L1`` this is fastMRI's loss, where every slice weighs the same whatever its brightness.
    """

    def training_loss(self, magnitude: Tensor, example: Example) -> Tensor:
        """Loss of a cropped magnitude image ``(batch, h, w)`` in normalised space."""
        target, mean, std = self.normalised_target(example)
        return self.loss((magnitude - mean) / std, target, torch.ones_like(example.data_range))

    @torch.no_grad()
    def normalised_target(self, example: Example) -> tuple[Tensor, Tensor, Tensor]:
        """Target by mean and deviation of each zero-filled image, clamped, and these two ``(batch, 1, 1)``."""
        target = target_of(example)
        mean, std = statistics(self.zero_filled(example, (target.shape[-2], target.shape[-1])))
        return ((target - mean) / std).clamp(-6, 6), mean, std

    @staticmethod
    def zero_filled(example: Example, size: tuple[int, int]) -> Tensor:
        """Zero-filled root-sum-of-squares magnitude inside the crop."""
        return center_crop(root_sum_of_squares(ifftc(example.acquisition.kspace)), size)


class VarNetModule(SupervisedModule):
    """The variational networks: the loss is taken on magnitudes in the units of the data."""


def target_of(example: Example) -> Tensor:
    """Return the target, which supervised training and evaluation need.

    Raises
    ------
    InputError : if the data has none.
    """
    if example.target is None:
        raise InputError(
            f"{example.volume[0]} has no reference image (reconstruction_rss or reconstruction_esc); training and "
            f"evaluation need one, reconstruct.py does without"
        )
    return example.target


class HeteroscedasticModule(UNetModule):
    """Trains a network that returns image and standard deviation, by the likelihood of the target under them.

    As for the U-Net both are taken in units of each zero-filled image's deviation, so that every slice weighs the
    same. The loss is ``loss(image, target, std)``, of pixels in these units.
    """

    def loss_and_magnitude(self, example: Example) -> tuple[Tensor, Tensor]:
        """Return the negative log likelihood and the magnitude ``(batch, h, w)`` inside the target's crop."""
        target, mean, unit = self.normalised_target(example)
        result = self.net(example.acquisition)
        size = (target.shape[-2], target.shape[-1])
        magnitude, std = center_crop(result.image.abs(), size), center_crop(result.std, size)
        return self.loss((magnitude - mean) / unit, target, std / unit), magnitude
