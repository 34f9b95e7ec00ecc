"""Effects of the receiver: coil arrays, phase, correlated noise, and the acquired part of k-space."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from spinwarp.data.simulation import coil_covariance, measured_coil_maps, read_maps, unit_maps

_NODES = 28  # side of the grid on which smooth fields are computed
_SEGMENTS = 12  # of a loop of wire


def refined(nodes: np.ndarray | Tensor, shape: tuple[int, int]) -> Tensor:
    """Interpolate nodes ``(..., n, m)``, from edge to edge of the field of view, to pixels ``(..., h, w)``.

    Cubic splines, applied as two small matrix products.
    """
    nodes = torch.as_tensor(nodes)
    down, across = (_spline(n, size).to(nodes.dtype) for n, size in zip(nodes.shape[-2:], shape, strict=True))
    return down @ nodes @ across.T


def smooth_nodes(rng: np.random.RandomState, coarse: int) -> np.ndarray:
    """Draw a smooth random field on the nodes, of mean zero and standard deviation one; ``coarse`` knots per side."""
    field = refined(rng.standard_normal((coarse, coarse)).astype(np.float32), (_NODES, _NODES)).numpy()
    field -= field.mean()
    return np.asarray(field / field.std())


def draw_phase(image: Tensor, head: tuple[np.ndarray, np.ndarray], rng: np.random.RandomState) -> Tensor:
    """Draw the phase in radians of an image ``(h, w)`` whose head is at ``head``.

    A second-order polynomial (echo off the centre of k-space, shim) plus a smooth field, as in
    :func:`spinwarp.data.simulation.smooth_phase`. Often also a phase of the tissues, a smooth function of the signal;
    sometimes opposed phase (as of fat and water), or a dipole (air in the sinuses).
    """
    y, x = _coordinates()
    constant, x1, y1, x2, y2, xy = rng.randn(6) * (np.pi, 2, 2, 0.5, 0.5, 0.4)
    rest = np.exp(rng.uniform(np.log(0.1), np.log(0.9)))
    nodes = (
        constant + x1 * x + y1 * y + x2 * x**2 + y2 * y**2 + xy * x * y + rest * smooth_nodes(rng, rng.randint(5, 12))
    )
    phase = refined(nodes.astype(np.float32), (image.shape[0], image.shape[1]))
    if rng.uniform() < 0.6:  # tissues differ in susceptibility, flow and chemical shift
        phase = phase + float(rng.uniform(0.02, 0.35)) * torch.sin(
            float(rng.uniform(2, 7)) * image + float(rng.uniform(0, 6))
        )
    if rng.uniform() < 0.15:
        phase = phase + float(rng.uniform(1.5, np.pi)) * torch.sigmoid((image - float(rng.uniform(0.4, 1.1))) / 0.02)
    if rng.uniform() < 0.2:
        center, half = head
        at = center + half * rng.uniform(-0.6, 0.6, 2)
        core = float(rng.uniform(0.08, 0.25) * half.min())
        v, u = ((torch.arange(n) - n // 2) * (2 / n) for n in image.shape)
        dy, dx = v[:, None] - float(at[0]), u - float(at[1])
        axis = float(rng.uniform(0, np.pi))
        along, across = np.cos(axis) * dy + np.sin(axis) * dx, np.cos(axis) * dx - np.sin(axis) * dy
        square = dx.square() + dy.square() + core**2
        phase = phase + float(rng.uniform(2, 8)) * core**2 * (along.square() - across.square()) / square.square()
    return phase


def draw_array(
    n_coils: int,
    shape: tuple[int, int],
    head: tuple[np.ndarray, np.ndarray],
    rng: np.random.RandomState,
    measured: Path | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw receive sensitivities on the nodes of a field of view.

    Loops of wire on rings around the head follow the law of Biot and Savart. The main field is perpendicular to the
    slice or lies in it, and only components perpendicular to the main field count (Hoult, Concepts Magn Reson 12:173,
    2000). If a file is given, a third of the arrays are measured sensitivities, moved and compressed. A single coil is
    a volume coil or, in a third of the draws, one loop; its phase is part of the image.

    Returns
    -------
    maps : ``(n_coils, n, n)`` complex64 with a sum of squares of one.
    profile : ``(n, n)`` float32, combined sensitivity of all coils, with mean one in the head.
    """
    y, x = _coordinates()
    center, half = head
    near = np.exp(-(((y - center[0]) / half[0]) ** 2 + ((x - center[1]) / half[1]) ** 2))
    if measured is not None and 1 < n_coils <= len(read_maps(measured)) and rng.uniform() < 1 / 3:
        nodes = tuple(int(n) for n in np.maximum(np.round(_NODES * np.array(shape) / max(shape)), 12))
        maps = np.rot90(measured_coil_maps(measured, n_coils, (nodes[0], nodes[1]), rng), rng.randint(4), (1, 2))
        maps = maps[:, :, :: rng.choice((-1, 1))]
        maps = refined(np.ascontiguousarray(maps), (_NODES + 1, _NODES + 1))[:, :-1, :-1].numpy()
        return unit_maps(maps), np.ones_like(near)
    if n_coils == 1 and rng.uniform() < 2 / 3:
        return np.ones((1, _NODES, _NODES), np.complex64), np.ones_like(near)
    maps = _loops(n_coils, shape, head, rng) * np.exp(0.15 * rng.randn(n_coils, 1, 1))
    sensitivity = np.sqrt((np.abs(maps) ** 2).sum(0))
    sensitivity = np.clip(sensitivity / np.average(sensitivity, weights=near), 0.2, 2.5).astype(np.float32)
    return np.ones((1, _NODES, _NODES), np.complex64) if n_coils == 1 else unit_maps(maps), sensitivity


def draw_noise(shape: tuple[int, int, int], std: float, rng: np.random.RandomState) -> Tensor:
    """Draw complex Gaussian noise ``(coil, h, w)``, ``E |n|^2 = std^2``, with random correlation between coils.

    The mean correlation is 0 to 0.35. :func:`spinwarp.data.simulation.correlated_noise` draws the same distribution
    from numpy's generator, but takes three times as long.
    """
    factor = np.linalg.cholesky(coil_covariance(shape[0], rng.uniform(0, 0.35), rng)) if shape[0] > 1 else np.eye(1)
    generator = torch.Generator().manual_seed(int(rng.randint(2**31)))
    white = torch.randn(shape[0], shape[1] * shape[2], dtype=torch.complex64, generator=generator)
    return (torch.from_numpy(std * factor).to(torch.complex64) @ white).reshape(shape)


def draw_window(shape: tuple[int, int], rng: np.random.RandomState) -> tuple[slice, slice]:
    """Draw the rows and columns of k-space that the scanner acquires; most scans acquire all of them.

    Other scans omit the edges on both sides (zero padding) or on one side (asymmetric echo along the readout, partial
    Fourier along the phase direction), but never the centre.
    """
    windows = []
    for n, padded, partial in zip(shape, (0.08, 0.25), (0.1, 0.1), strict=True):
        draw = rng.uniform()
        first, last = 0, n
        if draw < padded:
            first = round(n * rng.uniform(0.02, 0.2))
            last = n - first
        elif draw < padded + partial:
            cut = round(n * rng.uniform(0.1, 0.38))
            first, last = (cut, n) if rng.uniform() < 0.5 else (0, n - cut)
        windows.append(slice(first, last))
    return windows[0], windows[1]


def _loops(
    n_coils: int, shape: tuple[int, int], head: tuple[np.ndarray, np.ndarray], rng: np.random.RandomState
) -> np.ndarray:
    """Return the sensitivities ``(n_coils, n, n)`` of loops on rings around the main field and the head."""
    y, x = _coordinates()
    scale = np.array(shape) / max(shape)  # the larger side is two; pixels are assumed square
    points = np.stack([y * scale[0] + 0 * x, x * scale[1] + 0 * y, 0 * y + 0 * x]).reshape(3, -1).astype(np.float32)
    middle = np.append(head[0] * scale, 0)
    half = np.append(head[1] * scale, 0)
    half[2] = half[:2].mean()
    along = rng.choice((2, 0, 1), p=(0.5, 0.3, 0.2))  # axis of the main field: perpendicular to the slice, or in it
    first, second = (axis for axis in range(3) if axis != along)
    n_rings = 1 if n_coils < 6 else rng.randint(1, 2 + n_coils // 6)
    ring = np.arange(n_coils) % n_rings
    n_ring = np.bincount(ring)[ring]
    turn = 2 * np.pi * (np.arange(n_coils) // n_rings / n_ring + 0.5 * ring / n_rings + 0.03 * rng.randn(n_coils))
    turn += rng.uniform(0, 2 * np.pi)
    height = (ring - (n_rings - 1) / 2) * 1.3 / n_rings + 0.1 * rng.randn(n_coils)
    gap = rng.uniform(1.15, 1.6)
    normal = np.zeros((n_coils, 3))
    normal[:, first], normal[:, second] = np.cos(turn), np.sin(turn)
    centers = middle + gap * half * normal
    centers[:, along] = middle[along] + height * half[along]
    normal += 0.12 * rng.randn(n_coils, 3)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    radius = half.mean() * np.clip(3.6 / n_ring, 0.35, 0.8) * rng.uniform(0.85, 1.15, n_coils)
    one = np.cross(normal, np.eye(3)[along])
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    two = np.cross(normal, one)
    angle = 2 * np.pi * (np.arange(_SEGMENTS) + 0.5) / _SEGMENTS
    cos, sin = np.cos(angle)[None, :, None], np.sin(angle)[None, :, None]
    wire = (centers[:, None] + radius[:, None, None] * (cos * one[:, None] + sin * two[:, None])).astype(np.float32)
    current = (cos * two[:, None] - sin * one[:, None]).astype(np.float32) * radius[:, None, None].astype(np.float32)
    # B = sum of I x r / r^3 over the wire, with each product of I and r as a matrix product
    square = (wire**2).sum(-1)[..., None] - 2 * wire @ points + (points**2).sum(0)
    cube = (square + np.float32(0.15) ** 2) ** np.float32(-1.5)  # a wire of finite width
    across = np.cross(current, -wire)  # I x (p - wire) = I x p - I x wire
    field = np.einsum("csi,csp->cip", across, cube)
    turned = np.einsum("csi,csp->cip", current, cube)
    field = field + np.cross(turned, points[None], axis=1)
    maps = field[:, first] - 1j * field[:, second]
    receiver = np.exp(2j * np.pi * rng.uniform(size=(n_coils, 1, 1)))
    return np.asarray(maps.reshape(n_coils, _NODES, _NODES) * receiver, np.complex64)


def _coordinates() -> tuple[np.ndarray, np.ndarray]:
    axis = np.linspace(-1, 1, _NODES, dtype=np.float32)
    return axis[:, None], axis


@lru_cache(maxsize=256)
def _spline(n: int, size: int) -> Tensor:
    """Return the matrix ``(size, n)`` from nodes on [-1, 1] to pixels, with pixel size // 2 at 0."""
    at = (np.arange(size) - size // 2) * (2 / size)
    return torch.from_numpy(CubicSpline(np.linspace(-1, 1, n), np.eye(n))(at).astype(np.float32))
