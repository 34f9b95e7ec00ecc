"""Split what was measured into an input and a part for the loss: training without references.

Every measured line (or point, of a plane mask) is held out with a known probability c, independently of the others.
The network sees the rest. If a line is measured with probability p, it is held out with p c and it is missing from the
input with 1 - p (1 - c). A held-out line weighted by

    sqrt((1 - p (1 - c)) / (p c))

therefore stands for all cases in which the line is missing. Lines of the input have a weight of 1. The expected squared
error is then that of training with the whole scan (Millard and Chiew, "A theoretical framework for self-supervised MR
image reconstruction using sub-sampling via variable density Noisier2Noise", IEEE TCI 2023).

With noise, the input is y + alpha e and its lines are compared with y - e / alpha, where e is drawn anew and as strong
as the noise n of the scan. The two errors, n + alpha e and n - e / alpha, are Gaussian and uncorrelated, so they are
independent, and the image that the loss asks for is the one without noise (Pang et al., "Recorrupted-to-Recorrupted",
CVPR 2021). This is Robust SSDU (Millard and Chiew, "Clean self-supervised MRI reconstruction from noisy, sub-sampled
training data with Robust SSDU", Bioengineering 2024). There a network f is compared with y itself, with a weight of
1 + 1 / alpha^2, and what it returns is corrected afterwards to ((1 + alpha^2) f - input) / alpha^2. Here the network
itself returns the corrected image, and nothing has to be done when it is used.
"""

import logging
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor
from torch.utils.data import get_worker_info

from spinwarp.acquisition import Example, Split
from spinwarp.coils import noise_level
from spinwarp.errors import InputError
from spinwarp.masks.base import central, distance_from_center
from spinwarp.masks.held_out import whole_lines

log = logging.getLogger(__name__)
DENSITIES = ("gaussian", "uniform")


@dataclass
class Splitter:
    """Draws which measured lines are held out of the input.

    Parameters
    ----------
    ratio : expected share of the measured lines outside the centre that is held out, or the two ends of a range from
        which each split draws its share.
    density : ``gaussian``: lines near the centre are held out more often, as in SSDU; ``uniform``: all alike.
    std : standard deviation of the Gaussian, as a fraction of half the width. SSDU has a quarter of the width.
    center : this many central lines (of a plane mask, a square of this side) always stay in the input.
    weighted : weight the held-out lines by their probabilities; else their weight is 1.
    alpha : strength of the added noise in units of that of the scan; only used with ``data.supervision=noisy``.
    n_splits : fixed splits of each slice, taken in turn epoch by epoch; None: a new split in each epoch.

    Raises
    ------
    InputError : if an option is out of range.
    """

    ratio: float | tuple[float, float] = 0.4
    density: str = "gaussian"
    std: float = 0.5
    center: int = 4
    weighted: bool = False
    alpha: float = 1.0
    n_splits: int | None = None

    def __post_init__(self) -> None:
        low, high = self._range
        if not 0 < low <= high < 1:
            raise InputError(f"data.split.ratio is a share between 0 and 1, or a range of two; got {self.ratio}")
        if self.density not in DENSITIES:
            raise InputError(f"data.split.density={self.density!r} is not one of {', '.join(DENSITIES)}")
        for name in ("std", "alpha"):
            if not 0 < getattr(self, name) < np.inf:
                raise InputError(f"data.split.{name} is a number above 0; got {getattr(self, name)}")
        if self.center < 1:
            raise InputError(f"data.split.center is at least 1; got {self.center}")
        if self.n_splits is not None and self.n_splits < 1:
            raise InputError(f"data.split.n_splits is at least 1, or null; got {self.n_splits}")
        self._said = False

    def __call__(
        self, example: Example, generator: RandomState, sampling: Tensor | None = None, noisy: bool = False
    ) -> Example:
        """Return a batch of one with its :class:`~spinwarp.acquisition.Split`.

        Parameters
        ----------
        example : its measured k-space and mask decide, and nothing else.
        generator : of the split and the noise.
        sampling : probability ``(w,)`` that each line was measured; needed if ``weighted``.
        noisy : whether to add noise to the input.

        Raises
        ------
        InputError : if all measured lines lie in the centre; if single points of k-space are to be weighted; or if
            there is no noise where there should be some.
        """
        acquisition = example.acquisition
        mask = acquisition.mask[0, 0]
        lines = whole_lines(mask)
        if self.weighted and lines is None:
            raise InputError(
                f"{example.volume[0]} samples single points of k-space, and only whole lines have probabilities by "
                f"which to weight them; set data.split.weighted=false"
            )
        positions = mask if lines is None else lines
        ratio = generator.uniform(*self._range)
        chance = self.chance(positions if sampling is None else sampling.expand_as(positions), ratio)
        if not (positions.numpy() & (chance > 0)).any():
            raise InputError(
                f"{example.volume[0]} has no measured line outside its {self.center} central ones, so none can be held "
                f"out; lower data.split.center or take data.supervision=full"
            )
        held = torch.from_numpy(generator.uniform(size=chance.shape) < chance)
        weight = self.weight(mask, mask & held, chance, sampling)
        header = acquisition.headers[0] if acquisition.headers else None
        if header is not None and header.acquired_columns is not None:
            # there the whole scan is known to be zero; a loss that did not say so would leave these columns to chance
            first, last = header.acquired_columns
            weight[:, :first] = weight[:, last:] = 1
        split = Split((mask & ~held)[None, None], weight[None, None])
        return replace(example, split=self._with_noise(example, split, generator) if noisy else split)

    def chance(self, sampling: Tensor, ratio: float) -> np.ndarray:
        """Return the probability ``(1 or h, w)`` that a measured line or point is held out; 0 in the centre.

        The odds follow the density, and their mean over the lines is ``ratio``.

        Parameters
        ----------
        sampling : ``(1 or h, w)`` how much each position counts in the mean: whether it was measured, or its
            probability. With the latter the chances do not depend on what was measured.
        ratio : the mean.
        """
        shape = tuple(sampling.shape)
        counted = sampling.numpy().astype(float)
        counted[tuple(central(n, min(self.center, n)) for n in shape)] = 0
        directions = shape if shape[0] > 1 else shape[1:]
        odds = np.ones(shape)
        if self.density == "gaussian":
            odds[:] = np.exp(-((distance_from_center(directions) / self.std) ** 2) / 2)
        inside = counted > 0
        if not inside.any():
            return np.zeros(shape)
        share, near = counted[inside] / counted[inside].sum(), odds[inside]
        low, high = -50.0, 50.0  # of the logarithm of the common factor on the odds
        for _ in range(50):
            middle = (low + high) / 2
            scaled = np.exp(middle) * near
            low, high = (middle, high) if (share * scaled / (1 + scaled)).sum() < ratio else (low, middle)
        chance = np.zeros(shape)
        chance[inside] = scaled / (1 + scaled)
        return chance

    def weight(self, mask: Tensor, held: Tensor, chance: np.ndarray, sampling: Tensor | None = None) -> Tensor:
        """Return the weights ``(1 or h, w)`` of the residual, float32: 1 on the input.

        A network that returns the given lines as they are, as that of SSDU does, loses nothing there. Other networks
        would have no reason to keep them.

        Parameters
        ----------
        mask, held : ``(1 or h, w)`` bool, what was measured, and the part of it that is held out.
        chance : ``(1 or h, w)`` of :meth:`chance`.
        sampling : as in a call.
        """
        factor = np.ones_like(chance)
        if self.weighted:
            if sampling is None:
                raise InputError("data.split.weighted needs the probability with which each line is measured")
            p = sampling.numpy().astype(float)
            np.divide(1 - p * (1 - chance), p * chance, out=factor, where=chance > 0)
        weight = held * torch.from_numpy(np.sqrt(factor).astype(np.float32))
        return torch.where(mask & ~held, 1.0, weight)

    def _with_noise(self, example: Example, split: Split, generator: RandomState) -> Split:
        """Draw the noise; its level is that of the acquisition, or else it comes from the scan itself."""
        acquisition = example.acquisition
        kspace, level = acquisition.kspace, acquisition.noise_std
        if level is None:
            level = noise_level(kspace, acquisition.mask)
            worker = get_worker_info()
            if not self._said and (worker is None or worker.id == 0):
                self._said = True
                log.info(
                    "the data do not say how strong their noise is; it is measured in rows of air or the "
                    "corners of k-space (%.3g of the strongest sample in the first slice)",
                    float(level) / float(kspace.abs().max().clamp_min(torch.finfo(torch.float32).tiny)),
                )
        if not level > 0 and kspace.any():  # an empty slice has nothing to learn from, nor to complain of
            raise InputError(
                f"{example.volume[0]} shows no noise in its k-space, and data.supervision=noisy has to "
                f"know how strong it is; take data.supervision=split"
            )
        parts = generator.normal(scale=2**-0.5, size=(2, *kspace.shape)).astype(np.float32)
        noise = torch.complex(*torch.from_numpy(parts)) * level.view(-1, 1, 1, 1) * split.mask
        return replace(split, noise=noise, alpha=torch.full((len(kspace),), float(self.alpha)))

    @property
    def _range(self) -> tuple[float, float]:
        ratio = self.ratio
        if isinstance(ratio, int | float):
            return float(ratio), float(ratio)
        return (float(ratio[0]), float(ratio[1])) if len(ratio) == 2 else (np.nan, np.nan)
