"""Training without references: the loss compares the network's k-space with measured samples that it was not given."""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition, Example, Split, acs_columns, center_crop
from spinwarp.errors import InputError
from spinwarp.fourier import fftc
from spinwarp.operators.sense import coil_maps, expand
from spinwarp.training.images import size_of
from spinwarp.training.supervised import SupervisedModule


class SelfSupervisedModule(SupervisedModule):
    """Trains any network that returns a complex image on the split of each example (:mod:`spinwarp.data.split`).

    ``loss(kspace, measured, peak)`` compares weighted k-space ``(batch, coil, h, w)``; ``peak`` is the strongest
    measured sample of each slice. Validation logs the same loss as ``val/loss``, which chooses the best checkpoint.
    Metrics against references, where there are any, are those of images from all that was measured. They decide
    nothing.
    """

    without_references: ClassVar[bool] = True

    def kspace_loss(self, example: Example) -> Tensor:
        """Return the loss of what the network makes of the input part of a batch."""
        return self.image_and_loss(example)[2]

    def image_and_loss(self, example: Example) -> tuple[Acquisition, Tensor, Tensor]:
        """Return the input of the network, the image ``(batch, h, w)`` that it makes of it, and the loss.

        Raises
        ------
        InputError : if the examples have no split, or several coils and no maps.
        """
        acquisition, split = example.acquisition, check_split_of(example)
        given, measured = given_and_compared(acquisition, split)
        image = self.net(given)
        kspace = fftc(expand(image, coil_maps(acquisition)))
        peak = acquisition.kspace.abs().flatten(1).amax(1)
        return given, image, self.loss(split.weight * kspace, split.weight * measured, peak)

    def training_step(self, example: Example, batch_idx: int) -> Tensor:  # noqa: ARG002
        """One step."""
        loss = self.kspace_loss(example)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(example))
        return loss

    def validation_step(self, example: Example, batch_idx: int) -> Tensor | None:  # type: ignore[override]  # noqa: ARG002
        """Collect the held-out loss, and the metrics of the image from all measured samples if there is a target."""
        self.validation_loss.update(self.kspace_loss(example), example.volume, example.slice)
        if example.target is None:
            nothing = torch.zeros_like(
                example.acquisition.kspace[:, 0].real
            )  # a target of zeros is none, and its metrics are NaN
            self.metrics.update(nothing, nothing, example.data_range, example.volume, example.slice)
            return None
        magnitude = center_crop(self.net(example.acquisition).abs(), size_of(example.target))
        self.metrics.update(magnitude, example.target, example.data_range, example.volume, example.slice)
        return magnitude


def check_split_of(example: Example) -> Split:
    """Return the split of an example.

    Raises
    ------
    InputError : if it has none.
    """
    if example.split is None:
        raise InputError(
            f"{example.volume[0]} is not split into an input and a part for the loss; set data.supervision=split"
        )
    return example.split


def given_and_compared(acquisition: Acquisition, split: Split) -> tuple[Acquisition, Tensor]:
    """Return the input of the network, and the k-space ``(batch, coil, h, w)`` with which its result is compared."""
    kspace, noise_std = acquisition.kspace, acquisition.noise_std
    given = kspace * split.mask
    if split.noise is not None and split.alpha is not None:
        alpha = split.alpha.view(-1, 1, 1, 1)
        given, kspace = given + alpha * split.noise, kspace - split.noise / alpha
        noise_std = None if noise_std is None else noise_std * (1 + split.alpha.square()).sqrt()
    sampled = acs_columns(split.mask)
    n_acs = sampled if acquisition.n_acs is None else sampled.minimum(acquisition.n_acs)
    return replace(acquisition, kspace=given, mask=split.mask, noise_std=noise_std, n_acs=n_acs), kspace
