"""The data types: what a scanner measures, what a method returns, and what training and evaluation use.

An image is ``(batch, h, w)``, k-space ``(batch, coil, h, w)``, both ``complex64``. ``h`` is the readout direction and
``w`` the phase-encoding direction, which a line mask undersamples.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from spinwarp.errors import InputError
from spinwarp.geometry import Geometry


@dataclass(frozen=True)
class Header:
    """What is known about an acquisition besides its samples.

    Parameters
    ----------
    provenance : ``scanner``, ``simulated`` (k-space made from images of a scanner), ``phantom`` or ``unknown``.
    source : name of the file or data set.
    reconstruction_size : (h, w) in pixels to which the image is cropped for viewing and evaluation; None: no crop.
    acquired_columns : first and one past the last column of k-space that the scanner acquired, the others being zero
        padding; None: all columns.
    voxel_size : (readout, phase, slice) in mm.
    orientation : ``axial``, ``coronal``, ``sagittal``, or None if unknown.
    contrast : the sequence, as the source names it (``CORPD_FBK``, ``AXT2``, ``FLAIR``).
    geometry : where the image of the whole k-space lies in the patient; None if unknown.
    """

    provenance: str = "unknown"
    source: str = ""
    reconstruction_size: tuple[int, int] | None = None
    acquired_columns: tuple[int, int] | None = None
    voxel_size: tuple[float, float, float] | None = None
    orientation: str | None = None
    contrast: str | None = None
    geometry: Geometry | None = None


class _Movable:
    """Moves all tensors of a dataclass, including nested ones; Lightning calls these two methods."""

    def to(self, *args: object, **kwargs: object) -> Self:
        """Return a copy on another device; the arguments are those of ``Tensor.to``."""
        return self._map("to", *args, **kwargs)

    def pin_memory(self) -> Self:
        """Return a copy in pinned memory."""
        return self._map("pin_memory")

    def _map(self, method: str, *args: object, **kwargs: object) -> Self:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        moved: dict[str, Any] = {
            name: getattr(value, method)(*args, **kwargs)
            for name, value in fields.items()
            if isinstance(value, Tensor | _Movable)
        }
        if fields.get("adjacent"):
            moved["adjacent"] = tuple(getattr(one, method)(*args, **kwargs) for one in fields["adjacent"])
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
    n_acs : ``(batch,)`` number of central columns that the mask was designed with; networks make coil maps from them,
        like fastMRI's VarNet. None: all sampled central columns. Everything else counts the columns of the mask
        (:func:`acs_columns`), which may be more if a line next to the centre was drawn.
    headers : one :class:`Header` per item of the batch.
    adjacent : the slices beside these, in the order of the volume and without these themselves: half of them before,
        half after. Each is an acquisition of the whole batch. Beyond the edge of a volume the last slice is repeated.
        Empty: these slices alone. Only networks that see several slices at once use it.
    soft_mask : like ``mask``, float32 with the same zeros and ones, through which the gradient reaches a mask that is
        learned. Operators take it in place of ``mask``; replace both together. None: the mask is not learned.

    Raises
    ------
    InputError : if k-space, mask or another of the tensors is something else, such as a numpy array.
    """

    kspace: Tensor
    mask: Tensor
    maps: Tensor | None = None
    noise_std: Tensor | None = None
    n_acs: Tensor | None = None
    headers: tuple[Header, ...] = ()
    adjacent: "tuple[Acquisition, ...]" = ()
    soft_mask: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("kspace", "mask", "maps", "noise_std", "n_acs", "soft_mask"):
            value = getattr(self, name)
            if not isinstance(value, Tensor) and (value is not None or name in ("kspace", "mask")):
                raise InputError(
                    f"{name} of an Acquisition is of type {type(value).__name__}; a torch tensor is expected, such as "
                    f"torch.from_numpy(array) of a numpy array"
                )

    @property
    def sampling(self) -> Tensor:
        """The factor on k-space ``(batch, 1, 1 or h, w)``: the mask, as float32 with its gradient if it is learned."""
        return self.mask if self.soft_mask is None else self.soft_mask

    def all_slices(self) -> "tuple[Acquisition, ...]":
        """Return the slices and those beside them, in the order of the volume."""
        half = len(self.adjacent) // 2
        return (*self.adjacent[:half], self, *self.adjacent[half:])

    def acceleration(self) -> Tensor:
        """Compute the realised acceleration ``(batch,)``: positions of the scan divided by sampled positions.

        The scan is all rows of the header's ``acquired_columns``, or the whole matrix without them, so zero padding
        that the header knows of does not count. Missing lines and rows of partial Fourier, of asymmetric echoes and of
        a scan that was already undersampled count as skipped.
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
class Split(_Movable):
    """Which measured samples a network is given and which its loss sees, to train it without a reference.

    Parameters
    ----------
    mask : ``(batch, 1, 1 or h, w)`` bool, True at the measured samples that are the input.
    weight : ``(batch, 1, 1 or h, w)`` float32 factor on the residual of each sample; 0 where the loss does not look.
    noise : ``(batch, coil, h, w)`` complex64 white noise as strong as that of the scan, at the samples of the input.
        ``alpha * noise`` is added to the input, and ``noise / alpha`` is taken from the samples that the loss compares
        it with. None: no noise.
    alpha : ``(batch,)``, given with ``noise``.
    """

    mask: Tensor
    weight: Tensor
    noise: Tensor | None = None
    alpha: Tensor | None = None


@dataclass(frozen=True)
class Example(_Movable):
    """An acquisition with its reference, for training and evaluation only. Its length is the batch size.

    Parameters
    ----------
    acquisition : what the method may see.
    target : ``(batch, h', w')`` float32 magnitude image at the header's reconstruction size, or None.
    data_range : ``(batch,)`` the largest value of the whole target volume, for SSIM and PSNR.
    volume : name of each item's volume.
    slice : index of each item in its volume.
    target_type : ``rss`` or ``esc`` (the magnitude of one coil) for each item, as fastMRI names its references; empty
        if unknown.
    split : of the measured samples, for training without references; None: there is none.
    """

    acquisition: Acquisition
    target: Tensor | None
    data_range: Tensor
    volume: tuple[str, ...]
    slice: tuple[int, ...]
    target_type: tuple[str, ...] = ()
    split: Split | None = None

    def __len__(self) -> int:
        return len(self.volume)


@dataclass(frozen=True)
class Reconstruction(_Movable):
    """What a reconstructor returns.

    Parameters
    ----------
    image : ``(batch, h, w)`` complex64, in the units of the measured data.
    std : ``(batch, h, w)`` predicted standard deviation of the error of the magnitude in every pixel, or None.
    samples : ``(n_samples, batch, h, w)`` draws that were averaged, or None.
    """

    image: Tensor
    std: Tensor | None = None
    samples: Tensor | None = None


_Batch = TypeVar("_Batch", Acquisition, Split)


def collate(examples: Sequence[Example]) -> Example:
    """Collate examples to one batch along the first dimension.

    Raises
    ------
    InputError : if the shapes differ; the batch order groups slices by shape.
    """
    shapes = {(tuple(e.acquisition.kspace.shape[1:]), e.target is None or tuple(e.target.shape[1:])) for e in examples}
    if len(shapes) > 1:
        listed = ", ".join(sorted(str(s) for s in shapes))
        raise InputError(f"slices of different shapes cannot share a batch: {listed}; use data.batch_size=1")
    if len(examples) == 1:
        return examples[0]  # concatenating would copy it
    return Example(
        acquisition=collate_acquisitions([e.acquisition for e in examples]),
        target=_cat([e.target for e in examples]),
        data_range=torch.cat([e.data_range for e in examples]),
        volume=tuple(v for e in examples for v in e.volume),
        slice=tuple(s for e in examples for s in e.slice),
        target_type=tuple(t for e in examples for t in e.target_type),
        split=_collate_splits([e.split for e in examples if e.split is not None]),
    )


def _collate_splits(splits: Sequence[Split]) -> Split | None:
    if not splits:
        return None
    return Split(
        mask=_cat_masks([s.mask for s in splits]),
        weight=_cat_masks([s.weight for s in splits]),
        noise=_cat([s.noise for s in splits]),
        alpha=_cat([s.alpha for s in splits]),
    )


def _cat_masks(masks: Sequence[Tensor]) -> Tensor:
    """Concatenate masks of lines ``(batch, 1, 1, w)`` and of points ``(batch, 1, h, w)``."""
    rows = max(mask.shape[-2] for mask in masks)
    return torch.cat([mask.expand(-1, -1, rows, -1) for mask in masks])


def collate_acquisitions(acquisitions: Sequence[Acquisition]) -> Acquisition:
    """Collate acquisitions of one shape, with equally many adjacent slices, to one batch along the first dimension."""
    return Acquisition(
        kspace=torch.cat([a.kspace for a in acquisitions]),
        mask=_cat_masks([a.mask for a in acquisitions]),
        maps=_cat([a.maps for a in acquisitions]),
        noise_std=_cat([a.noise_std for a in acquisitions]),
        n_acs=_cat([a.n_acs for a in acquisitions]),
        headers=tuple(h for a in acquisitions for h in a.headers),
        adjacent=tuple(map(collate_acquisitions, zip(*(a.adjacent for a in acquisitions), strict=True))),
    )


def item(example: Example, index: int) -> Example:
    """Return item ``index`` of a batch as a batch of one: the inverse of :func:`collate`."""
    fields = {f.name: getattr(example, f.name) for f in dataclasses.fields(example)}
    picked: dict[str, Any] = {k: v[index : index + 1] for k, v in fields.items() if isinstance(v, Tensor | tuple)}
    split = example.split if example.split is None else _item(example.split, index)
    return dataclasses.replace(example, acquisition=_item(example.acquisition, index), split=split, **picked)


def item_acquisition(acquisition: Acquisition, index: int) -> Acquisition:
    """Return item ``index`` of a batched acquisition as a batch of one."""
    return _item(acquisition, index)


def _item(batch: _Batch, index: int) -> _Batch:
    fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    adjacent = tuple(_item(one, index) for one in fields.pop("adjacent", ()))
    picked: dict[str, Any] = {k: v[index : index + 1] for k, v in fields.items() if v is not None}
    if adjacent:
        picked["adjacent"] = adjacent
    return dataclasses.replace(batch, **picked)


def acs_columns(mask: Tensor) -> Tensor:
    """Count the fully sampled central columns ``(batch,)`` of a mask ``(batch, 1, 1 or h, w)``; 0 without a centre.

    This is the largest n for which the n columns from ``(w - n + 1) // 2`` on, where masks put their centre, are
    sampled in the n central rows: the width of the centre of a line mask, or the side of the square of a plane mask.
    Rows without any sample, as in an asymmetric echo, are ignored. fastMRI's VarNet takes twice the shorter side of the
    centre column instead, which misses one column of an odd centre.
    """
    sampled = mask[:, 0]
    rows = sampled.any(-1, keepdim=True)
    rows[:, rows.shape[1] // 2] = True  # the central row always counts
    h, w = sampled.shape[-2:]
    size = torch.maximum(_smallest_block(h, mask.device)[:, None], _smallest_block(w, mask.device))
    return torch.where(sampled | ~rows, w + 1, size).flatten(1).amin(1) - 1


def _smallest_block(n: int, device: torch.device) -> Tensor:
    """Size of the smallest central block that holds each of ``n`` positions, ``(n,)``."""
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
        raise InputError(
            "in a batch, some slices have a target, coil maps or a noise level and some have none; use "
            "data.batch_size=1"
        )
    return torch.cat(present) if present else None


def slice_generator(seed: int, example: Example, device: str) -> torch.Generator:
    """Return the random generator of a batch; it depends only on the seed and the first item's volume and slice."""
    key = f"{seed}/{example.volume[0]}/{example.slice[0]}".encode()
    return torch.Generator(device).manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "big"))
