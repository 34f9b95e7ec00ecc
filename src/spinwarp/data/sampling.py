"""Which samples of k-space were measured; every reader asks here."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import h5py
import numpy as np

from spinwarp.errors import InputError

log = logging.getLogger(__name__)

# Magnitudes are relative to the root mean square of a slice. The noise of a scan is above 1e-3, since no image has a
# signal-to-noise ratio of a thousand; the rounding residue of zeros in single precision is below 1e-6.
_ROUNDING = 1e-4
_LINE_GAP, _POINT_GAP = 30, 3  # factor between rounding and the weakest line, or point, that was measured
_LEAK = 1e-4  # fraction of the energy that a conversion may spill where nothing was measured
_OFF_CENTRE = 10  # times the power about the centre: a line this strong is not near the centre
_STRONG = 4  # times the power of the weakest acquired line, at which a line in the padding is more than noise
_HOLES = 0.02  # fraction of a sampled line that may be zero by chance, as quantised noise is

KSpace: TypeAlias = h5py.Dataset | np.ndarray
_said: set[tuple[Path, str]] = set()


def read_slice(
    path: Path, volume: KSpace, stored: h5py.Dataset | None, index: int, columns: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read one slice and find out which of its samples were measured.

    Samples count as measured inside the stored mask and the acquired columns, if the file has them, except in lines
    and rows that hold only zeros or rounding. For a slice of zeros the slice nearest to the middle of the volume
    decides. A mask that hides signal is refused: it belongs to other data, or was never applied.

    Parameters
    ----------
    path : of the file, for messages.
    volume : k-space ``(slice, [coil,] h, w)``.
    stored : the data set ``mask`` of the file, already checked by :func:`check_mask`.
    index : of the slice.
    columns : first acquired column and the one after the last, from the header.

    Returns
    -------
    kspace : ``(coil, h, w)`` complex64, zero where it was not measured.
    mask : bool ``(1, w)``, or ``(h, w)`` if rows are missing or single points were sampled.

    Raises
    ------
    InputError : if measured k-space is not finite, all slices are zero, or the stored mask hides signal.
    """
    kspace = _slice(volume, index)
    if stored is None and _is_full(kspace, columns):
        full = np.zeros((1, kspace.shape[-1]), dtype=bool)
        full[:, slice(*(columns or (None, None)))] = True
        return kspace, full
    per_slice = stored is not None and _per_slice(stored.shape, volume.shape)
    allowed = None if stored is None else _stored(path, stored, index, volume.shape)
    peak = _peak(kspace, allowed)
    if not np.isfinite(peak).all():
        hint = "; put zeros where nothing was measured" if allowed is None else " where its mask marks it as measured"
        raise InputError(f"{path} has NaN or infinite k-space in slice {index}{hint}")
    empty = not peak.any()
    if empty:
        peak = _another(path, volume, None if per_slice else allowed)
    if _is_off_centre(peak):
        warn_once_per_folder(
            path,
            "k-space is strongest far from its centre (h // 2, w // 2)",
            "if its zero frequency is not there, masks and images are wrong; numpy.fft.fftshift(kspace, axes=(-2, -1)) "
            "moves it there",
        )
    if allowed is None:
        mask = _sampled(peak)
    else:
        mask = allowed if empty and per_slice else _agreed(path, allowed, peak, columns)
    if columns is not None:
        acquired = np.zeros_like(mask[:1])
        acquired[:, slice(*columns)] = True
        if (mask & ~acquired).any():
            outside = f"k-space is not zero outside the acquired columns {columns[0]} to {columns[1] - 1}"
            warn_once_per_folder(path, outside, "it is treated as padding and not used")
        mask = mask & acquired
    if not mask.any():
        raise InputError(f"{path}: according to its mask and header nothing of slice {index} was measured; repair them")
    if not mask.all():
        kspace = np.where(mask, kspace, 0)
    return kspace, mask


def sampling_mask(kspace: np.ndarray) -> np.ndarray:
    """Return where ``(coil, h, w)`` was measured: bool ``(1, w)`` if all rows were, else ``(h, w)``.

    Zeros count as not measured, and so does their rounding residue: lines, rows or points that are far weaker than
    the others and weaker than any scanner's noise.
    """
    return _sampled(_peak(kspace))


def padding_has_signal(volume: KSpace, columns: tuple[int, int]) -> bool:
    """Tell whether a volume has signal outside the columns that its header calls acquired: that header is wrong.

    Noise and what a conversion spills there are no signal. One coil of the slice nearest to the middle that is not zero
    is looked at.

    Parameters
    ----------
    volume : k-space ``(slice, [coil,] h, w)``.
    columns : first acquired column and the one after the last.
    """
    middle = len(volume) // 2
    for index in sorted(range(len(volume)), key=lambda i: abs(i - middle)):
        for one in np.ndindex(*volume.shape[1:-2]):
            peak = _peak(np.array(volume[(index, *one)], dtype=np.complex64)[None])
            peak[~np.isfinite(peak)] = 0
            if peak.any():
                power = np.square(peak / peak.max(), dtype=np.float64).mean(axis=0)
                sampled, _ = _lines(peak)
                acquired = np.zeros_like(sampled)
                acquired[slice(*columns)] = True
                if not (sampled & acquired).any():
                    return True
                beyond = power[sampled & ~acquired]
                weakest = power[sampled & acquired].min()
                return bool(beyond.sum() > _LEAK * power.sum() and beyond.max() > _STRONG * weakest)
    return False


def check_mask(path: Path, mask: object, shape: Sequence[int]) -> None:
    """Check the type and shape of a stored mask against k-space ``(slice, [coil,] h, w)``.

    Raises
    ------
    InputError : if the mask is not a data set of numbers, or its shape fits in no way or in two ways.
    """
    n, h, w = shape[0], *shape[-2:]
    fitting = f"({w},), ({h}, {w}), ({n}, 1, {w}) or ({n}, {h}, {w})"
    if not isinstance(mask, h5py.Dataset) or mask.dtype.kind not in "biuf":
        what = "a group" if isinstance(mask, h5py.Group) else f"of type {getattr(mask, 'dtype', None)}"
        raise InputError(f"{path}: its mask is {what}; numbers or bool of shape {fitting} are expected")
    found = mask.shape or ()  # an empty data set has none
    shared, per_slice = _shared(found, shape), _per_slice(found, shape)
    if not (shared or per_slice):
        raise InputError(
            f"{path}: its mask {found} does not fit its k-space {tuple(shape)}; expected is {fitting}; if it "
            f"is not a sampling mask, give it another name"
        )
    if shared and per_slice:
        raise InputError(
            f"{path}: its mask {found} may be one (h, w) mask for all slices or one line of columns per slice; "
            f"store it as (1, {h}, {w}) or ({n}, 1, {w})"
        )


def _shared(mask: Sequence[int], volume: Sequence[int]) -> bool:
    """Return whether the shape is that of one mask for all slices."""
    rest = mask[:-1]
    return len(mask) > 0 and mask[-1] == volume[-1] and set(rest[:-1]) <= {1} and set(rest[-1:]) <= {1, volume[-2]}


def _per_slice(mask: Sequence[int], volume: Sequence[int]) -> bool:
    """Return whether the shape is that of one mask per slice."""
    return len(mask) > 1 and mask[0] == volume[0] > 1 and _shared(mask[1:], volume)


def _stored(path: Path, dataset: h5py.Dataset, index: int, shape: Sequence[int]) -> np.ndarray:
    """Return the stored mask of a slice, bool ``(1 or h, w)``."""
    values = np.asarray(dataset[index] if _per_slice(dataset.shape, shape) else dataset[()])
    values = values.reshape(-1, shape[-1])
    if not np.isfinite(values).all():
        raise InputError(
            f"{path}: its mask has NaN or infinite values; expected is 1 where k-space was measured, 0 elsewhere"
        )
    allowed: np.ndarray = values > 0.5
    if not allowed.any():
        raise InputError(f"{path}: its mask says that nothing of slice {index} was measured; repair or remove it")
    return allowed


def _agreed(path: Path, allowed: np.ndarray, peak: np.ndarray, columns: tuple[int, int] | None) -> np.ndarray:
    """Return what is measured by both the stored mask and the data; see :func:`read_slice`."""
    has_columns, has_rows = _lines(peak)
    lines = has_columns & has_rows[:, None]
    inside = slice(*(columns or (0, len(has_columns))))
    silent = int((allowed.any(axis=0) & ~has_columns)[inside].sum())
    if len(allowed) > 1:
        silent += int((allowed.any(axis=1) & ~has_rows).sum())
    hidden = lines & _loud(peak, _POINT_GAP) & ~allowed
    energy = np.square(peak / peak.max(), dtype=np.float64)
    if hidden.any() and silent:
        raise InputError(
            f"{path}: its mask belongs to other data: {silent} lines that it marks as measured are zero in k-space, "
            f"and {int(hidden.any(axis=0).sum())} columns that it marks as not measured hold signal; "
            f"repair or remove the data set 'mask' (1 where measured, in the order of k-space)"
        )
    if energy[hidden].sum() > _LEAK * energy.sum():
        raise InputError(
            f"{path}: {int(hidden.any(axis=0).sum())} columns of k-space that its mask marks as not measured hold "
            f"signal. Multiply k-space by the mask, or remove the data set 'mask' to use all of k-space"
        )
    if hidden.any():
        warn_once_per_folder(
            path, "there is weak signal where the mask says that nothing was measured", "it is not used"
        )
    measured = allowed & lines
    filled = _without_holes(measured, peak)
    if silent or filled is not measured:
        what = "lines" if silent else "points"
        warn_once_per_folder(
            path, f"{what} that the mask calls measured are zero in k-space", "they count as not measured"
        )
    return _compact(filled)


def _slice(volume: KSpace, index: int) -> np.ndarray:
    if isinstance(volume, h5py.Dataset) and volume.dtype == np.complex64:
        kspace = np.empty(volume.shape[1:], np.complex64)
        volume.read_direct(kspace, np.s_[index])  # h5py would zero the memory first
    else:
        kspace = np.array(volume[index], dtype=np.complex64)
    return kspace if kspace.ndim == 3 else kspace[None]


def _is_full(kspace: np.ndarray, columns: tuple[int, int] | None) -> bool:
    """Whether a few coils already show that all acquired columns were measured; False may also mean that they do not.

    No sample is weak (:func:`_loud`) that is above ``_ROUNDING`` times the root mean square, and that of the largest
    parts over coils is at most the root of the energy of all coils by the number of pixels.
    """
    h, w = kspace.shape[-2:]
    first, last = columns or (0, w)
    if kspace[..., :first].any() or kspace[..., last:].any():
        return False
    parts = np.ascontiguousarray(kspace).reshape(-1).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        energy = float(np.dot(parts, parts))  # one pass; not finite if any sample is not
    if not 1e-36 * parts.size < energy < np.inf:  # squares of very weak samples are lost
        return False
    # rows have the padding too, and single precision may lose a part of the sum
    floor = _ROUNDING * (2 * energy / (h * (last - first))) ** 0.5
    peak = np.zeros((h, w), np.float32)
    for coil in kspace:
        np.maximum(peak, _peak(coil[None]), out=peak)
        if peak[:, first:last].min() > floor:
            return not _is_off_centre(peak)
    return False


def _another(path: Path, volume: KSpace, allowed: np.ndarray | None) -> np.ndarray:
    """Return the magnitudes of the nonzero slice nearest to the middle."""
    middle = len(volume) // 2
    for index in sorted(range(len(volume)), key=lambda i: abs(i - middle)):
        peak = _peak(_slice(volume, index), allowed)
        if peak.any() and np.isfinite(peak).all():
            return peak
    raise InputError(f"{path} has nothing but zeros in its k-space")


def _peak(kspace: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
    """Return the largest real or imaginary part over the coils, ``(h, w)``; squares of raw data could overflow."""
    kspace = np.ascontiguousarray(kspace)
    parts = kspace.view(kspace.real.dtype)
    largest = np.abs(parts[0])
    for coil in parts[1:]:  # one at a time stays in the cache
        np.maximum(largest, np.abs(coil), out=largest)
    peak: np.ndarray = np.maximum(largest[..., ::2], largest[..., 1::2])
    if allowed is not None:
        peak[~(allowed | np.isfinite(peak))] = 0  # some files have NaN for missing samples
    return peak


def _sampled(peak: np.ndarray) -> np.ndarray:
    columns, rows = _lines(peak)
    return _compact(_without_holes(columns & rows[:, None], peak))


def _without_holes(mask: np.ndarray, peak: np.ndarray) -> np.ndarray:
    """``mask`` without its points that hold nothing, unless they are so few that they may be zero by chance."""
    points: np.ndarray = mask & _loud(peak, _POINT_GAP)
    return mask if points.sum() >= (1 - _HOLES) * mask.sum() else points


def _compact(mask: np.ndarray) -> np.ndarray:
    """Return ``(h, w)`` as ``(1, w)`` if all rows are equal."""
    return mask[:1] if (mask == mask[:1]).all() else mask


def _lines(peak: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which columns ``(w,)`` and rows ``(h,)`` hold more than rounding."""
    power = np.square(peak / (peak.max() or 1), dtype=np.float64)
    return tuple(_loud(np.sqrt(power.mean(axis=axis)), _LINE_GAP) for axis in (0, 1))  # type: ignore[return-value]


def _is_off_centre(peak: np.ndarray) -> bool:
    """Whether the strongest column or row is far from the central one, as with zero frequency in the corner."""
    scaled = peak / (peak.max() or 1)
    for level in (np.einsum("hw,hw->w", scaled, scaled), np.einsum("hw,hw->h", scaled, scaled)):
        n = len(level)
        near = level[n // 2 - n // 4 : n // 2 + n // 4 + 1]
        if level.max() > _OFF_CENTRE * near.max():
            return True
    return False


def _loud(level: np.ndarray, gap: float) -> np.ndarray:
    """Return which magnitudes are more than rounding: those above the last wide gap between weak ones."""
    scaled = level / (level.max() or 1)
    floor = _ROUNDING * np.sqrt(np.square(scaled, dtype=np.float64).mean())
    weak = np.sort(scaled[scaled <= floor], axis=None)
    if not len(weak):
        return np.ones(level.shape, dtype=bool)
    weak = np.append(weak, scaled[scaled > floor].min())
    gaps = np.flatnonzero(weak[1:] >= gap * weak[:-1])
    return scaled > weak[gaps[-1]] if len(gaps) else np.ones(level.shape, dtype=bool)


def warn_once_per_folder(path: Path, what: str, so: str) -> None:
    """Log something odd about a file, once for all files of its folder."""
    if (path.parent, what) not in _said:
        _said.add((path.parent, what))
        log.warning("%s: %s; %s (said once for all files of its folder)", path.name, what, so)
