"""Variable-density Poisson disc: random points that keep their distance, the more so the farther out."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.random import RandomState

from spinwarp.errors import InputError
from spinwarp.masks.base import PlaneMask, distance_from_center

# On a grid the distances jump from 1 to sqrt(2) to 2, and with them the density. Radii that differ by up to such a step
# from position to position keep it smooth; equal ones make rings.
SPREAD = math.sqrt(2)
SHRINK = 0.95
WIDEST = 24.0  # positions: discs that wide leave one in a thousand, and wider ones would only cost time


class PoissonDiscMask(PlaneMask):
    """Points of which no two are nearer than r = r0 (1 + slope |k|), taken where |k| is the smaller.

    |k| is the distance to the centre in half extents, so that it is 1 on the inscribed ellipse; r counts positions. The
    acceleration, which every mask meets to the position, sets r0. The density falls outwards like 1 / r^2, from the
    full sampling that discs below one position mean.

    Parameters
    ----------
    center_fractions, accelerations : as of every :class:`PlaneMask`.
    slope : how much larger the discs are at the edge than in the centre; 0 makes the density uniform.
    crop_corner : whether to sample nothing outside the inscribed ellipse. The corners count as positions all the same,
        so that the acceleration is that of the whole rectangle.

    Raises
    ------
    InputError : if ``slope`` is negative.

    Notes
    -----
    Radius and ellipse are as in sigpy's ``mri.poisson``, which fixes r0 at one position and searches the slope.

    References
    ----------
    Bridson, "Fast Poisson disk sampling in arbitrary dimensions", SIGGRAPH sketches 2007. Why the density should fall:
    Lustig et al., "Sparse MRI", MRM 2007; such masks in 3-D scans: Vasanawala et al., "Practical parallel imaging
    compressed sensing MRI", ISBI 2011.
    """

    def __init__(
        self,
        center_fractions: Sequence[float],
        accelerations: Sequence[int],
        slope: float = 2.0,
        crop_corner: bool = True,
    ) -> None:
        super().__init__(center_fractions, accelerations)
        if not slope >= 0:
            raise InputError(f"mask.slope is at least 0, which makes the density uniform; got {slope}")
        self.slope = slope
        self.crop_corner = crop_corner

    def outer_points(self, center: np.ndarray, n_outer: int, generator: RandomState) -> np.ndarray:
        """Draw the points that the centre leaves.

        Raises
        ------
        InputError : if the ellipse has fewer positions than the acceleration samples.
        """
        k = distance_from_center(center.shape)
        wanted = ~center & (k <= 1) if self.crop_corner else ~center
        if n_outer > wanted.sum():
            raise InputError(
                f"outside the centre the ellipse in {center.shape[0]}x{center.shape[1]} has {wanted.sum()} positions, "
                f"and the acceleration asks for {n_outer}; raise mask.accelerations or set mask.crop_corner=false"
            )
        return poisson_disc(1 + self.slope * k, wanted, n_outer, generator)[0]


def poisson_disc(scale: np.ndarray, wanted: np.ndarray, n: int, generator: RandomState) -> tuple[np.ndarray, float]:
    """Draw points that keep the distance ``r0 * scale``, for an r0 that leaves room for ``n``.

    Dart throwing at all positions at once: of those far enough from every point, the ones with the largest random
    number within their own radius become points. Then r0 shrinks a little, until there are n.

    Parameters
    ----------
    scale : ``(h, w)`` relative radius, at least one.
    wanted : ``(h, w)`` bool, where points are wanted; elsewhere they only keep the others away, without which the rim
        would be denser than its surroundings.
    n : number of points, at least one and at most the wanted positions.

    Returns
    -------
    points : ``(h, w)`` bool.
    r0 : in positions; two points are at least r0 times the smaller of their scales apart.

    References
    ----------
    McCool and Fiume, "Hierarchical Poisson disk sampling distributions", Graphics Interface 1992 (shrinking radii).
    """
    h, w = scale.shape
    scale = scale * generator.uniform(1, SPREAD, size=scale.shape)
    largest = scale.max()
    # where discs begin to fit: they lie no denser than the hexagonal lattice
    r0 = math.sqrt(2 / math.sqrt(3) * (1 / scale[wanted] ** 2).sum() / n)
    r0 = min(r0, WIDEST / largest)
    # in a flat padded plane the neighbours of all positions are one addition away
    pad = math.ceil(r0 * largest)
    scale = np.pad(scale, pad, constant_values=np.inf).ravel()
    wanted = np.pad(wanted, pad).ravel()
    steps, lengths = _neighbours(pad, w + 2 * pad)
    points = np.zeros(scale.size, dtype=bool)
    nearest = np.full(scale.size, float(h + w))  # distance to the nearest point
    missing = n
    while True:
        near = lengths < r0 * largest
        new = np.flatnonzero(nearest >= r0 * scale)
        number = np.zeros(scale.size)
        number[new] = generator.uniform(size=len(new))
        for step, length in zip(steps[near], lengths[near], strict=True):
            new = new[(number[new] > number[new + step]) | (length >= r0 * scale[new])]
        if wanted[new].sum() > missing:
            new = generator.permutation(new[wanted[new]])[:missing]
        points[new] = True
        missing -= int(wanted[new].sum())
        if missing == 0:
            return (points & wanted).reshape(h + 2 * pad, -1)[pad : pad + h, pad : pad + w], r0
        nearest[new] = 0
        for step, length in zip(steps[near], lengths[near], strict=True):
            nearest[new + step] = np.minimum(nearest[new + step], length)
        r0 *= SHRINK


def _neighbours(reach: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps to the neighbours of a position in a flat plane of ``width``, nearest first, and their lengths."""
    axis = np.arange(-reach, reach + 1)
    lengths = np.hypot(axis[:, None], axis).ravel()
    order = np.argsort(lengths, kind="stable")[1:]  # without the position itself
    return (axis[:, None] * width + axis).ravel()[order], lengths[order]
