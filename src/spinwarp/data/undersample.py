"""Retrospective undersampling, the only place where a measured example becomes an accelerated one."""

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from numpy.random import RandomState
from torch import Tensor
from torch.utils.data import get_worker_info

from spinwarp.acquisition import Acquisition, Example, acs_columns
from spinwarp.coils import espirit_maps, low_resolution_maps
from spinwarp.masks.base import Mask

log = logging.getLogger(__name__)
MapEstimator = Callable[[Tensor, Tensor], Tensor]


def _espirit(kspace: Tensor, n_acs: Tensor) -> Tensor:
    """Return ESPIRiT's maps of undersampled k-space of one slice; zero for a slice of zeros."""
    measured = (kspace != 0).any(1, keepdim=True)  # what was not measured is zero in all coils
    return espirit_maps(kspace, measured, n_acs)[0] if measured.any() else torch.zeros_like(kspace)


#: how maps are made from the central lines, by the name that a user gives
MAPS: dict[str, MapEstimator | None] = {"low_resolution": low_resolution_maps, "espirit": _espirit, "none": None}


class Undersample:
    """Draws a mask, zeroes what it does not sample, and estimates coil maps from the rest.

    K-space keeps its physical scale. Every network and method normalises its own input, so nothing has to be undone,
    and no scale can leak from the hidden part.

    Parameters
    ----------
    mask : draws the sampling mask; None leaves the acquisition as measured.
    maps : estimates coil maps from k-space and the number of its central columns; None: no maps. There are no maps
        either if the centre is not sampled.
    """

    def __init__(self, mask: Mask | None, maps: MapEstimator | None = None) -> None:
        self.mask = mask
        self.maps = maps
        self._logged: set[str] = set()

    def __call__(self, example: Example, generator: RandomState) -> Example:
        """Return the accelerated example of a batch of one; the input is not modified."""
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
        kspace = acquisition.kspace * mask
        maps = acquisition.maps
        if maps is None and kspace.shape[1] == 1:
            maps = torch.ones_like(kspace) if self.maps is not None else None  # the coil's phase is part of the image
        elif maps is None and self.maps is not None:
            # use the sampled columns, not the drawn ones: equal samples give equal maps, whatever mask they come from
            maps = self.maps(kspace, sampled) if sampled.all() else None
        result = replace(acquisition, kspace=kspace, mask=mask, n_acs=n_center, maps=maps)
        self._say(example.volume[0], acquisition, result)
        return replace(example, acquisition=result)

    def _say(self, volume: str, measured: Acquisition, result: Acquisition) -> None:
        """Log once what may surprise a user; only the first worker does."""
        worker = get_worker_info()
        if worker is not None and worker.id > 0:
            return
        if self.mask is not None and "rate" not in self._logged:
            rates = [float(a.acceleration()[0]) for a in (measured, result)]
            if rates[0] > 1:
                self._logged.add("rate")
                log.warning(
                    "%s and perhaps others are undersampled already (R %.2f); the mask applies on top of that, "
                    "which makes R %.2f",
                    volume,
                    *rates,
                )
        if self.maps is not None and result.maps is None and "maps" not in self._logged:
            self._logged.add("maps")
            log.warning("the mask leaves out the centre of k-space, so there are no coil maps, which are made from it")
