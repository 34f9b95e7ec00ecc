"""Variable-density Poisson disc: random points whose minimum distance grows away from the centre."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.random import RandomState

from spinwarp.errors import InputError
from spinwarp.masks.base import PlaneMask, distance_from_center

# On a grid, distances jump from 1 to sqrt(2) to 2, and so does the density. Radii that vary by up to such a step
# from position to position keep the density smooth; equal radii make rings.
SPREAD = math.sqrt(2)
SHRINK = 0.95
WIDEST = 24.0  # positions; such discs keep one point in a thousand, and wider ones would only cost time


class PoissonDiscMask(PlaneMask):
    """Points at least r = r0 (1 + slope |k|) apart, where |k| is that of the point nearer to the centre.

    |k| is the distance to the centre in half extents: 1 on the inscribed ellipse. r is in positions. r0 follows from
    the acceleration, which every mask meets exactly. Where r is below one position everything is sampled; farther out
    the density falls like 1 / r^2.

    Parameters
    ----------
    center_fractions, accelerations : as of every :class:`PlaneMask`.
    slope : how much larger the discs are at the edge than in the centre; 0 makes the density uniform.
    crop_corner : whether to sample nothing outside the inscribed ellipse. The acceleration still counts the positions
        in the corners: it is that of the whole rectangle.

    Raises
    ------
    InputError : if ``slope`` is negative.

    Notes
    -----
    Radius and ellipse are those of sigpy's ``mri.poisson``, which fixes r0 at one position and searches for the slope.

    References
    ----------
    Bridson, "Fast Poisson disk sampling in arbitrary dimensions", SIGGRAPH sketches 2007; on variable density,
    Lustig et al., "Sparse MRI", MRM 2007; on such masks in 3-D scans, Vasanawala et al., "Practical parallel imaging
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
        """Draw the points outside the centre.

        Raises
        ------
        InputError : if the ellipse has fewer positions than the acceleration asks for.
        """
        k = distance_from_center(center.shape)
        wanted = ~center & (k <= 1) if self.crop_corner else ~center
        if n_outer > wanted.sum():
            raise InputError(
                f"outside the centre the ellipse in {center.shape[0]}x{center.shape[1]} has {wanted.sum()} positions, "
                f"but the acceleration asks for {n_outer}; raise mask.accelerations or set mask.crop_corner=false"
            )
        return poisson_disc(1 + self.slope * k, wanted, n_outer, generator)[0]


def poisson_disc(scale: np.ndarray, wanted: np.ndarray, n: int, generator: RandomState) -> tuple[np.ndarray, float]:
    """Draw ``n`` points that are at least ``r0 * scale`` apart, for the largest r0 that leaves room for them.

    Dart throwing at all positions at once. Candidates are the positions far enough from every point; each gets a
    random number, and those with the largest one within their own radius become points. Then r0 shrinks a little, and
    so on until there are n points.

    Parameters
    ----------
    scale : ``(h, w)`` relative radius, at least one.
    wanted : ``(h, w)`` bool, where points are wanted. Points elsewhere only keep the others at a distance; without
        them the rim would be too dense.
    n : number of points, from one to the number of wanted positions.

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
    # upper bound on r0: discs pack no denser than in the hexagonal lattice
    r0 = math.sqrt(2 / math.sqrt(3) * (1 / scale[wanted] ** 2).sum() / n)
    r0 = min(r0, WIDEST / largest)
    # in a flattened padded plane the index of a neighbour is one addition away
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
    """Return the index steps to the neighbours in a flattened plane of ``width``, nearest first, and their lengths."""
    axis = np.arange(-reach, reach + 1)
    lengths = np.hypot(axis[:, None], axis).ravel()
    order = np.argsort(lengths, kind="stable")[1:]  # without the position itself
    return (axis[:, None] * width + axis).ravel()[order], lengths[order]
