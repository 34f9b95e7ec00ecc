"""Supervised training of networks that take an acquisition and return an image."""

import math
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from spinwarp.acquisition import Example, center_crop
from spinwarp.coils import root_sum_of_squares
from spinwarp.data.source import random_state
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc
from spinwarp.models.unet import statistics
from spinwarp.training.base import NetworkModule
from spinwarp.training.images import size_of
from spinwarp.training.sampling import LearnedSampling

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class SupervisedModule(NetworkModule):
    """Trains a network on the magnitude inside the target's crop, and validates volume by volume.

    Parameters
    ----------
    net : ``Acquisition`` to complex image ``(batch, h, w)``.
    loss : ``loss(image, target, data_range)`` on magnitudes, in the units of the data.
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
        #: undersamples the examples with a mask that is learned too (``mask=learned``); None: they come undersampled
        self.sampling: LearnedSampling | None = None

    def trained_parameters(self) -> Iterable[nn.Parameter]:
        """Return the weights of the network, and the probabilities of a learned mask."""
        return (
            self.net.parameters() if self.sampling is None else chain(self.net.parameters(), self.sampling.parameters())
        )

    def parameter_groups(self) -> Iterable[Any]:
        """Return the weights, and a group with its own learning rate and no decay for a learned mask."""
        if self.sampling is None:
            return self.trained_parameters()
        mask = {"params": self.sampling.parameters(), "lr": self.sampling.mask.learning_rate, "weight_decay": 0.0}
        return [{"params": self.net.parameters()}, mask]

    def training_loss(self, magnitude: Tensor, example: Example) -> Tensor:
        """Loss of a cropped magnitude image ``(batch, h, w)``."""
        return self.loss(magnitude, target_of(example), example.data_range)

    def loss_and_magnitude(self, example: Example) -> tuple[Tensor, Tensor]:
        """Return the loss, and the reconstructed magnitude ``(batch, h, w)`` inside the target's crop."""
        magnitude = center_crop(self.net(example.acquisition).abs(), size_of(target_of(example)))
        return self.training_loss(magnitude, example), magnitude

    def training_step(self, example: Example, batch_idx: int) -> Tensor:  # noqa: ARG002
        """One step."""
        if self.sampling is not None:  # the draw depends on the seed, the epoch and the slice, as that of other masks
            draw = random_state(self._seed, self.current_epoch, example.volume[0], example.slice[0])
            example = self.sampling(example, draw)
        loss, _ = self.loss_and_magnitude(example)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(example))
        return loss

    def validation_step(self, example: Example, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Collect the metrics of the batch; return the magnitude, which callbacks draw."""
        if self.sampling is not None:
            example = self.sampling(example, None)
        loss, magnitude = self.loss_and_magnitude(example)
        self.validation_loss.update(loss, example.volume, example.slice)
        self.metrics.update(magnitude, target_of(example), example.data_range, example.volume, example.slice)
        return magnitude


class VarNetModule(SupervisedModule):
    """The variational networks: :class:`SupervisedModule` as it is."""


class EveryCascadeModule(SupervisedModule):
    """Trains a :class:`~spinwarp.models.cascades.CascadeNet` by the mean loss of the images of all its cascades.

    The weights rise geometrically from ``first`` to 1, as in vSHARP, and are divided by their sum. Validation looks at
    the last image alone.

    Parameters
    ----------
    net, loss, optimizer, schedule, reference_batch : see :class:`SupervisedModule`.
    first : weight of the first cascade, where the last has 1.

    Raises
    ------
    InputError : if ``first`` is not in (0, 1], or the network has no images of its cascades.

    References
    ----------
    Yiasemis et al., "vSHARP", arXiv 2309.09954.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Loss,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Callable[[float], float] | None = None,
        reference_batch: int | None = None,
        first: float = 0.1,
    ) -> None:
        super().__init__(net, loss, optimizer, schedule, reference_batch)
        if not 0 < first <= 1:
            raise InputError(f"model.first is the weight of the first cascade, above 0 and at most 1; got {first}")
        if not hasattr(net, "cascade_images"):
            raise InputError(
                f"a loss on every cascade needs the images of the cascades, which {type(net).__name__} does not "
                f"return; use model._target_=spinwarp.training.VarNetModule"
            )
        self.first = first

    def loss_and_magnitude(self, example: Example) -> tuple[Tensor, Tensor]:
        """Return the loss, and the magnitude of the last image ``(batch, h, w)`` inside the target's crop."""
        if not self.training:
            return super().loss_and_magnitude(example)
        size = size_of(target_of(example))
        magnitudes = [center_crop(image.abs(), size) for image in self.net.cascade_images(example.acquisition)]  # type: ignore[operator]
        weights = torch.logspace(math.log10(self.first), 0, len(magnitudes)) if len(magnitudes) > 1 else torch.ones(1)
        weights = weights / weights.sum()
        losses = [self.training_loss(magnitude, example) for magnitude in magnitudes]
        return sum((float(w) * loss for w, loss in zip(weights, losses, strict=True)), losses[0] * 0), magnitudes[-1]


class UNetModule(SupervisedModule):
    """The U-Net baseline: the loss of slices normalised by mean and deviation of their zero-filled images.

    Every slice has the same weight, whatever its brightness. With ``L1Loss`` this is fastMRI's loss.
    """

    def training_loss(self, magnitude: Tensor, example: Example) -> Tensor:
        """Loss of a cropped magnitude image ``(batch, h, w)``, normalised as the target is."""
        target, mean, std = self.normalised_target(example)
        return self.loss((magnitude - mean) / std, target, torch.ones_like(example.data_range))

    @torch.no_grad()
    def normalised_target(self, example: Example) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``(target - mean) / std`` clamped to +-6, and the two of the zero-filled image, ``(batch, 1, 1)``."""
        target = target_of(example)
        zero_filled = center_crop(root_sum_of_squares(ifftc(example.acquisition.kspace)), size_of(target))
        mean, std = statistics(zero_filled)
        return ((target - mean) / std).clamp(-6, 6), mean, std


class HeteroscedasticModule(UNetModule):
    """Trains a network that returns image and standard deviation, by the likelihood that they give the target.

    All three are normalised as for the U-Net. The loss is ``loss(image, target, std)``.
    """

    def loss_and_magnitude(self, example: Example) -> tuple[Tensor, Tensor]:
        """Return the negative log likelihood and the magnitude ``(batch, h, w)`` inside the target's crop."""
        target, mean, unit = self.normalised_target(example)
        result = self.net(example.acquisition)
        magnitude, std = (center_crop(image, size_of(target)) for image in (result.image.abs(), result.std))
        return self.loss((magnitude - mean) / unit, target, std / unit), magnitude


def target_of(example: Example) -> Tensor:
    """Return the target, which supervised training and evaluation need.

    Raises
    ------
    InputError : if the data has none.
    """
    if example.target is None:
        raise InputError(
            f"{example.volume[0]} has no reference image (reconstruction_rss or reconstruction_esc); training and "
            f"evaluation need one, reconstruct.py works without; model=varnet_ssdu learns without references"
        )
    return example.target
