"""Training on blocks of rows: a smaller problem of the same kind."""

from dataclasses import replace

import numpy as np
from numpy.random import RandomState
from torch import Tensor

from spinwarp.acquisition import Example
from spinwarp.coils import noise_level
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc


class RowBlock:
    """Cuts a block of rows, at random, out of a fully sampled example.

    Undersampling along the phase direction does not couple the rows of an image. Any block of rows is therefore a valid
    scan of its own, of the same width, coils, noise and mask. The block is as likely to be at a place as there is
    signal. The noise level is that of the whole: cutting moves signal into the corners of k-space.

    Parameters
    ----------
    rows : height of the block; smaller images stay whole.

    Raises
    ------
    InputError : if ``rows`` is below 8.
    """

    def __init__(self, rows: int = 64) -> None:
        if rows < 8:
            raise InputError(f"augment.rows={rows} is too few; use at least 8")
        self.rows = rows

    def __call__(self, example: Example, generator: RandomState) -> Example:
        """Return the block of a batch of one; the input is not modified."""
        acquisition, target = example.acquisition, example.target
        h, w = acquisition.kspace.shape[-2:]
        if h <= self.rows:
            return example
        if acquisition.mask.shape[-2] != 1 or (target is not None and tuple(target.shape[-2:]) != (h, w)):
            raise InputError("blocks of rows need a line mask, and a target of the size of k-space")
        rows = ifftc(acquisition.kspace, (-2,))
        energy = rows.abs().square().sum((0, 1, 3)).numpy().astype(np.float64) + 1e-30
        middle = int(generator.choice(h, p=energy / energy.sum()))
        first = min(max(middle - self.rows // 2, 0), h - self.rows)

        def block(image: Tensor) -> Tensor:
            return image[..., first : first + self.rows, :]

        kspace = fftc(block(rows), (-2,)) * acquisition.mask
        maps = None if acquisition.maps is None else block(acquisition.maps)
        noise_std = acquisition.noise_std
        if noise_std is None:
            noise_std = noise_level(acquisition.kspace, acquisition.mask)
        return replace(
            example,
            acquisition=replace(acquisition, kspace=kspace, maps=maps, noise_std=noise_std),
            target=None if target is None else block(target),
        )
