"""Procedural heads: axial slices of a head whose tissues are level sets of smooth random fields.

Coordinates are millimetres from the centre of the brain: x to the right of the image, y towards the nose (the top of
the image), z towards the vertex; z = 0 is about the level of the thalami. Every structure is a signed depth in mm,
positive inside, and is drawn with soft edges: a pixel on a border holds a mixture of two tissues.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.spatial.transform import Rotation

from spinwarp.data.phantom.contrast import TISSUES, draw_signals
from spinwarp.data.simulation import smooth_field

_BLOCK = 2**14  # points

# Sample positions within a voxel, (x, y, z) in voxels, spread over its area and the slice thickness.
_SAMPLES = ((-0.25, -0.25, -0.22), (0.25, 0.25, -0.07), (-0.25, 0.25, 0.07), (0.25, -0.25, 0.22))

# Chains of round cones in the right half of the head, (x, y, z, radius); z is scaled where they are drawn.
_INSULA = ((30, 27, 0, 0.2), (36, 18, 0, 0.2), (39, 6, 0, 0.2), (37, -8, 0, 0.2), (33, -17, 0, 0.2))
_SYLVIAN = ((39, 6, 0, 0.2), (50, 12, 0, 0.3), (68, 22, 0, 0.8))
_CAUDATE = ((13, 24, 4, 5.0), (13, 13, 8, 4.5), (14, -4, 12, 2.5), (18, -18, 12, 1.5))
_VENTRICLE = (
    (14, 37, 5, 1.5),
    (9, 29, 6, 4.0),
    (6.5, 18, 8, 3.5),
    (7, 0, 12, 3.5),
    (12, -22, 12, 4.0),
    (22, -38, 8, 6.0),
    (27, -60, 5, 1.5),
)


def pixel_size(shape: tuple[int, int]) -> float:
    """Return the side of a square pixel in mm; the field of view then holds a head (at least 224 x 190 mm)."""
    return max(224 / shape[0], 190 / shape[1])


def slice_spacing(n_slices: int) -> float:
    """Return the distance between slices in mm: 5, or less if that many slices would extend beyond the head."""
    return min(5.0, 70 / n_slices)


def head_volume(n_slices: int, shape: tuple[int, int], rng: np.random.RandomState) -> tuple[np.ndarray, str]:
    """Draw a head and a pulse sequence, and return magnitude images of consecutive axial slices.

    Returns
    -------
    image : ``(slice, h, w)`` float32, zero in air, of order one in tissue.
    contrast : ``T1``, ``T1GRE``, ``T2``, ``PD`` or ``FLAIR``.
    """
    fractions = tissue_fractions(n_slices, shape, rng)
    signal, contrast = draw_signals(rng)
    image = np.zeros(fractions.shape[1:], np.float32)
    points = _grid(n_slices, shape, (0.0, 0.0, 0.0))
    # fine mottle in each tissue, and a slow drift across the head for an uneven transmit field
    for fraction, value in zip(fractions, signal.values(), strict=True):
        if fraction.any():
            image += fraction * np.float32(value) * (1 + 0.02 * smooth_field(image.shape, (0.5, 2.0, 2.0), rng))
    return image * (1 + 0.05 * _waves(points, 250.0, 4, rng)), contrast


def tissue_fractions(n_slices: int, shape: tuple[int, int], rng: np.random.RandomState) -> np.ndarray:
    """Draw a head and return the fraction of each tissue in each voxel.

    Returns
    -------
    ``(tissue, slice, h, w)`` float32 in [0, 1], in the order of :data:`TISSUES`; the remainder is air.
    """
    points = np.concatenate([_grid(n_slices, shape, offset) for offset in _SAMPLES], axis=1)
    pixel = pixel_size(shape)
    points = _place(points, rng)
    layers = _scalp_and_skull(points, rng)
    hull = layers[-2][1] - _thickness(points, rng.uniform(1.2, 2.4), 0.8, rng)  # under a layer of CSF
    layers += _cortex(points, hull, pixel, rng)
    layers += _deep(points, layers[-2][1], layers[-1][1], rng)
    fractions = np.zeros((len(TISSUES), n_slices, *shape), np.float32)
    order = list(TISSUES)
    rest = np.ones(points.shape[1:], np.float32)
    for tissue, depth in reversed(layers):  # the last layer lies on top
        covered = rest * np.clip(depth / pixel + 0.5, 0, 1)
        fractions[order.index(tissue)] += covered.reshape(len(_SAMPLES), n_slices, *shape).mean(0)
        rest -= covered
    return fractions


def _grid(n_slices: int, shape: tuple[int, int], offset: tuple[float, float, float]) -> np.ndarray:
    (h, w), step = shape, pixel_size(shape)
    z = (np.arange(n_slices) - (n_slices - 1) / 2 + offset[2]) * slice_spacing(n_slices)
    y = ((h - 1) / 2 - np.arange(h) + offset[1]) * step
    x = (np.arange(w) - (w - 1) / 2 + offset[0]) * step
    return np.stack(np.broadcast_arrays(x, y[:, None], z[:, None, None])).astype(np.float32)


def _waves(points: np.ndarray, wavelength: float, n_waves: int, rng: np.random.RandomState) -> np.ndarray:
    """Draw a smooth field of one length scale: plane waves of random direction and phase, with unit variance."""
    waves = []
    for _ in range(n_waves):
        k = rng.randn(3)
        k *= 2 * np.pi / wavelength * rng.uniform(0.8, 1.2) / np.linalg.norm(k)
        waves.append((*k.astype(np.float32), np.float32(rng.uniform(0, 2 * np.pi))))
    total = np.zeros(points[0].size, np.float32)
    flat = points.reshape(3, -1)
    angle, term = np.empty((2, _BLOCK), np.float32)
    for start in range(0, total.size, _BLOCK):  # the points of a block stay in the cache for all waves
        x, y, z = flat[:, start : start + _BLOCK]
        a, t = angle[: x.size], term[: x.size]
        for kx, ky, kz, phase in waves:
            np.multiply(x, kx, out=a)
            a += np.multiply(y, ky, out=t)
            a += np.multiply(z, kz, out=t)
            a += phase
            total[start : start + _BLOCK] += np.cos(a, out=a)
    return total.reshape(points.shape[1:]) * np.float32(np.sqrt(2 / n_waves))


def _place(points: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Turn, shift and bend the grid: where each point lies in the upright, undistorted head."""
    turn = Rotation.from_euler("zyx", rng.randn(3) * (4, 2, 5), degrees=True).as_matrix()
    size = rng.uniform(0.95, 1.04) * np.exp(0.02 * rng.randn(3))
    rotation = (turn / size[:, None]).astype(np.float32)
    shift = _column([rng.uniform(-4, 4), rng.uniform(-4, 4), rng.uniform(18, 32)])
    placed = np.einsum("ij,jshw->ishw", rotation, points) + shift
    return placed + np.stack([_waves(placed, 90.0, 4, rng) * np.float32(0.8) for _ in range(3)])


def _column(values: Sequence[float]) -> np.ndarray:
    return np.array(values, np.float32).reshape(3, 1, 1, 1)


def _thickness(points: np.ndarray, mean: float, spread: float, rng: np.random.RandomState) -> np.ndarray:
    return np.clip(mean + spread * _waves(points, 80.0, 5, rng), 0.3 * mean, 1.8 * mean)


def _ellipsoid(points: np.ndarray, center: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
    scaled = [(points[i] - center[i]) / radii[i] for i in range(3)]
    return (1 - np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)) * min(radii)


def _tube(points: np.ndarray, nodes: tuple[tuple[float, float, float, float], ...]) -> np.ndarray:
    """Return the depth inside a chain of round cones; a node is (x, y, z, radius)."""
    best = np.full(points.shape[1:], -np.inf, np.float32)
    for a, b in pairwise(np.array(nodes, np.float32)):
        axis = (b - a)[:3]
        offset = [points[i] - a[i] for i in range(3)]
        along = np.clip(sum(axis[i] * offset[i] for i in range(3)) / (axis @ axis), 0, 1)
        distance = np.sqrt(sum((offset[i] - axis[i] * along) ** 2 for i in range(3)))
        best = np.maximum(best, a[3] + (b[3] - a[3]) * along - distance)
    return best


def _scalp_and_skull(points: np.ndarray, rng: np.random.RandomState) -> list[tuple[str, np.ndarray]]:
    x, y, z = points
    up = np.where(z > 0, z, 0.25 * z)
    power = rng.uniform(2.1, 2.4)
    width = 78 * (1 - rng.uniform(0.05, 0.13) * y / 97)  # the nose side is narrower
    rho = (np.abs(x / width) ** power + np.abs(y / 97) ** power + np.abs(up / 92) ** power) ** (1 / power)
    radius = np.sqrt(x**2 + y**2 + up**2)
    scalp = radius / np.maximum(rho, 1e-3) - radius  # along the ray from the centre
    scalp = scalp + _waves(np.stack([np.abs(x), y, z]), 110.0, 5, rng)
    fat = scalp - 1.8
    temporal = 9 * np.clip(np.abs(x) / 60 - 0.45, 0, 1) * np.exp(-(((y - 18) / 28) ** 2)) * np.clip(1 - z / 45, 0, 1)
    skull = fat - _thickness(points, rng.uniform(2.5, 5.0), 0.8, rng) - temporal
    diploe = _thickness(points, rng.uniform(1.5, 3.5), 1.0, rng)
    inner = skull - 4.0 - diploe
    return [
        ("skin", scalp),
        ("fat", fat),
        ("muscle", np.minimum(skull + temporal - 0.5, temporal - 1.5)),
        ("bone", skull),
        ("marrow", np.minimum(skull - 2.0, 2.0 + diploe - skull)),
        ("csf", inner),
        ("blood", 3.0 - y / 70 - np.hypot(x, inner - 0.5)),
    ]


def _cortex(
    points: np.ndarray, hull: np.ndarray, pixel: float, rng: np.random.RandomState
) -> list[tuple[str, np.ndarray]]:
    """Return grey and white matter below the folded surface; ``hull`` is the depth below the unfolded one."""
    x, y, z = points
    mirrored = np.stack([np.abs(x), y, z])
    # the fissure between the hemispheres ends at the corpus callosum, which has almost no grey matter
    fissure = np.maximum(mirrored[0] - rng.uniform(0.5, 1.0), 3 * _ellipsoid(points, (0, -6, 2), (40, 42, 31)))
    surface = np.minimum(hull, fissure)
    core = _ellipsoid(points, (0, -6, 4), (37, 53, 33))  # no sulcus reaches here
    opening = rng.uniform(0.4, 2.2)
    pial = surface
    for wavelength, reach, spread in ((27.0, 21.0, 6.0), (19.0, 8.0, 5.0)):
        field = _folds(points, mirrored, wavelength, rng)
        slope = np.hypot(np.gradient(field, pixel, axis=1), np.gradient(field, pixel, axis=2))
        k = 2 * np.pi / wavelength
        distance = np.arctan2(np.abs(field), slope / k) / k  # from the nearest sulcus, for a wave of this length
        width = 0.3 + opening * np.exp(-np.maximum(surface, 0) / 3.5)
        floor = np.maximum(surface - _thickness(points, reach, spread, rng), core)
        pial = np.minimum(pial, np.maximum(distance - width, floor))
    flat = mirrored * _column([1, 1, 0.1])
    sylvian = np.maximum(_tube(flat, _INSULA), _tube(flat, _SYLVIAN)) + 0.3 + 0.5 * opening
    pial = np.minimum(pial, np.maximum(-sylvian, 3 * (z - 18)))
    return [("grey", pial), ("white", np.minimum(pial - _thickness(points, 2.8, 0.35, rng), hull - 2))]


def _folds(points: np.ndarray, mirrored: np.ndarray, wavelength: float, rng: np.random.RandomState) -> np.ndarray:
    """Draw a field whose zeros are the sulci: similar but not equal on both sides, elongated along the depth."""
    ray = mirrored - _column([28, -6, 4])
    length = np.sqrt((ray**2).sum(0)) + 1e-3
    ray *= (22 + 0.6 * length) / length
    symmetric = _waves(ray, wavelength, 16, rng)
    ray[0] *= np.sign(points[0])
    return 0.5 * symmetric + 0.87 * _waves(ray, wavelength, 24, rng)


def _deep(
    points: np.ndarray, pial: np.ndarray, white: np.ndarray, rng: np.random.RandomState
) -> list[tuple[str, np.ndarray]]:
    """Return nuclei, ventricles and sometimes a lesion, confined by the depths ``pial`` and ``white``."""
    mirrored = np.stack([np.abs(points[0]), points[1], points[2]])
    flat = mirrored * _column([1, 1, 0.6])
    s = np.exp(0.25 * rng.randn())
    ventricle = _tube(flat, tuple((vx, vy, vz, r * s) for vx, vy, vz, r in _VENTRICLE))
    layers = [
        ("deep_grey", _tube(flat, _CAUDATE)),
        ("deep_grey", _ellipsoid(mirrored, (10, -14, 6), (8.5, 14, 11))),
        ("deep_grey", _ellipsoid(mirrored, (26, 5, 4), (5.0, 17, 13))),
        ("pallidum", _ellipsoid(mirrored, (19.5, 1, 2), (4, 8, 8))),
        ("csf", np.minimum(ventricle, mirrored[0] - 0.7)),
        ("csf", _ellipsoid(mirrored, (0, -6, 0), (1.8 * s, 12, 9))),
    ]
    if rng.uniform() < 0.4:
        center = [rng.choice((-1, 1)) * rng.uniform(14, 46), rng.uniform(-55, 40), rng.uniform(8, 45)]
        size = rng.uniform(4, 14)
        offset = points - _column(center)
        lesion = size - np.sqrt((offset**2).sum(0)) + 0.2 * size * _waves(points, 2.5 * size, 12, rng)
        layers.insert(4, ("lesion", np.minimum(lesion, pial)))
        layers.insert(4, ("edema", np.minimum(lesion + rng.uniform(0, 12), white)))
    return layers
