"""The problem of ``classical.py``, and the stopwatch that its solvers run under."""

import time
from typing import Any

import numpy as np

# amplitude, half axes, centre, angle of the ellipses of sigpy.shepp_logan in the plane it draws
_ELLIPSES = (
    (1, 0.69, 0.92, 0, 0, 0),
    (-0.8, 0.6624, 0.874, 0, -0.0184, 0),
    (-0.2, 0.11, 0.31, 0.22, 0, -18),
    (-0.2, 0.16, 0.41, -0.22, 0, 18),
    (0.1, 0.19543, 0.23265, 0, 0.35, 0),
    (0.1, 0.046, 0.046, -0.08, -0.605, 0),
    (0.1, 0.023, 0.023, 0, -0.606, 0),
    (0.1, 0.023, 0.023, 0.06, -0.605, 0),
)


def problem(n_coils: int, h: int, w: int, n_acs: int) -> dict[str, np.ndarray]:
    """Return image ``(h, w)``, maps and k-space ``(coil, h, w)`` and mask ``(w,)`` of a 4x acquisition."""
    rng = np.random.RandomState(0)
    y, x = (np.arange(h)[:, None] - h // 2) / (h / 2), (np.arange(w) - w // 2) / (w / 2)
    image = np.zeros((h, w), np.complex64)
    for amplitude, a, b, cx, cy, degrees in _ELLIPSES:
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        image[((c * x + s * y - cx) / a) ** 2 + ((c * y - s * x - cy) / b) ** 2 <= 1] += amplitude
    angle = 2 * np.pi / n_coils * np.arange(n_coils)[:, None, None]
    dx, dy = x - 1.5 * np.cos(angle), y - 1.5 * np.sin(angle)  # birdcage: legs on a circle of 1.5 half widths
    maps = np.exp(1j * (np.arctan2(dx, -dy) - angle)) / np.hypot(dx, dy)
    maps = (maps / np.linalg.norm(maps, axis=0)).astype(np.complex64)
    mask = rng.rand(w) < (w / 4 - n_acs) / (w - n_acs)
    mask[(w - n_acs) // 2 :][:n_acs] = True
    noise = 0.01 / np.sqrt(2) * (rng.randn(n_coils, h, w) + 1j * rng.randn(n_coils, h, w))
    shifted = np.fft.fft2(np.fft.ifftshift(maps * image, axes=(-2, -1)), norm="ortho")
    kspace = ((np.fft.fftshift(shifted, axes=(-2, -1)) + noise) * mask).astype(np.complex64)
    return {"image": image, "maps": maps, "mask": mask, "kspace": kspace, "n_acs": np.array(n_acs)}


class Watch:
    """A stopwatch for a solver, paused while it measures an iterate; ends the solver with StopIteration.

    Parameters
    ----------
    truth : the image.
    iterations : number of iterates after which the solver ends.
    target : error below which it ends sooner.
    """

    def __init__(self, truth: np.ndarray, iterations: int, target: float) -> None:
        self.truth, self.iterations, self.target = truth, iterations, target
        self.seconds: list[float] = []
        self.errors: list[float] = []
        self._elapsed = 0.0

    def start(self) -> None:
        """Start; a solver calls it once it has converted the data to its own types."""
        self._since = time.perf_counter()

    def __call__(self, x: Any) -> None:
        """Record an iterate."""
        self._elapsed += time.perf_counter() - self._since
        self.image = np.asarray(x).reshape(self.truth.shape).copy()
        self.seconds.append(self._elapsed)
        self.errors.append(float(np.sum(np.abs(self.image - self.truth) ** 2) / np.sum(np.abs(self.truth) ** 2)))
        if len(self.errors) == self.iterations or self.errors[-1] < self.target:
            raise StopIteration
        self.start()
