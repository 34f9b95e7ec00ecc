"""The object in the scanner: a slice of a head without air, at any angle, size and contrast."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import binary_closing, binary_fill_holes, gaussian_filter
from torch import Tensor

_CUT = 0.012  # fraction of the image; a head closer to the border than this is cut by it
_FADE = 0.15  # fraction of the image over which a cut head fades out
_SMALL = 64  # side in pixels of the image in which the head is segmented
_FINEST = 0.95  # smallest pixel of a scan, relative to the finest detail of the magnitude image


@dataclass(frozen=True)
class Slice:
    """A magnitude image and the position of the head in it.

    Parameters
    ----------
    image : ``(h, w)`` float32, bright tissue about one, air zero.
    pixel : (h, w) size of a pixel in mm.
    resolved : (h, w) smallest detail in mm; larger than a pixel if the image was interpolated.
    box : (top, bottom, left, right) of the head, as fractions of the image.
    """

    image: Tensor
    pixel: tuple[float, float]
    resolved: tuple[float, float]
    box: tuple[float, float, float, float]


def without_air(image: np.ndarray, pixel: tuple[float, float], resolved: tuple[float, float]) -> Slice | None:
    """Segment the head and set the air around it to zero; return None if there is almost no head.

    The air of a magnitude image holds rectified noise. It would add to the simulated noise, and stop at the border of
    the image. Dark regions inside the head stay.
    """
    magnitude = torch.from_numpy(image)
    small = F.adaptive_avg_pool2d(magnitude[None, None], min(_SMALL, *image.shape))[0, 0].numpy()
    head = binary_fill_holes(np.pad(binary_closing(np.pad(small > 0.1, 4), iterations=3)[4:-4, 4:-4], 1))[1:-1, 1:-1]
    if head.mean() < 0.08:
        return None
    rows, columns = np.flatnonzero(head.mean(1) > 0.02), np.flatnonzero(head.mean(0) > 0.02)
    n, m = head.shape
    soft = torch.from_numpy(np.clip(1.6 * gaussian_filter(head.astype(np.float32), 0.8), 0, 1))
    soft = F.interpolate(soft[None, None], image.shape, mode="bilinear")[0, 0]
    box = (rows[0] / n, (rows[-1] + 1) / n, columns[0] / m, (columns[-1] + 1) / m)
    return Slice(magnitude * soft, pixel, resolved, box)


@dataclass(frozen=True)
class View:
    """The position of a slice in the scanner.

    Parameters
    ----------
    angle : of the rotation in the plane, in radians.
    mirror : 1, or -1 for a mirrored head.
    fov : (h, w) of the field of view in mm.
    center : (h, w) of its centre in the slice, in mm from the slice's centre.
    """

    angle: float
    mirror: int
    fov: tuple[float, float]
    center: tuple[float, float]

    def head(self, there: Slice) -> tuple[np.ndarray, np.ndarray]:
        """Return centre and half axes (h, w) of the head, in units of half the field of view."""
        at, half = _box_mm(there)
        turn = _rotation(self.angle, self.mirror).T
        fov = np.array(self.fov) / 2
        return turn @ (at - np.array(self.center)) / fov, _extent(half, self.angle) / fov


def draw_view(there: Slice, shape: tuple[int, int], rng: np.random.RandomState) -> View:
    """Draw rotation, field of view and position for a scan of ``shape`` = (h, w).

    All quarter turns are equally likely: phase encoding may run along either direction of the head. The head fills
    between half and nearly all of each direction; in some scans it wraps around. Pixels are hardly finer than the
    detail of the image; to keep them so, the field of view grows to up to about twice the head. If the image cuts the
    head on one side (the neck), the field of view ends there too, where possible.
    """
    at, half = _box_mm(there)
    size = np.array(there.image.shape) * np.array(there.pixel)
    top, bottom, left, right = there.box
    cut = np.array([[top < _CUT, bottom > 1 - _CUT], [left < _CUT, right > 1 - _CUT]])
    tilt = rng.choice((0, 3, 8, 25), p=(0.35, 0.35, 0.2, 0.1)) * rng.randn()
    steepest = 0 if cut.all(1).any() else 4 if cut.any() else 50
    angle = float(np.deg2rad(90 * rng.randint(4) + np.clip(tilt, -steepest, steepest)))
    extent = 2 * _extent(half, angle)
    upright = abs(np.cos(angle)) > 0.5
    # a head that continues beyond the field of view lies at its border; a large field would leave the other half empty
    ends = np.logical_or(*cut.T)
    ends = ends if upright else ends[::-1]
    fill = rng.uniform(np.where(ends, 0.7, 0.5), 0.98)
    if not cut.any() and rng.uniform() < 0.12:
        fill[1] = rng.uniform(1, 1.15)  # wraps around
    finest = _FINEST * _extent(np.array(there.resolved), angle) * np.array(shape)
    finest = np.minimum(finest, np.where(ends, 1.4, 1.9) * extent)
    voxel = np.maximum(extent / fill, np.where(fill > 1, 0, finest)) / np.array(shape)
    longest = rng.uniform(1, 1.5) if rng.uniform() < 0.5 else 1.1
    voxel = np.maximum(voxel, np.where(fill > 1, 0, voxel[::-1] / longest))
    fov = voxel * np.array(shape)
    widest = np.where(cut.all(1), size, np.inf)  # beyond two cut sides there is nothing
    fov = np.minimum(fov, widest if upright else widest[::-1])
    center = at + _rotation(angle, 1) @ (rng.uniform(-0.3, 0.3, 2) * np.abs(fov - extent) / 2)
    window = _extent(fov / 2, angle)
    for axis in range(2):
        low, high = window[axis] - size[axis] / 2, size[axis] / 2 - window[axis]
        if cut[axis].all():
            center[axis] = np.clip(center[axis], low, max(low, high))
        elif cut[axis, 0]:
            center[axis] = max(center[axis], low)
        elif cut[axis, 1]:
            center[axis] = min(center[axis], high)
    return View(angle, int(rng.choice((-1, 1))), (float(fov[0]), float(fov[1])), (float(center[0]), float(center[1])))


def seen(there: Slice, view: View, shape: tuple[int, int], oversampling: int = 2) -> Tensor:
    """Resample the slice to the field of view, on a grid finer than the scan's by the factor ``oversampling``.

    Pixel N // 2 of the scan is the centre of the field of view. Signal outside the field of view along the phase
    direction wraps around. A head that the image cuts within the field of view fades out, as at the end of a coil.
    """
    image = there.image
    pixel = np.array(there.pixel)
    h, w = (n * oversampling for n in shape)
    fine = _extent(np.array(view.fov) / (h, w), view.angle)
    pool = [max(int(f / p), 1) for f, p in zip(fine, pixel, strict=True)]
    if max(pool) > 1:  # a grid coarser than the image would alias its detail
        image = F.avg_pool2d(image[None], pool, ceil_mode=False)[0]
    size = np.array(there.image.shape) * pixel
    covered = np.array(image.shape) * pool * pixel  # pooling drops incomplete blocks
    reach = _extent(np.array(view.fov) / 2, view.angle)
    image = _faded(
        image, there.box, (np.array(view.center) - reach) / size + 0.5, (np.array(view.center) + reach) / size + 0.5
    )
    wraps = view.head(there)[1][1] > 1
    wide = 2 * w if wraps else w
    v, u = (torch.arange(h) - h // 2) / h, (torch.arange(wide) - wide // 2) / w
    turn = _rotation(view.angle, view.mirror)
    grids = []
    for axis in (1, 0):  # grid_sample wants x before y
        mm = view.center[axis] + turn[axis, 0] * view.fov[0] * v[:, None] + turn[axis, 1] * view.fov[1] * u
        grids.append((mm + size[axis] / 2) * (2 / covered[axis]) - 1)
    grid = torch.stack(grids, -1)[None].float()
    sampled = F.grid_sample(image[None, None], grid, "bicubic", align_corners=False)[0, 0].clamp_min_(0)
    return sampled.roll(w // 2 - wide // 2, 1).reshape(h, 2, w).sum(1) if wraps else sampled


def recoloured(image: Tensor, rng: np.random.RandomState) -> Tensor:
    """Draw a contrast: the image's own, a gamma curve, or a random curve from intensity to signal.

    The curve may be negative, as after an inversion pulse: the magnitude then vanishes between tissues of opposite
    sign.
    """
    draw = rng.uniform()
    if draw < 0.35:
        return image
    if draw < 0.6:
        return image ** float(np.exp(rng.uniform(np.log(0.55), np.log(1.8))))
    # few knots and a smooth curve; anything else draws contour lines around the tissues
    n = rng.randint(3, 5)
    steps = rng.uniform(0.25, 1, n) * rng.choice((1, -1), n, p=(0.6, 0.4))
    steps[0] = abs(steps[0])
    levels = np.concatenate([[0], np.cumsum(steps)])
    if draw > 0.95:
        levels[1:] -= rng.uniform(0.2, 0.8)
    curve = PchipInterpolator(np.linspace(0, 1.3, n + 1), levels)(np.linspace(0, 1.3, 64))
    curve = curve if draw > 0.95 else np.abs(curve)
    table = torch.from_numpy((curve / max(np.abs(curve).max(), 0.3)).astype(np.float32))
    at = (image * (63 / 1.3)).clamp(0, 62.999)
    low = at.long()
    return torch.lerp(table[low], table[low + 1], at - low)


def random_phantom(rng: np.random.RandomState, n: int = 224) -> Slice:
    """Draw ellipses and bars of random signal inside a large ellipse, with no particular anatomy or contrast."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32),) * 2, indexing="ij")
    a, b = rng.uniform(0.55, 0.9, 2)
    radius = np.sqrt((x / b) ** 2 + (y / a) ** 2)
    inside = radius < 1
    image = np.full((n, n), rng.uniform(0.2, 1), np.float32)
    image[radius > rng.uniform(0.85, 0.97)] = rng.uniform(0, 1.2)
    for _ in range(rng.randint(8, 30)):
        angle, size = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(0.015), np.log(0.45), 2))
        cy, cx = rng.uniform(-0.7, 0.7, 2)
        p = (np.cos(angle) * (y - cy) + np.sin(angle) * (x - cx)) / size[0]
        q = (np.cos(angle) * (x - cx) - np.sin(angle) * (y - cy)) / size[1]
        where = (p**2 + q**2 < 1) if rng.uniform() < 0.7 else (np.abs(p) < 1) & (np.abs(q) < 1)
        image[where] = rng.uniform(0, 1.1)
    grain = gaussian_filter(rng.standard_normal((n, n)).astype(np.float32), rng.uniform(0.7, 2.5))
    image = np.maximum(image * (1 + rng.uniform(0, 0.08) * grain / grain.std()), 0) * inside
    box = ((1 - a) / 2, (1 + a) / 2, (1 - b) / 2, (1 + b) / 2)
    return Slice(torch.from_numpy(image), (1.0, 1.0), (1.0, 1.0), box)


def _faded(image: Tensor, box: tuple[float, float, float, float], first: np.ndarray, last: np.ndarray) -> Tensor:
    """Fade out a head that the image cuts, if the field of view from ``first`` to ``last`` shows the cut."""
    for axis, (low, high) in enumerate((box[:2], box[2:])):
        at = (torch.arange(image.shape[axis]) + 0.5) / image.shape[axis]
        ramp = torch.ones_like(at)
        if low < _CUT and first[axis] < -_CUT:
            ramp = ramp * (at / _FADE).clamp(max=1)
        if high > 1 - _CUT and last[axis] > 1 + _CUT:
            ramp = ramp * ((1 - at) / _FADE).clamp(max=1)
        ramp = ramp.square() * (3 - 2 * ramp)
        image = image * (ramp[:, None] if axis == 0 else ramp)
    return image


def _box_mm(there: Slice) -> tuple[np.ndarray, np.ndarray]:
    """Return the centre of the head in mm from the slice's centre, and half its extents."""
    size = np.array(there.image.shape) * np.array(there.pixel)
    top, bottom, left, right = there.box
    middle = np.array([(top + bottom) / 2, (left + right) / 2])
    return (middle - 0.5) * size, np.array([bottom - top, right - left]) / 2 * size


def _rotation(angle: float, mirror: int) -> np.ndarray:
    """Return the matrix from the axes of the field of view to those of the slice."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn * np.array([1, mirror])


def _extent(half: np.ndarray, angle: float) -> np.ndarray:
    """Return the half axes of the box around a rotated ellipse."""
    c, s = np.cos(angle) ** 2, np.sin(angle) ** 2
    return np.sqrt(np.array([c * half[0] ** 2 + s * half[1] ** 2, s * half[0] ** 2 + c * half[1] ** 2]))
