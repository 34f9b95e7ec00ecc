"""The method that a configuration describes, as ``evaluate.py`` and ``reconstruct.py`` run it."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from spinwarp.acquisition import Example, center_crop, slice_generator
from spinwarp.errors import InputError
from spinwarp.evaluation.conformal import conformal
from spinwarp.files import user_path
from spinwarp.masks import Mask
from spinwarp.models.unet import reconstruction_size
from spinwarp.preparation import MAPS
from spinwarp.recon.base import Reconstructor, reconstruct_batch


@dataclass(frozen=True)
class Method:
    """A reconstructor and what is known about it.

    Parameters
    ----------
    reconstructor : computes the images.
    name : in the results.
    record : of the training, from its checkpoint; empty for a method that was not trained.
    level : coverage that its conformal intervals promise; NaN without ``conformal``.
    n_adjacent : slices that it sees at once.
    """

    reconstructor: Reconstructor
    name: str
    record: dict[str, Any]
    level: float = math.nan
    n_adjacent: int = 1

    def calibrated(
        self, config: DictConfig, mask: str | None, dataset: str | None = None, volumes: Sequence[str] = ()
    ) -> "Method":
        """Return the method with its standard deviation scaled as ``conformal`` asks; itself without ``conformal``.

        Parameters
        ----------
        config : of the command.
        mask, dataset, volumes : see :func:`spinwarp.evaluation.conformal.conformal`.
        """
        if config.conformal is None:
            return self
        level = config.conformal_level
        scaled = conformal(
            self.reconstructor, config.conformal, level, method=self.name, mask=mask, dataset=dataset, volumes=volumes
        )
        # a name of its own, or its calibration.json would pass for that of the plain method
        return replace(self, reconstructor=scaled, name=f"{self.name} conformal", level=level)


def build_method(config: DictConfig, choices: dict[str, str], mask: Mask | None = None) -> Method:
    """Build the method of ``recon``, with the standard deviation of ``uncertainty`` if the command has one.

    Parameters
    ----------
    config : of the command.
    choices : the chosen options of the groups ``recon`` and ``uncertainty``.
    mask : that the data are undersampled with.
    """
    reconstructor = instantiate(config.recon)
    record, n_adjacent = reconstructor.record, reconstructor.n_adjacent
    name = record.get("name") or choices["recon"]
    if config.get("uncertainty"):
        reconstructor = instantiate(config.uncertainty)(reconstructor, mask=mask)
        name = f"{name} {choices['uncertainty']}"  # this standard deviation is not the method's own
    return Method(reconstructor, config.get("method") or name, record, n_adjacent=n_adjacent)


def magnitudes(
    reconstructor: Reconstructor, example: Example, seed: int, device: str, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reconstruct a batch; return its magnitudes and their standard deviations, cropped to the size of the header.

    Parameters
    ----------
    reconstructor : on ``device``.
    example : what was measured, undersampled, with its maps.
    seed : of random numbers, together with the volume and the slice.
    names : of the items, for the log.

    Returns
    -------
    ``(batch, h, w)`` float32 each; without standard deviations None.

    Raises
    ------
    InputError : if the method returns NaN or infinite values.
    """
    acquisition = example.acquisition
    generator = slice_generator(seed, example, device)
    result = reconstruct_batch(reconstructor, acquisition.to(device), generator, names)
    size = reconstruction_size(acquisition)
    parts = [None if part is None else center_crop(part, size) for part in (result.image.abs(), result.std)]
    for part in parts:
        if part is not None and not part.isfinite().all():
            raise InputError(f"the method returned NaN or infinite values for slices {list(example.slice)}")
    image, std = (None if part is None else part.cpu().numpy() for part in parts)
    assert image is not None
    return image, std


def hand_over_maps(config: DictConfig, data: DictConfig) -> None:
    """Let the data bring the coil maps of ``recon.maps=PATH``, in place: only they know the slice of an acquisition.

    Parameters
    ----------
    config : of the command; ``recon.maps`` becomes ``given``.
    data : whose ``maps`` becomes the path.

    Raises
    ------
    InputError : if ``recon.maps`` is neither a path nor a way to make maps.
    """
    maps = config.recon.get("maps")
    if maps is None or maps in MAPS:
        return
    if not user_path(maps).exists():
        raise InputError(f"recon.maps={maps} is not one of {', '.join(MAPS)}, and there is no such file or folder")
    config.recon.maps, data.maps = "given", maps


def named_choices(config: DictConfig, choices: Mapping[str, str]) -> dict[str, str]:
    """Return the chosen options of the groups, for the results.

    A mask from a file has the name of that file, and one of another acceleration than its option says has its own:
    ``equispaced_6x`` for ``mask=equispaced_4x mask.accelerations=[6]``.
    """
    mask, name = config.mask, choices["mask"]
    if mask and name == "file":
        name = f"file {Path(mask.path).name}"
    elif mask and "accelerations" in mask and (kind := re.fullmatch(r"(.+)_(?:\d+x)+", name)):
        name = f"{kind[1]}_{''.join(f'{rate:g}x' for rate in dict.fromkeys(mask.accelerations))}"
    return {**choices, "mask": name}
