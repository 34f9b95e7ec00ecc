"""How good predicted standard deviations are, in and out of distribution, before and after conformal scaling.

    python evaluate.py recon=METHOD ... split=val out=ROOT/METHOD/calibration
    python evaluate.py recon=METHOD ... split=test out=ROOT/METHOD/test           # and others: ROOT/METHOD/8x, ...
    python benchmarks/uncertainty.py ROOT

makes one Markdown table of the result folders below ``ROOT``. The conformal factor of each method comes from the
volumes of its ``calibration`` folder; it is applied to all others, also where the promise does not hold: that is what
the table is to show. "sparsification" is the area under the curve, in brackets that of a deviation proportional to the
local intensity; the oracle's, which nobody has, is the least that could be.
"""

import argparse
import math
from pathlib import Path

import numpy as np

from spinwarp.errors import InputError
from spinwarp.results import CALIBRATION, RESULTS, read_calibration, read_rows
from spinwarp.uncertainty import conformal_factor

CALIBRATION_SET = "calibration"
_HEADER = ["method", "set", "volumes", "PSNR / dB", "coverage", "conformal", "sparsification", "oracle", "corr."]
_HEADER += ["s/slice"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--level", type=float, default=0.9, help="nominal coverage (default .9)")
    options = parser.parse_args()
    methods = sorted(path.parent.parent for path in options.root.glob(f"*/{CALIBRATION_SET}/{CALIBRATION}"))
    if not methods:
        raise SystemExit(f"error: there is no METHOD/{CALIBRATION_SET}/{CALIBRATION} below {options.root}")
    print("| " + " | ".join(_HEADER) + " |")
    print("|:--|:--|" + "--:|" * (len(_HEADER) - 2))
    for method in methods:
        try:
            factor = _factor(method / CALIBRATION_SET, options.level)
        except InputError as error:
            raise SystemExit(f"error: {method.name}: {error}") from None
        for folder in sorted((path.parent for path in method.glob(f"*/{CALIBRATION}")), key=_order):
            print("| " + " | ".join(_cells(folder, factor, options.level)) + " |")


def _order(folder: Path) -> tuple[bool, bool, str]:
    """The calibration set first, then the test set, then the others."""
    return folder.name != CALIBRATION_SET, folder.name != "test", folder.name


def _factor(folder: Path, level: float) -> float:
    curves = read_calibration(folder / CALIBRATION)
    exceedances = [volume.exceedance for volume in curves.volumes if volume.n_pixels]
    return conformal_factor(np.array(curves.factors), exceedances, level)


def _cells(folder: Path, factor: float, level: float) -> list[str]:
    curves = read_calibration(folder / CALIBRATION)
    rows = read_rows(folder / RESULTS)
    at = int(np.searchsorted(curves.factors, factor * (1 - 1e-9)))
    scaled = np.nanmean([1 - volume.exceedance[at] for volume in curves.volumes])
    nearest = int(np.abs(np.array(curves.levels) - level).argmin())
    if not math.isclose(curves.levels[nearest], level, abs_tol=1e-6):
        raise SystemExit(f"error: {folder / CALIBRATION} has no level {level}; it has {curves.levels}")
    observed = np.nanmean([volume.coverage[nearest] for volume in curves.volumes])

    def mean(name: str) -> float:
        return float(np.nanmean([getattr(row, name) for row in rows]))

    return [
        folder.parent.name,
        f"{folder.name}, x {factor:.3g}" if folder.name == CALIBRATION_SET else folder.name,
        str(len(rows)),
        f"{mean('psnr'):.2f}",
        f"{observed:.2f}",
        f"{scaled:.2f}",
        f"{mean('sparsification'):.2f} ({mean('intensity_sparsification'):.2f})",
        f"{mean('sparsification_oracle'):.2f}",
        f"{mean('error_correlation'):.2f}",
        f"{mean('seconds_per_slice'):.2g}",
    ]


if __name__ == "__main__":
    main()
