"""Learn a sampling mask together with a network."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition, Example
from spinwarp.errors import InputError
from spinwarp.files import warn_once
from spinwarp.masks import LearnedMask
from spinwarp.models.loading import load_plain

log = logging.getLogger("spinwarp")
_KEY = "sampling.mask.logits"


class LearnedSampling(nn.Module):
    """Undersamples whole examples with a learned mask, through which the gradient of the loss flows.

    Training draws a mask for each example. Validation has one mask for all: the one that :func:`write_mask` writes.

    Parameters
    ----------
    mask : whose probabilities are learned.
    add_maps : adds coil maps to what was undersampled, unless the data bring their own: the
        :class:`spinwarp.data.undersample.AddMaps` of the data, so that evaluation with the written mask has the same.
    """

    def __init__(self, mask: LearnedMask, add_maps: Callable[[Acquisition], Acquisition]) -> None:
        super().__init__()
        self.mask = mask
        self.add_maps = add_maps

    def forward(self, example: Example, generator: RandomState | None) -> Example:
        """Return the undersampled batch; ``generator`` draws the masks, None takes the mask that is written."""
        acquisition = example.acquisition
        b, _, h, w = acquisition.kspace.shape
        if self.mask.size not in ((1, w), (h, w)):
            warn_once(f"mask.size is {list(self.mask.size)}, k-space {[h, w]}: probabilities are interpolated")
        if generator is None:
            drawn = [self.mask((h, w), RandomState(0))[0].to(acquisition.kspace.real)] * b
        else:
            drawn = [self.mask.relaxed((h, w), generator) for _ in range(b)]
        lines = torch.stack(drawn)[:, None]  # (b, 1, 1 or h, w)
        return replace(example, acquisition=self._undersampled(acquisition, lines))

    def _undersampled(self, acquisition: Acquisition, lines: Tensor) -> Acquisition:
        kspace = acquisition.kspace * lines
        mask = (lines.detach() > 0.5) & acquisition.mask
        n_center = torch.full((len(kspace),), self.mask.n_center((mask.shape[-2], mask.shape[-1])), device=mask.device)
        adjacent = tuple(self._undersampled(one, lines) for one in acquisition.adjacent)
        measured = replace(acquisition, kspace=kspace.detach(), mask=mask, n_acs=n_center, adjacent=())
        soft = lines * acquisition.mask if lines.requires_grad else None
        return replace(self.add_maps(measured), kspace=kspace, adjacent=adjacent, soft_mask=soft)


def write_mask(checkpoint: str, mask: LearnedMask, path: Path) -> None:
    """Write the mask of a checkpoint as a plain file that ``mask=file`` reads, and log where it is.

    Parameters
    ----------
    checkpoint : of a training with a learned mask.
    mask : with the same size and budget; its probabilities are replaced by those of the checkpoint.
    path : of the ``.npy`` file.

    Raises
    ------
    InputError : if the checkpoint holds no learned mask of this size.
    """
    state: dict[str, Any] = load_plain(checkpoint)["state_dict"]
    if _KEY not in state or state[_KEY].shape != mask.logits.shape:
        raise InputError(f"{checkpoint} holds no learned mask of size {list(mask.size)}")
    with torch.no_grad():
        mask.logits.copy_(state[_KEY])
    drawn, _ = mask(mask.size, RandomState(0))
    np.save(path, drawn.cpu().numpy().astype(np.uint8))
    log.info(
        "learned mask %s, R %.2f; evaluate with mask=file mask.path=%s", path, drawn.numel() / int(drawn.sum()), path
    )
