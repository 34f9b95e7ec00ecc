"""Retrospective undersampling: the one place where a fully sampled example becomes an accelerated one."""

from collections.abc import Callable
from dataclasses import replace

import torch
from numpy.random import RandomState
from torch import Tensor

from spinwarp.acquisition import Example, acs_columns
from spinwarp.masks.base import Mask

MapEstimator = Callable[[Tensor, Tensor], Tensor]


class Undersample:
    """Draws a mask, hides what it does not sample, and estimates coil maps from what is left.

    K-space keeps its physical scale: every network and method normalises its own input, so nothing has to be undone
    and no scale can leak from the part that was hidden.

    Parameters
    ----------
    mask : draws the sampling; None leaves the acquisition as it was measured.
    maps : coil maps from measured k-space and the number of its central columns; None leaves them out.
    """

    def __init__(self, mask: Mask | None, maps: MapEstimator | None = None) -> None:
        self.mask = mask
        self.maps = maps

    def __call__(self, example: Example, generator: RandomState) -> Example:
        """Return the accelerated example of a fully sampled batch of one; the input is left as it was."""
        acquisition = example.acquisition
        acquired = acquisition.mask
        if self.mask is None:
            mask, n_acs = acquired, acs_columns(acquired)
        else:
            h, w = acquisition.kspace.shape[-2:]
            drawn, n_center = self.mask((h, w), generator)
            mask = drawn.view(1, 1, -1, w) & acquired  # nothing is sampled in the scanner's zero padding
            n_acs = torch.tensor([n_center])
        kspace = acquisition.kspace * mask
        maps = acquisition.maps
        if maps is None and self.maps is not None:
            # one coil has nothing to be relative to: its phase belongs to the image
            maps = torch.ones_like(kspace) if kspace.shape[1] == 1 else self.maps(kspace, n_acs)
        return replace(example, acquisition=replace(acquisition, kspace=kspace, mask=mask, n_acs=n_acs, maps=maps))
