"""What a scanner delivers, what a method returns, and what training and evaluation see.

An image is ``(batch, h, w)``, k-space ``(batch, coil, h, w)``, both ``complex64``. ``h`` is the readout, ``w`` the
phase-encoding direction, the one that a line mask undersamples.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from spinwarp.errors import InputError


@dataclass(frozen=True)
class Header:
    """What is known of one acquisition beside its samples.

    Parameters
    ----------
    provenance : ``scanner``, ``simulated`` (k-space made from images of a scanner), ``phantom`` or ``unknown``.
    source : name of the file or data set it came from.
    reconstruction_size : (h, w) in pixels to which the image is cropped for viewing and evaluation; None: no crop.
    acquired_columns : first and one past the last column of k-space that the scanner acquired; the rest is zero
        padding. None: all columns.
    voxel_size : (readout, phase, slice) in mm.
    orientation : ``axial``, ``coronal``, ``sagittal``, or None where it is not known.
    contrast : the sequence, in the words of the source (``CORPD_FBK``, ``AXT2``, ``FLAIR``).
    """

    provenance: str = "unknown"
    source: str = ""
    reconstruction_size: tuple[int, int] | None = None
    acquired_columns: tuple[int, int] | None = None
    voxel_size: tuple[float, float, float] | None = None
    orientation: str | None = None
    contrast: str | None = None


class _Movable:
    """Moves every tensor of a dataclass, nested ones too; Lightning asks for exactly these two methods."""

    def to(self, *args: object, **kwargs: object) -> Self:
        """Return a copy whose tensors are on another device; the arguments are those of ``Tensor.to``."""
        return self._map("to", *args, **kwargs)

    def pin_memory(self) -> Self:
        """Return a copy whose tensors lie in pinned memory."""
        return self._map("pin_memory")

    def _map(self, method: str, *args: object, **kwargs: object) -> Self:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        moved = {
            name: getattr(value, method)(*args, **kwargs)
            for name, value in fields.items()
            if isinstance(value, Tensor | _Movable)
        }
        return dataclasses.replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class Acquisition(_Movable):
    """All that a reconstructor may see: measured k-space and what describes it.

    Parameters
    ----------
    kspace : ``(batch, coil, h, w)`` complex64, zero where nothing was measured.
    mask : ``(batch, 1, 1 or h, w)`` bool, True where k-space was measured.
    maps : coil sensitivities ``(batch, coil, h, w)`` complex64 with a sum of squares of one, or None.
    noise_std : ``(batch,)`` standard deviation of the complex noise of one k-space sample, or None.
    n_acs : ``(batch,)`` number of central columns that the mask was asked for, of which networks make coil maps as
        fastMRI's VarNet does; None: as many as are sampled. All else reads the mask (:func:`acs_columns`), and may find
        a line more where one was drawn beside the centre.
    headers : one :class:`Header` per item of the batch.
    """

    kspace: Tensor
    mask: Tensor
    maps: Tensor | None = None
    noise_std: Tensor | None = None
    n_acs: Tensor | None = None
    headers: tuple[Header, ...] = ()

    def acceleration(self) -> Tensor:
        """Realised acceleration ``(batch,)``: positions of the scan over those that were sampled.

        The scan is all rows of the header's ``acquired_columns``: zero padding that the header knows of is left out.
        Where the header says nothing the scan is the whole matrix. Lines and rows that are missing in the data alone,
        as of partial Fourier and asymmetric echoes, therefore count as skipped, and so do those of a scan that was
        undersampled before a mask was drawn within it.
        """
        width = self.mask.shape[-1]
        rates = []
        for i, mask in enumerate(self.mask):
            header = self.headers[i] if self.headers else Header()
            first, last = header.acquired_columns or (0, width)
            inside = mask[..., first:last]
            rates.append(inside.numel() / max(int(inside.sum()), 1))
        return torch.tensor(rates)


@dataclass(frozen=True)
class Example(_Movable):
    """An acquisition with the truth beside it; only training and evaluation see one. Its length is the batch size.

    Parameters
    ----------
    acquisition : what the method may see.
    target : ``(batch, h', w')`` float32 magnitude image at the header's reconstruction size, or None where there is
        no reference.
    data_range : ``(batch,)`` the largest value of the whole target volume, for SSIM and PSNR.
    volume : name of each item's volume.
    slice : index of each item in its volume.
    target_type : ``rss`` or ``esc`` (the magnitude of one coil) of each item, as fastMRI names its references; empty
        where the source does not say.
    """

    acquisition: Acquisition
    target: Tensor | None
    data_range: Tensor
    volume: tuple[str, ...]
    slice: tuple[int, ...]
    target_type: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.volume)


@dataclass(frozen=True)
class Reconstruction(_Movable):
    """What a reconstructor returns.

    Parameters
    ----------
    image : ``(batch, h, w)`` complex64, in the units of the measured data.
    std : ``(batch, h, w)`` pixelwise standard deviation of the image's magnitude, or None.
    samples : ``(n_samples, batch, h, w)`` draws that the mean was taken of, or None.
    """

    image: Tensor
    std: Tensor | None = None
    samples: Tensor | None = None


def collate(examples: Sequence[Example]) -> Example:
    """Join examples into one batch along the first dimension.

    Raises
    ------
    InputError : if shapes differ; the batch sampler groups slices by shape.
    """
    shapes = {(tuple(e.acquisition.kspace.shape[1:]), e.target is None or tuple(e.target.shape[1:])) for e in examples}
    if len(shapes) > 1:
        listed = ", ".join(sorted(str(s) for s in shapes))
        raise InputError(f"slices of different shapes cannot share a batch: {listed}; use data.batch_size=1")
    return Example(
        acquisition=collate_acquisitions([e.acquisition for e in examples]),
        target=_cat([e.target for e in examples]),
        data_range=torch.cat([e.data_range for e in examples]),
        volume=tuple(v for e in examples for v in e.volume),
        slice=tuple(s for e in examples for s in e.slice),
        target_type=tuple(t for e in examples for t in e.target_type),
    )


def collate_acquisitions(acquisitions: Sequence[Acquisition]) -> Acquisition:
    """Join acquisitions of one shape into one batch along the first dimension."""
    full_mask = [a.mask.expand(-1, -1, max(b.mask.shape[-2] for b in acquisitions), -1) for a in acquisitions]
    return Acquisition(
        kspace=torch.cat([a.kspace for a in acquisitions]),
        mask=torch.cat(full_mask),
        maps=_cat([a.maps for a in acquisitions]),
        noise_std=_cat([a.noise_std for a in acquisitions]),
        n_acs=_cat([a.n_acs for a in acquisitions]),
        headers=tuple(h for a in acquisitions for h in a.headers),
    )


def item(example: Example, index: int) -> Example:
    """Return item ``index`` of a batch as a batch of one: the inverse of :func:`collate`."""
    pick = slice(index, index + 1)
    acquisition = item_acquisition(example.acquisition, index)
    return Example(
        acquisition=acquisition,
        target=None if example.target is None else example.target[pick],
        data_range=example.data_range[pick],
        volume=example.volume[pick],
        slice=example.slice[pick],
        target_type=example.target_type[pick],
    )


def item_acquisition(acquisition: Acquisition, index: int) -> Acquisition:
    """Return item ``index`` of a batched acquisition as a batch of one."""
    pick = slice(index, index + 1)
    fields = {f.name: getattr(acquisition, f.name) for f in dataclasses.fields(acquisition)}
    return dataclasses.replace(acquisition, **{k: v[pick] for k, v in fields.items() if v is not None})


def acs_columns(mask: Tensor) -> Tensor:
    """Number of fully sampled central columns ``(batch,)`` of a mask ``(batch, 1, 1 or h, w)``; 0 without a centre.

    The largest n for which the n columns from ``(w - n + 1) // 2`` on, where masks put their centre, are sampled in the
    n rows about the centre. Of lines that is the width of the centre, of points the side of the square. A row without
    any sample, as an asymmetric echo has them, takes no columns away. fastMRI's VarNet counts alike, but that it takes
    twice the shorter side of the centre column, which of an odd centre leaves one out.
    """
    sampled = mask[:, 0]
    rows = sampled.any(-1, keepdim=True)
    rows[:, rows.shape[1] // 2] = True  # but the central row
    h, w = sampled.shape[-2:]
    size = torch.maximum(_smallest_block(h, mask.device)[:, None], _smallest_block(w, mask.device))
    return torch.where(sampled | ~rows, w + 1, size).flatten(1).amin(1) - 1


def _smallest_block(n: int, device: torch.device) -> Tensor:
    """Number of central positions ``(n,)`` from which on the block of so many holds each of ``n`` positions."""
    position = torch.arange(n, device=device)
    return torch.maximum(n - 2 * position, 2 * position + 1 - n)


def center_crop(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop the last two dimensions to ``size`` about the centre, as fastMRI does; a view.

    Raises
    ------
    InputError : if ``size`` is larger than the image.
    """
    h, w = image.shape[-2:]
    if not (0 < size[0] <= h and 0 < size[1] <= w):
        raise InputError(f"cannot crop an image of {h}x{w} to {size[0]}x{size[1]}: the crop must fit inside the image")
    top, left = (h - size[0]) // 2, (w - size[1]) // 2
    return image[..., top : top + size[0], left : left + size[1]]


def _cat(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [t for t in tensors if t is not None]
    if present and len(present) < len(tensors):
        raise InputError("some slices of a batch have a target, coil maps or a noise level and some have none")
    return torch.cat(present) if present else None


def slice_generator(seed: int, example: Example, device: str) -> torch.Generator:
    """Return the generator of a batch's own randomness: it depends on the seed, the volume and the slice alone."""
    key = f"{seed}/{example.volume[0]}/{example.slice[0]}".encode()
    return torch.Generator(device).manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "big"))
