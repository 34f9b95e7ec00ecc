"""Echo-planar readouts: samples on gradient ramps, and lines read in both directions."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spinwarp.data.raw.lines import Samples
from spinwarp.errors import InputError

_LONGEST = 4096  # samples of a readout, of which the regridding takes the square
_WORST = 100  # condition of the regridding; that of real trapezoids is below 5


@dataclass(frozen=True)
class Ramps:
    """A trapezoidal readout gradient and when it was sampled, in microseconds.

    Parameters
    ----------
    up, flat, down : length of its parts.
    delay : from its beginning to that of the sampling.
    duration : of the sampling.
    """

    up: float
    flat: float
    down: float
    delay: float
    duration: float

    def places(self, n: int) -> np.ndarray:
        """Return where ``n`` samples lie in k-space, in steps of even sampling from -n / 2 to n / 2."""
        times = self.delay + (np.arange(n) + 0.5) * self.duration / n
        first, last = self._area(np.array([self.delay, self.delay + self.duration]))
        return (self._area(times) - (first + last) / 2) / (last - first) * n

    def _area(self, time: np.ndarray) -> np.ndarray:
        """Return the integral of the gradient, whose plateau is one, up to a time."""
        rising = np.minimum(time, self.up) ** 2 / (2 * self.up) if self.up else 0 * time
        flat = np.clip(time - self.up, 0, self.flat)
        left = np.clip(self.up + self.flat + self.down - time, 0, self.down)
        falling = (self.down**2 - left**2) / (2 * self.down) if self.down else 0 * time
        return rising + flat + falling


def corrected(
    path: Path,
    samples: Samples,
    reverse: np.ndarray,
    keys: np.ndarray,
    images: np.ndarray,
    navigators: np.ndarray,
    size: tuple[int, int],
    ramps: Ramps | None,
) -> Samples:
    """Return what reads readouts as even samples without oversampling, all in one direction.

    A readout is the Fourier transform of a line of the image at the places of its samples; the line is found by least
    squares. Lines that were read backwards get the phase, constant and linear along the readout, by which the
    navigators of the two directions differ (Bruder et al., MRM 23, 1992). Navigators of the same image are used, or
    those of the same slice.

    Parameters
    ----------
    path : of the file, for messages.
    samples : reads readouts as they were measured.
    reverse : which of all readouts of the file were read backwards.
    keys : of all readouts, (readout, counters), the slice first; equal for those of one image.
    images, navigators : numbers of the readouts with and without phase encoding.
    size : samples of a readout, and rows of the image without oversampling.
    ramps : None for even samples.

    Raises
    ------
    InputError : if a direction has no navigator, or the gradient of the header cannot be.
    """
    n, rows = size
    if n > _LONGEST:
        raise InputError(f"{path}: this is EPI with {n} samples to a readout, and at most {_LONGEST} are supported")
    places = np.arange(n) - n // 2 if ramps is None else ramps.places(n)
    wave = np.exp(-2j * np.pi * np.outer(places, np.arange(rows) - rows // 2) / n) / np.sqrt(n)
    if not np.isfinite(wave).all() or np.linalg.cond(wave) > _WORST:
        raise InputError(f"{path}: its header states a readout gradient that cannot be ({ramps}); copy it again")
    to_image = np.linalg.pinv(wave)
    position = np.arange(rows) - rows // 2
    back = np.exp(-2j * np.pi * np.outer(position, position) / rows) / np.sqrt(rows)

    def line(number: int, data: np.ndarray) -> np.ndarray:
        return (data[:, ::-1] if reverse[number] else data) @ to_image.T

    of_image: dict[tuple[int, ...], list[int]] = {}
    of_slice: dict[int, list[int]] = {}
    for number in navigators.tolist():
        of_image.setdefault(tuple(keys[number].tolist()), []).append(number)
        of_slice.setdefault(int(keys[number][0]), []).append(number)
    phases: dict[tuple[int, ...], np.ndarray] = {}

    def reference(key: tuple[int, ...]) -> np.ndarray:
        for found in (of_image.get(key, []), of_slice.get(key[0], [])):
            if len({*reverse[found].tolist()}) > 1:
                return np.array(found)
        raise InputError(
            f"{path}: this is EPI, whose lines were read in both directions, without reference lines in both; that is "
            f"not supported"
        )

    def phase(key: tuple[int, ...]) -> np.ndarray:
        if key not in phases:
            found = reference(key)
            lines = np.array([line(k, data) for k, data in zip(found.tolist(), samples(found), strict=True)])
            forth, backwards = lines[~reverse[found]].mean(0), lines[reverse[found]].mean(0)
            product = (forth * backwards.conj()).sum(axis=0)
            slope = np.angle((product[1:] * product[:-1].conj()).sum())
            phases[key] = np.exp(1j * (slope * position + np.angle((product * np.exp(-1j * slope * position)).sum())))
        return phases[key]

    for key in np.unique(keys[images[reverse[images]]], axis=0).tolist():
        reference(tuple(key))

    def read(indices: np.ndarray) -> Iterator[np.ndarray]:
        for number, data in zip(indices.tolist(), samples(indices), strict=True):
            image = line(number, data)
            if reverse[number]:
                image = image * phase(tuple(keys[number].tolist()))
            yield (image @ back.T).astype(np.complex64)

    return read
