"""Affine changes of the coil images that keep the noise white (MRAugment)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from numpy.random import RandomState
from torch import Tensor

from spinwarp.acquisition import Example, center_crop
from spinwarp.coils import noise_level, root_sum_of_squares
from spinwarp.errors import InputError
from spinwarp.files import warn_once
from spinwarp.fourier import fftc, ifftc

Fill = Callable[[list[int]], Tensor]
_RSS = 1e-3  # relative difference up to which a target is the root sum of squares of its k-space


@dataclass(frozen=True)
class _Change:
    """A drawn change: angles in radians, ``size`` and ``shift`` of the cut in pixels (h, w)."""

    flips: tuple[int, ...]
    angle: float
    shear: float
    size: tuple[int, int]
    shift: tuple[int, int]


class MRAugment:
    """Mirrors, rotates, shears, scales and shifts the coil images; the target is made anew from them.

    Each change has the probability ``p(t) = p_max (1 - exp(-c t / T)) / (1 - exp(-c))`` in epoch t, so that training
    begins with the scans as they are.

    Interpolation would colour the noise. Here a rotation is three shears, a shear moves each row by a phase in its
    Fourier transform, and a change of scale cuts or fills the image and its k-space. What comes in from outside is
    white noise as strong as that of the scan. All of these keep white noise white.

    Scans that are undersampled or zero-padded stay as they are, which the log says once: their gaps would turn too. A
    target that is not the root sum of squares of the k-space, as that of simulated heads, is changed as an image.

    Parameters
    ----------
    epochs : T, the number of epochs of the training.
    p_max, c : of the schedule.
    rotation : largest angle in degrees, at most 180.
    shear : largest angle in degrees.
    scale : largest relative change of size.
    shift : largest shift, as a fraction of the image.

    Raises
    ------
    InputError : if an option is out of range.

    References
    ----------
    Fabian, Heckel and Soltanolkotabi, "Data augmentation for deep learning based accelerated MRI reconstruction with
    limited data", ICML 2021; Paeth, "A fast algorithm for general raster rotation", Graphics Interface 1986; Larkin,
    Oldfield and Klemm, "Fast Fourier method for the accurate rotation of sampled images", Optics Communications 1997.
    """

    def __init__(
        self,
        epochs: int,
        p_max: float = 0.55,
        c: float = 5.0,
        rotation: float = 180.0,
        shear: float = 15.0,
        scale: float = 0.25,
        shift: float = 0.1,
    ) -> None:
        if epochs < 1 or not 0 <= p_max <= 1 or not c > 0:
            raise InputError(
                f"data.augment needs epochs of at least 1, p_max from 0 to 1 and c above 0; got {epochs}, {p_max}, {c}"
            )
        if not (0 <= rotation <= 180 and 0 <= shear <= 45 and 0 <= scale <= 0.5 and 0 <= shift <= 0.5):
            raise InputError(
                f"data.augment takes rotation up to 180 and shear up to 45 degrees, scale and shift up to 0.5; got "
                f"{rotation}, {shear}, {scale}, {shift}"
            )
        self.epochs, self.p_max, self.c = epochs, p_max, c
        self.rotation, self.shear, self.scale, self.shift = math.radians(rotation), math.radians(shear), scale, shift

    def probability(self, epoch: int) -> float:
        """Return the probability of each change in an epoch, counted from 0."""
        progress = min(epoch / self.epochs, 1.0)
        return self.p_max * (1 - math.exp(-self.c * progress)) / (1 - math.exp(-self.c))

    def at(self, epoch: int) -> "partial[Example]":
        """Return the augmentation of an epoch."""
        return partial(self._augmented, probability=self.probability(epoch))

    def __call__(self, example: Example, generator: RandomState) -> Example:
        """Return the example changed as at the end of training; the input is not modified."""
        return self._augmented(example, generator, self.p_max)

    def _augmented(self, example: Example, generator: RandomState, probability: float) -> Example:
        acquisition, target = example.acquisition, example.target
        h, w = acquisition.kspace.shape[-2:]
        change = self._draw(generator, probability, (h, w))
        if change is None:
            return example
        if acquisition.maps is not None:
            raise InputError(
                "data.augment=MRAugment moves the coils with the image, so their maps have to be estimated; set "
                "data.maps=low_resolution or none"
            )
        if not acquisition.mask.all():
            warn_once("scans that are undersampled or zero-padded are not augmented (MRAugment needs whole k-space)")
            return example
        images = ifftc(acquisition.kspace)
        voxel = acquisition.headers[0].voxel_size if acquisition.headers else None
        pixel = 1.0 if voxel is None else voxel[0] / voxel[1]
        level = float(noise_level(acquisition.kspace, acquisition.mask)[0])
        changed = _changed(images, change, pixel, partial(_noise, generator=generator, level=level))
        if target is not None:
            size = (target.shape[-2], target.shape[-1])
            rss = center_crop(root_sum_of_squares(images), size)
            if float((rss - target).norm()) <= _RSS * float(target.norm()):  # an empty slice too
                target = center_crop(root_sum_of_squares(changed), size)
            elif size == (h, w):
                target = _changed(target.to(images.dtype)[:, None], change, pixel, _nothing)[:, 0].abs()
            else:
                warn_once("scans whose target is neither their root sum of squares nor of their size are not augmented")
                return example
        headers = tuple(replace(header, geometry=None, orientation=None) for header in acquisition.headers)
        gain = math.sqrt(change.size[0] * change.size[1] / (h * w))  # of the brightness, as voxels change their size
        acquisition = replace(acquisition, kspace=fftc(changed), headers=headers)
        return replace(example, acquisition=acquisition, target=target, data_range=example.data_range * gain)

    def _draw(self, generator: RandomState, probability: float, shape: tuple[int, int]) -> _Change | None:
        """Draw a change; None if nothing changes. The number of draws is always the same."""
        wanted = generator.uniform(size=6) < probability
        amounts = generator.uniform(-1, 1, size=6)
        if not wanted.any():
            return None
        scale = 1 + self.scale * amounts[4] * wanted[4]
        by = amounts[[5, 0]] * self.shift * wanted[5]
        return _Change(
            flips=tuple(dim for dim, is_wanted in zip((-2, -1), wanted[:2], strict=True) if is_wanted),
            angle=self.rotation * amounts[2] * wanted[2],
            shear=self.shear * amounts[3] * wanted[3],
            size=(round(shape[0] / scale), round(shape[1] / scale)),
            shift=(round(by[0] * shape[0]), round(by[1] * shape[1])),
        )


def _changed(images: Tensor, change: _Change, pixel: float, fill: Fill) -> Tensor:
    """Apply a change to images ``(1, c, h, w)``; ``pixel`` is the height of a pixel over its width."""
    h, w = images.shape[-2:]
    angle = change.angle
    for dim in change.flips:
        images = _mirrored(images, dim)
    if abs(angle) > math.pi / 2:  # half a turn is exact
        angle -= math.copysign(math.pi, angle)
        images = _mirrored(_mirrored(images, -2), -1)
    room = h + w if angle or change.shear else 0
    canvas = [max(n, cut + 2 * abs(by), room) for n, cut, by in zip((h, w), change.size, change.shift, strict=True)]
    images = _resized(images, (canvas[0], canvas[1]), fill)
    if angle:
        images = _sheared(images, -1, -math.tan(angle / 2) * pixel)
        images = _sheared(images, -2, math.sin(angle) / pixel)
        images = _sheared(images, -1, -math.tan(angle / 2) * pixel)
    if change.shear:
        images = _sheared(images, -1, math.tan(change.shear) * pixel)
    if any(change.shift):
        images = images.roll(change.shift, (-2, -1))  # there is room for it
    images = _resized(images, change.size, fill)
    return images if change.size == (h, w) else ifftc(_resized(fftc(images), (h, w), fill))


def _sheared(images: Tensor, dim: int, amount: float) -> Tensor:
    """Move every line along ``dim`` by ``amount`` times its distance from the centre; -1 or -2."""
    other = -3 - dim
    n, m = images.shape[dim], images.shape[other]
    frequency = (torch.arange(n) - n // 2) / n
    distance = torch.arange(m) - m // 2
    turns = frequency.view(-1, 1) * distance * amount if dim == -2 else frequency * distance.view(-1, 1) * amount
    phase = torch.polar(torch.ones_like(turns), -2 * math.pi * turns)
    return ifftc(fftc(images, (dim,)) * phase, (dim,))


def _mirrored(images: Tensor, dim: int) -> Tensor:
    """Mirror about the central pixel."""
    return images.flip(dim).roll(1 - images.shape[dim] % 2, dim)


def _resized(x: Tensor, size: tuple[int, int], fill: Fill) -> Tensor:
    """Cut or fill the last two dimensions about the centre, index ``n // 2``."""
    for dim, n in zip((-2, -1), size, strict=True):
        old = x.shape[dim]
        if n < old:
            x = x.narrow(dim, old // 2 - n // 2, n)
        elif n > old:
            shape = list(x.shape)
            shape[dim] = n
            whole = fill(shape)
            whole.narrow(dim, n // 2 - old // 2, old).copy_(x)
            x = whole
    return x


def _noise(shape: list[int], generator: RandomState, level: float) -> Tensor:
    real, imag = torch.from_numpy(generator.normal(scale=level / math.sqrt(2), size=(2, *shape))).float()
    return torch.complex(real, imag)


def _nothing(shape: list[int]) -> Tensor:
    return torch.zeros(shape, dtype=torch.complex64)
