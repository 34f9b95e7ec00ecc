"""Retrospective undersampling, the only place where a measured example becomes an accelerated one."""

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from numpy.random import RandomState
from torch import Tensor
from torch.utils.data import get_worker_info

from spinwarp.acquisition import Acquisition, Example, acs_columns
from spinwarp.coils import espirit_maps, low_resolution_maps, with_smooth_phase
from spinwarp.errors import InputError
from spinwarp.masks.base import Mask
from spinwarp.masks.learned import LearnedMask

log = logging.getLogger(__name__)
MapEstimator = Callable[[Tensor, Tensor], Tensor]


def _espirit(kspace: Tensor, n_acs: Tensor) -> Tensor:
    """Return ESPIRiT's maps of undersampled k-space, for networks; zero for a slice of zeros."""
    measured = (kspace != 0).any(1, keepdim=True)  # what was not measured is zero in all coils
    if not measured.any():
        return torch.zeros_like(kspace)
    return with_smooth_phase(espirit_maps(kspace, measured, n_acs)[0], kspace, n_acs)


#: how maps are made from the central lines, by the name that a user gives
MAPS: dict[str, MapEstimator | None] = {"low_resolution": low_resolution_maps, "espirit": _espirit, "none": None}


def _masked(kspace: Tensor, mask: Tensor, in_place: bool) -> Tensor:
    if not in_place or not kspace.is_contiguous() or kspace.is_conj():
        return kspace * mask
    # real and imaginary parts side by side, as one real array; the product of complex numbers is slower
    kspace.view(kspace.real.dtype).mul_(mask.repeat_interleave(2, -1))
    return kspace


class AddMaps:
    """Estimates the coil maps of acquisitions that bring none, on the device of their k-space.

    Parameters
    ----------
    estimate : from k-space and the number of its central columns, to maps; None: no maps. There are no maps either if
        the centre is not sampled.
    """

    def __init__(self, estimate: MapEstimator | None) -> None:
        self.estimate = estimate
        self._said = False

    def __call__(self, acquisition: Acquisition) -> Acquisition:
        """Return the acquisition with maps; the input is not modified.

        Raises
        ------
        InputError : if only some items of a batch have a sampled centre.
        """
        kspace = acquisition.kspace
        if self.estimate is None or acquisition.maps is not None:
            return acquisition
        if acquisition.adjacent:
            acquisition = replace(acquisition, adjacent=tuple(map(self, acquisition.adjacent)))
        if kspace.shape[1] == 1:  # the coil's phase is part of the image
            return replace(acquisition, maps=torch.ones_like(kspace))
        # use the sampled columns, not the drawn ones: equal samples give equal maps, whatever mask they come from
        sampled = acs_columns(acquisition.mask)
        if sampled.all():
            parts = [self.estimate(k[None], n[None]) for k, n in zip(kspace, sampled, strict=True)]
            return replace(acquisition, maps=parts[0] if len(parts) == 1 else torch.cat(parts))
        if sampled.any():
            raise InputError(
                "in a batch, some slices have a sampled centre of k-space, from which coil maps are made, and some "
                "have none; use data.batch_size=1"
            )
        worker = get_worker_info()
        if not self._said and (worker is None or worker.id == 0):
            self._said = True
            log.warning("the mask leaves out the centre of k-space, so there are no coil maps, which are made from it")
        return acquisition


class Undersample:
    """Draws a mask, zeroes what it does not sample, and estimates coil maps from the rest.

    K-space keeps its physical scale. Every network and method normalises its own input, so nothing has to be undone,
    and no scale can leak from the hidden part.

    Parameters
    ----------
    mask : draws the sampling mask; None leaves the acquisition as measured.
    maps : estimates coil maps, see :class:`AddMaps`; None: no maps.

    Raises
    ------
    InputError : if the mask is one that is learned, which exists in training only.
    """

    def __init__(self, mask: Mask | None, maps: MapEstimator | None = None) -> None:
        if isinstance(mask, LearnedMask):
            raise InputError(
                "mask=learned is for train.py alone, which learns it with a network and writes it into its run folder; "
                "then use mask=file mask.path=RUN/mask.npy"
            )
        self.mask = mask
        self.maps = maps
        self._add_maps = AddMaps(maps)
        self._said = False

    def __call__(self, example: Example, generator: RandomState, in_place: bool = False) -> Example:
        """Return the accelerated example of a batch of one.

        The input is not modified, unless ``in_place`` says that nobody else needs its k-space: a product that needs
        new memory takes several times as long as one in place.
        """
        acquisition = example.acquisition
        mask = acquisition.mask
        if self.mask is None:
            n_center = sampled = acs_columns(mask)
        else:
            h, w = acquisition.kspace.shape[-2:]
            drawn, n = self.mask((h, w), generator)
            mask = drawn.view(1, 1, -1, w) & mask  # only measured samples can be sampled
            sampled = acs_columns(mask)
            n_center = sampled.clamp_max(n)
        kspace = acquisition.kspace if mask.all() else _masked(acquisition.kspace, mask, in_place)
        result = self._add_maps(replace(acquisition, kspace=kspace, mask=mask, n_acs=n_center))
        self._say(example.volume[0], acquisition, result)
        return replace(example, acquisition=result)

    def _say(self, volume: str, measured: Acquisition, result: Acquisition) -> None:
        """Log once if a mask meets data that are undersampled already; only the first worker does."""
        worker = get_worker_info()
        if self.mask is None or self._said or (worker is not None and worker.id > 0):
            return
        rate = float(measured.acceleration()[0])
        if rate > 1:
            self._said = True
            log.warning(
                "%s and perhaps others are undersampled already (R %.2f); the mask applies on top of that, "
                "which makes R %.2f",
                volume,
                rate,
                float(result.acceleration()[0]),
            )
