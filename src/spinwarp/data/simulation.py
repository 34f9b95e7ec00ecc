"""The physics of a simulated acquisition: phase, coil sensitivities, noise.

Every draw comes from a ``numpy.random.RandomState``, whose stream is the same in every release of numpy.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy.io import loadmat
from scipy.ndimage import gaussian_filter, map_coordinates

from spinwarp.errors import InputError
from spinwarp.files import as_input_error
from spinwarp.fourier import fftc

_SEGMENTS = 24


def smooth_field(shape: tuple[int, ...], smoothness: float | Sequence[float], rng: np.random.RandomState) -> np.ndarray:
    """Draw a smooth random field: white noise through a Gaussian filter.

    Parameters
    ----------
    shape : of the field, any number of dimensions.
    smoothness : standard deviation of the filter in pixels, one for all axes or one per axis.

    Returns
    -------
    ``shape`` float32 with mean zero and standard deviation one; zero for a single pixel.
    """
    field = gaussian_filter(rng.standard_normal(shape).astype(np.float32), smoothness)
    field -= field.mean()
    std = float(field.std())
    return np.asarray(field / std if std > 0 else field, np.float32)


def smooth_phase(shape: tuple[int, int], rng: np.random.RandomState) -> np.ndarray:
    """Draw a smooth image phase: a quadratic polynomial plus a smooth field.

    The amplitudes are those of scanner images. An echo off the centre of k-space gives up to about ten radians of
    linear phase across the field of view, field inhomogeneity a bowl of up to a radian; the rest is 0.1 to 0.9 rad.

    Returns
    -------
    ``(h, w)`` float32 in radians, not wrapped.
    """
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    y = y[:, None]
    constant, x1, y1, x2, y2, xy = rng.randn(6) * (np.pi, 1.5, 2.5, 0.5, 0.5, 0.4)
    rest = np.exp(rng.uniform(np.log(0.1), np.log(0.7)))
    field = smooth_field(shape, max(shape) * rng.uniform(0.08, 0.16), rng)
    phase = constant + x1 * x + y1 * y + x2 * x**2 + y2 * y**2 + xy * x * y + rest * field
    return np.asarray(phase, np.float32)


def loop_coil_maps(n_coils: int, shape: tuple[int, int], rng: np.random.RandomState) -> np.ndarray:
    """Simulate receive sensitivities of circular loops around the field of view by the law of Biot and Savart.

    The loops are spaced evenly on an ellipse around the image, with jitter of position, size and tilt. The main field
    is perpendicular to the slice, so a loop receives ``B_x - i B_y`` (Hoult, Concepts Magn Reson 12:173, 2000). One
    coil is a volume coil: a map of ones.

    Returns
    -------
    ``(n_coils, h, w)`` complex64 with a sum of squares of one in every pixel.
    """
    if n_coils == 1:
        return np.ones((1, *shape), np.complex64)
    h, w = (n / max(shape) for n in shape)  # half the height and width; the unit is half the larger
    y, x = np.linspace(-h, h, shape[0], dtype=np.float32)[:, None], np.linspace(-w, w, shape[1], dtype=np.float32)
    maps = np.empty((n_coils, *shape), np.complex64)
    start = rng.uniform(0, 2 * np.pi)
    for i in range(n_coils):
        angle = start + 2 * np.pi * (i + 0.15 * rng.randn()) / n_coils
        radius = np.clip(3.6 / n_coils, 0.3, 0.7) * rng.uniform(0.85, 1.15)
        center = np.array([1.15 * w * np.cos(angle), 1.15 * h * np.sin(angle), 0.15 * rng.randn()])
        normal = np.array([np.cos(angle), np.sin(angle), 0]) + 0.12 * rng.randn(3)
        normal /= np.linalg.norm(normal)
        in_plane = np.cross(normal, (0, 0, 1))
        in_plane /= np.linalg.norm(in_plane)
        field = _loop_field(x, y, center, radius, in_plane, np.cross(normal, in_plane))
        maps[i] = field * np.exp(1j * rng.uniform(0, 2 * np.pi))  # the receiver's own phase
    return unit_maps(maps)


def measured_coil_maps(
    path: str | Path, n_coils: int, shape: tuple[int, int], rng: np.random.RandomState
) -> np.ndarray:
    """Return measured receive sensitivities, moved at random and compressed to ``n_coils`` virtual coils.

    Parameters
    ----------
    path : MATLAB file with a complex array of sensitivities ``(h, w, coil)``, ignoring axes of length one, over a
        square field of view; for example ``xGT.mat`` of the alignedSENSE package (Cordero-Grande et al., IEEE Trans
        Comput Imaging 2:266, 2016), 128 x 128 x 32.
    n_coils : at most the number of measured coils.

    Returns
    -------
    ``(n_coils, h, w)`` complex64 with a sum of squares of one in every pixel.

    Raises
    ------
    InputError : if the file is missing, is not MATLAB, has no such array or has fewer coils.
    """
    measured = read_maps(Path(path))
    if n_coils > measured.shape[0]:
        raise InputError(f"{path} has {measured.shape[0]} coils, but n_coils={n_coils}; lower n_coils")
    turn, scale = np.deg2rad(rng.uniform(-10, 10)), rng.uniform(0.9, 1.1)
    shift, mirror = rng.uniform(-0.05, 0.05, 2), rng.choice((-1, 1))
    y, x = (np.linspace(-n, n, n) / max(shape) * scale for n in shape)
    y, x = np.broadcast_arrays(y[:, None], x * mirror)
    rows = np.cos(turn) * y - np.sin(turn) * x + shift[0]
    columns = np.sin(turn) * y + np.cos(turn) * x + shift[1]
    size = np.array(measured.shape[1:]).reshape(2, 1, 1)
    at = (np.stack([rows, columns]) + 1) / 2 * (size - 1)
    moved = np.stack([map_coordinates(m, at, order=1, mode="nearest") for m in measured])
    _, vectors = np.linalg.eigh(np.einsum("ihw,jhw->ij", moved, moved.conj()))
    strongest = vectors[:, ::-1][:, :n_coils]
    return unit_maps(np.einsum("ij,ihw->jhw", strongest.conj(), moved))


def correlated_noise(
    n_coils: int, shape: tuple[int, ...], std: float, rng: np.random.RandomState, correlation: float = 0.16
) -> np.ndarray:
    """Draw complex Gaussian noise, white in k-space and correlated between coils.

    Parameters
    ----------
    shape : shape of one coil's data, ``(h, w)`` or ``(slice, h, w)``; all of it has the same covariance.
    std : standard deviation of one complex sample, ``E |n|^2 = std^2``, in every coil.
    correlation : mean magnitude of the correlation of two coils; each pair draws its own magnitude and phase.

    Returns
    -------
    ``(n_coils, *shape)`` complex64.

    Raises
    ------
    ValueError : if the correlation is outside [0, 0.4].
    """
    if not 0 <= correlation <= 0.4:
        raise ValueError(f"correlation is {correlation}, expected 0 to 0.4")
    half = std / np.sqrt(2)
    white = rng.standard_normal((2, n_coils, int(np.prod(shape)))).astype(np.float32)
    noise = (half * white[0] + 1j * half * white[1]).astype(np.complex64)
    if n_coils > 1:
        factor = np.linalg.cholesky(coil_covariance(n_coils, correlation, rng)).astype(np.complex64)
        noise = factor @ noise
    return noise.reshape(n_coils, *shape)


@lru_cache(maxsize=2)
def read_maps(path: Path) -> np.ndarray:
    """Read the sensitivities ``(coil, h, w)`` of a file; see :func:`measured_coil_maps`."""
    if not path.is_file():
        raise InputError(f"there is no file of coil sensitivities at {path}; give the path of a .mat file")
    with as_input_error(path, "MATLAB file up to version 7.2"):
        variables = loadmat(path)
    for value in variables.values():
        array = np.squeeze(value) if isinstance(value, np.ndarray) else np.empty(0)
        if array.ndim == 3 and np.iscomplexobj(array):
            if not array.size or not np.isfinite(array).all() or not (array != 0).any(-1).all():
                raise InputError(f"{path} has sensitivities that are not finite, or zero in every coil; repair it")
            return np.moveaxis(array, -1, 0).astype(np.complex64)
    found = ", ".join(f"{k} {v.shape}" for k, v in variables.items() if isinstance(v, np.ndarray))[:300] or "no array"
    raise InputError(f"{path} holds {found}; expected a complex array of coil sensitivities (h, w, coil)")


def coil_covariance(n_coils: int, correlation: float, rng: np.random.RandomState) -> np.ndarray:
    """Draw the covariance ``(n_coils, n_coils)`` of noise with unit variance and the given mean correlation."""
    # the Gram matrix of unit vectors, shrunk to the requested mean: positive definite, with ones on the diagonal
    vectors = rng.standard_normal((2, n_coils, 3))
    vectors = vectors[0] + 1j * vectors[1]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    gram = vectors @ vectors.conj().T
    mean = np.abs(gram[~np.eye(n_coils, dtype=bool)]).mean()
    weight = min(correlation / mean, 0.99)
    return np.asarray(weight * gram + (1 - weight) * np.eye(n_coils))


def acquire(image: np.ndarray, maps: np.ndarray, noise_std: float, rng: np.random.RandomState) -> np.ndarray:
    """Simulate fully sampled k-space: ``fftc(maps * image)`` plus noise that is correlated between coils.

    Parameters
    ----------
    image : ``(*slices, h, w)`` real or complex.
    maps : ``(coil, h, w)``, the same for all slices.
    noise_std : standard deviation of the noise of a complex k-space sample. The transform is orthonormal, so it is the
        same in an image pixel.

    Returns
    -------
    ``(*slices, coil, h, w)`` complex64.
    """
    coil_images = torch.from_numpy((maps * image[..., None, :, :]).astype(np.complex64, copy=False))
    noise = correlated_noise(maps.shape[0], image.shape, noise_std, rng)
    return fftc(coil_images).numpy() + np.moveaxis(noise, 0, -3)


def _loop_field(
    x: np.ndarray, y: np.ndarray, center: np.ndarray, radius: float, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Return ``B_x - i B_y`` at the points (x, y, 0) for a loop spanned by two unit vectors."""
    angles = 2 * np.pi * (np.arange(_SEGMENTS)[:, None] + 0.5) / _SEGMENTS
    wire = center + radius * (np.cos(angles) * first + np.sin(angles) * second)
    current = (np.cos(angles) * second - np.sin(angles) * first).astype(np.float32)
    field = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.complex64)
    for (px, py, pz), (ix, iy, iz) in zip(wire.astype(np.float32), current, strict=True):
        dx, dy = x - px, y - py
        inverse_cube = (dx**2 + dy**2 + (pz**2 + np.float32(0.1) ** 2)) ** np.float32(-1.5)  # a wire of finite width
        field.real -= (iy * pz + iz * dy) * inverse_cube
        field.imag -= (iz * dx + ix * pz) * inverse_cube
    return field


def unit_maps(maps: np.ndarray) -> np.ndarray:
    """Scale coil maps ``(coil, h, w)`` to a sum of squares of one in every pixel."""
    return np.asarray(maps / np.sqrt((np.abs(maps) ** 2).sum(0)), np.complex64)
