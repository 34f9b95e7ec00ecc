"""``conformal=FOLDER``: scale a method's standard deviation by the calibration in one of its result folders."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spinwarp.recon import Reconstructor

log = logging.getLogger("spinwarp")


def conformal(
    reconstructor: "Reconstructor",
    folder: str,
    level: float,
    *,
    method: str,
    mask: str | None,
    dataset: str | None = None,
    volumes: Sequence[str] = (),
) -> "Reconstructor":
    """Return the method with a standard deviation that covers ``level`` of the foreground of volumes like those there.

    A warning says where the guarantee is lost: on another data set or mask, or on the calibration volumes themselves.

    Parameters
    ----------
    folder : of the results of the same method on another split.
    level : the promised coverage.
    method : its present name.
    mask, dataset, volumes : of the data to reconstruct; None or empty if unknown.

    Raises
    ------
    InputError : if the folder holds no calibration or that of another method, or it cannot promise this coverage.
    """
    from spinwarp.errors import InputError
    from spinwarp.recon.conformal import Conformal
    from spinwarp.results import CALIBRATION, read_calibration
    from spinwarp.uncertainty import conformal_factor

    path = Path(folder) / CALIBRATION
    curves = read_calibration(path)
    if curves.method != method:
        raise InputError(
            f"{path} calibrates the method {curves.method}, not {method}; evaluate {method} on another split "
            f"and give that folder"
        )
    # a volume without foreground has nothing to cover
    exceedances = [volume.exceedance for volume in curves.volumes if volume.n_pixels]
    factor = conformal_factor(np.array(curves.factors), exceedances, level)
    known = f"{len(exceedances)} volumes of {curves.dataset}, mask {curves.mask}"
    log.info("conformal: %.4g standard deviations hold %g %% of the foreground, by %s", factor, 100 * level, known)
    if (dataset or curves.dataset, mask or curves.mask) != (curves.dataset, curves.mask):
        log.warning(
            "%s was calibrated on %s; on another data set or mask the conformal intervals promise nothing", path, known
        )
    seen = sorted({volume.volume for volume in curves.volumes} & set(volumes))
    if seen and curves.dataset == dataset:
        log.warning(
            "the conformal intervals were calibrated on %d of the %d volumes that are evaluated (%s, ...): their "
            "coverage says nothing about new data",
            len(seen),
            len(volumes),
            seen[0],
        )
    return Conformal(reconstructor, factor, level)
