"""Scans of pulseq sequences that do not label their lines: the scanner only counts the readouts."""

import logging
from pathlib import Path

import numpy as np

from spinwarp.acquisition import Header
from spinwarp.data.raw.lines import Samples, Scan
from spinwarp.errors import InputError

log = logging.getLogger(__name__)
_ONE = 0.9  # share of the energy in one of several blocks that only interleaved echoes give


def unlabelled(
    path: Path, lines: np.ndarray, counter: np.ndarray, samples: Samples, header: Header, noise: np.ndarray | None
) -> Scan:
    """Return the scan of a sequence that measured all lines in order; what is assumed is logged.

    The matrix is taken to be square, since nothing states it, and without oversampling. Several times as many lines are
    several echoes or repetitions: echoes that follow each other line by line have their energy, the centre of k-space,
    in the middle of the scan, and images one after the other have a centre each. The field of view is not known, so
    there is no geometry.

    Parameters
    ----------
    lines : array of :data:`spinwarp.data.raw.lines.READOUT`; column and contrast are filled in.
    counter : of each readout.
    samples, header, noise : see :class:`spinwarp.data.raw.lines.Scan`.

    Raises
    ------
    InputError : if the lines do not make up square images.
    """
    n, total = int(lines["samples"][0]), int(counter.max()) + 1
    images, rest = divmod(total, n)
    label = "label its lines in the sequence (LIN, ECO, SLC, REV), or convert the file to MRD with their places"
    if rest or not images or len(set(lines["samples"].tolist())) > 1:
        raise InputError(
            f"{path}: its pulseq sequence does not label its {total} lines of {n} samples, which make no square image; "
            f"{label}"
        )
    what = f"{total} lines in order of one image"
    lines["column"] = counter % n
    if images > 1:
        energy = np.zeros(total)
        for i, data in zip(counter, samples(np.arange(len(lines))), strict=True):
            energy[i] += float(np.square(np.abs(data)).sum())
        blocks = energy.reshape(images, n).sum(1)
        if blocks.max() > _ONE * blocks.sum():
            lines["column"], lines["contrast"] = counter // images, counter % images
            what = f"{images} echoes of {n} lines, which follow each other line by line"
        else:
            lines["repetition"] = counter // n
            what = f"{images} repetitions of {n} lines"
    log.warning(
        "%s: its pulseq sequence does not label its lines; they are taken as %s, without oversampling, their centre in "
        "the middle, and the images have no geometry. If that is wrong, %s",
        path.name,
        what,
        label,
    )
    return Scan(lines, samples, (n, n, 1), n, 1, header, lambda _: None, noise)
