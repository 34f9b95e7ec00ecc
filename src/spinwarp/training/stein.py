"""Training without references and without noise in the images: ENSURE and robust equivariant imaging (REI).

A loss that compares an image with the noisy samples it was made from rewards keeping the noise. For white Gaussian
noise of standard deviation s, Stein's lemma says by how much: ``E |k(y) - x|^2 = E |k(y) - y|^2 + 2 s^2 div k - N s^2``
over N samples y = x + n that the k-space k of an image is made from. One random probe estimates the divergence.
"""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache

import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from spinwarp.acquisition import Acquisition, Example, slice_generator
from spinwarp.channels import to_channels, to_complex
from spinwarp.coils import noise_level
from spinwarp.errors import InputError
from spinwarp.fourier import fftc
from spinwarp.operators.sense import coil_maps, expand
from spinwarp.training.self_supervised import SelfSupervisedModule
from spinwarp.training.supervised import Loss

log = logging.getLogger("spinwarp")
_STEP = 1e-2  # of the derivative, in units of the noise: large against rounding in float32


class EnsureModule(SelfSupervisedModule):
    """ENSURE for several coils: the loss is an unbiased estimate of the squared error of the image without noise.

    Held-out lines are weighted by their probabilities (``data.split.weighted=true``), as in K-weighted SSDU. Their
    noise is independent of the input. On the lines of the input, Stein's term takes back what keeping the noise gains.
    Unlike Robust SSDU, the input gets no noise beside its own. A step takes a second pass through the network.

    The published loss has no held-out lines: it divides the error of each measured line by its probability. A network
    that returns its measured lines and zeros elsewhere has the least such loss if there is no noise.

    References
    ----------
    Aggarwal, Pramanik, John and Jacob, "ENSURE: a general approach for unsupervised training of deep image
    reconstruction algorithms", IEEE TMI 2023.
    """

    def on_fit_start(self) -> None:
        """Refuse a precision in which the derivative would be lost."""
        super().on_fit_start()
        check_precision(self)

    def kspace_loss(self, example: Example) -> Tensor:
        """Return the squared error of all compared lines plus Stein's term of the input, over the squared peak."""
        acquisition = with_level(example)
        given, image, loss = self.image_and_loss(replace(example, acquisition=acquisition))
        generator = None if self.training else slice_generator(0, example, str(image.device))
        term = stein_term(self.net, given, image, acquisition.noise_std, probe(given, generator))
        return loss + (term / squared_peak(acquisition)).mean()


class EquivariantModule(SelfSupervisedModule):
    """Robust equivariant imaging: an image that is flipped, shifted or turned is as likely as it was before.

    The network's image x of all measured lines is moved by a random T. The network should find T x again from an
    undersampled scan of it, made with the same mask, maps and noise level. This teaches it what the mask leaves out,
    without held-out lines. On the measured lines, Stein's estimate of the error without noise is the loss. The
    validation has the held-out lines of :class:`SelfSupervisedModule`.

    Parameters
    ----------
    net, loss, optimizer, schedule, reference_batch : see :class:`SelfSupervisedModule`; the loss is used in validation.
    weight : of the second term (alpha).
    flips : whether half of the images are mirrored, along each axis.
    shift : largest shift, as a fraction of the image. Shifts alone teach nothing if there is a single coil.
    degrees : largest angle.

    Raises
    ------
    InputError : if a number is out of range.

    References
    ----------
    Chen, Tachella and Davies, "Robust equivariant imaging: a fully unsupervised framework for learning to image from
    noisy and partial measurements", CVPR 2022.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Loss,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Callable[[float], float] | None = None,
        reference_batch: int | None = None,
        weight: float = 1.0,
        flips: bool = True,
        shift: float = 0.1,
        degrees: float = 30.0,
    ) -> None:
        super().__init__(net, loss, optimizer, schedule, reference_batch)
        if weight < 0 or not 0 <= shift <= 1 or not 0 <= degrees <= 180:
            raise InputError(
                f"model.weight={weight} is at least 0, model.shift={shift} a fraction up to 1, and "
                f"model.degrees={degrees} from 0 to 180"
            )
        self.weight = weight
        self.flips = flips
        self.shift = shift
        self.degrees = degrees

    def on_fit_start(self) -> None:
        """Refuse a precision in which the derivative would be lost."""
        super().on_fit_start()
        check_precision(self)

    def training_step(self, example: Example, batch_idx: int) -> Tensor:  # noqa: ARG002
        """One step."""
        loss = self.equivariant_loss(with_level(example))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(example))
        return loss

    def equivariant_loss(self, acquisition: Acquisition) -> Tensor:
        """Return both terms, over the squared peak of the measured samples; the noise level must be known."""
        maps, noise_std = coil_maps(acquisition), acquisition.noise_std
        assert noise_std is not None
        image = self.net(acquisition)
        error = (fftc(expand(image, maps)) - acquisition.kspace) * acquisition.mask
        known = _energy(error) + stein_term(self.net, acquisition, image, noise_std, probe(acquisition))
        moved = self.moved(image)
        noise = noise_std.view(-1, 1, 1, 1) * torch.randn_like(acquisition.kspace)
        again = self.net(replace(acquisition, kspace=(fftc(expand(moved, maps)) + noise) * acquisition.mask))
        return ((known + self.weight * _energy(again - moved)) / squared_peak(acquisition)).mean()

    def moved(self, images: Tensor) -> Tensor:
        """Mirror, shift and turn images ``(batch, h, w)``, all of a batch alike; what leaves the image is gone."""
        h, w = images.shape[-2:]
        draw = torch.rand(5).tolist()
        for axis, chance in zip((-2, -1), draw[:2], strict=True):
            images = images.flip(axis) if self.flips and chance < 0.5 else images
        angle = math.radians(self.degrees) * (2 * draw[2] - 1)
        down, right = (2 * self.shift * (2 * d - 1) for d in draw[3:])
        if angle == down == right == 0:
            return images
        cos, sin = math.cos(angle), math.sin(angle)
        # coordinates run from -1 to 1 along each axis, and a turn must not stretch what is not square
        rows = [[cos, -sin * h / w, right], [sin * w / h, cos, down]]
        matrix = torch.tensor(rows, device=images.device, dtype=images.real.dtype)
        grid = F.affine_grid(matrix.expand(len(images), -1, -1), [len(images), 2, h, w], align_corners=False)
        return to_complex(F.grid_sample(to_channels(images[:, None]), grid, align_corners=False))[:, 0]


def stein_term(
    net: nn.Module, given: Acquisition, image: Tensor, noise_std: Tensor | None, direction: Tensor
) -> Tensor:
    """Return ``2 s^2 div k`` ``(batch,)``, k the k-space of the network's image as a function of the given samples.

    Parameters
    ----------
    net : ``Acquisition`` to complex image ``(batch, h, w)``.
    given : what the image is made from, with its noise level, which the network may ask for.
    image : ``(batch, h, w)``, the image.
    noise_std : ``(batch,)`` s, root of E|n|^2 of a sample.
    direction : ``(batch, coil, h, w)``, random, zero where nothing is given, of identity covariance elsewhere.
    """
    assert noise_std is not None
    step = _STEP * noise_std.view(-1, 1, 1, 1)
    change = net(replace(given, kspace=given.kspace + step * direction)) - image
    product = (direction.conj() * fftc(expand(change, coil_maps(given)))).real.flatten(1).sum(1)
    return 2 / _STEP * noise_std * product


def probe(given: Acquisition, generator: Generator | None = None) -> Tensor:
    """Draw complex signs of modulus one at the samples of an acquisition, zero elsewhere."""
    shape, device = given.kspace.shape, given.kspace.device
    real, imag = (2 * torch.randint(2, shape, generator=generator, device=device) - 1 for _ in range(2))
    return torch.complex(real.float(), imag.float()) / 2**0.5 * given.mask


def with_level(example: Example) -> Acquisition:
    """Return the acquisition with the noise level of the data, or else the one in the corners of k-space.

    Raises
    ------
    InputError : if there is no noise.
    """
    acquisition = example.acquisition
    level = acquisition.noise_std
    if level is None:
        say_measured()
        level = noise_level(acquisition.kspace, acquisition.mask)
    for name, noise, kspace in zip(example.volume, level.tolist(), acquisition.kspace, strict=True):
        if not noise > 0 and kspace.any():  # an empty slice has nothing to learn from
            raise InputError(
                f"{name} has no noise in the corners of its k-space, and this model has to know how strong it is; take "
                f"model=varnet_ssdu_weighted"
            )
    return replace(acquisition, noise_std=level)


@cache
def say_measured() -> None:
    """Log once that the noise level is measured."""
    log.info("the data do not say how strong their noise is; it is measured in the corners of k-space")


def squared_peak(acquisition: Acquisition) -> Tensor:
    """Return the squared strongest sample ``(batch,)``; infinity for an empty slice, which then adds nothing."""
    peak = acquisition.kspace.abs().flatten(1).amax(1)
    return torch.where(peak > 0, peak, torch.inf).square()


def check_precision(module: LightningModule) -> None:
    """Raise an :class:`InputError` unless networks run in single precision: a derivative is lost in eight bits."""
    if module.trainer.precision not in ("32-true", "64-true"):
        raise InputError(
            f"the loss of this model takes a derivative by small steps, which trainer.precision="
            f"{module.trainer.precision} cannot show; set trainer.precision=32"
        )


def _energy(x: Tensor) -> Tensor:
    return x.abs().square().flatten(1).sum(1)
