"""What ``conformal=FOLDER`` does: a method's claims, scaled by the calibration in a result folder of its own."""

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
    """Return the method with deviations that cover ``level`` of the foreground of a volume like those of ``folder``.

    Where the guarantee is lost, a warning says so: on another data set or mask, or on the volumes of calibration.

    Parameters
    ----------
    folder : a result folder of evaluate.py with the same method, on a split of its own.
    level : the promised coverage.
    method : the name under which it is run now.
    mask, dataset, volumes : of what is reconstructed; None or empty where that is not known.

    Raises
    ------
    InputError : if the folder holds no calibration, that of another method, or one that promises no such coverage.
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
    log.info("conformal: %.4g claimed deviations hold %g %% of the foreground, by %s", factor, 100 * level, known)
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
