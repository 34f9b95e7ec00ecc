"""How untrained networks fit first the image and then the noise: error against iteration, and where they stop.

    python benchmarks/overfitting.py --out FOLDER          # fit, write trace.csv, draw convergence.png
    python benchmarks/overfitting.py --out FOLDER --draw   # draw an existing trace.csv again

A procedural head with noise under a random mask at 4x, seen by loop coils; every network with its configuration of
conf/recon, but for the iterations. The error is that of the image which the fit would return at each iteration, beside
the noise-free truth. The stop is the one that the configuration makes, replayed on a fit that goes on.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from numpy.random import RandomState
from omegaconf import OmegaConf

from spinwarp.acquisition import Acquisition
from spinwarp.cli.app import conf_folder
from spinwarp.coils import combine
from spinwarp.data.phantom.anatomy import head_volume
from spinwarp.data.simulation import acquire, loop_coil_maps, smooth_phase
from spinwarp.figures import convergence, save
from spinwarp.fourier import fftc, ifftc
from spinwarp.masks import RandomMask
from spinwarp.recon.network_fit import Iterate
from spinwarp.results import TRACE, TraceRow, read_trace, write_trace

METHODS = ("convdecoder", "deep_decoder", "dip")


def problem(
    noise_std: float, shape: tuple[int, int] = (128, 112), n_coils: int = 6
) -> tuple[Acquisition, torch.Tensor]:
    """Return an acquisition with noise, in units of the largest magnitude, and its truth ``(1, h, w)``."""
    rng = RandomState(3)
    magnitude, _ = head_volume(1, shape, rng)
    image = magnitude[0] / magnitude.max() * np.exp(1j * smooth_phase(shape, rng))
    maps = loop_coil_maps(n_coils, shape, rng)
    kspace = torch.from_numpy(acquire(image, maps, noise_std=noise_std, rng=rng))[None]
    clean = fftc(torch.from_numpy((image * maps).astype(np.complex64)))[None]
    columns, n_center = RandomMask([0.08], [4])(shape, rng)
    acquisition = Acquisition(kspace * columns, columns.view(1, 1, 1, -1), n_acs=torch.tensor([n_center]))
    return acquisition, combine(ifftc(clean), None).abs()


def trace(
    method: str, acquisition: Acquisition, truth: torch.Tensor, iterations: int, precision: str
) -> list[TraceRow]:
    """Fit far beyond the stop and record every iteration."""
    config = OmegaConf.load(conf_folder() / "recon" / f"{method}.yaml")
    patience = config.patience
    reconstructor = instantiate(config, iterations=iterations, patience=iterations, precision=precision)
    seen: list[tuple[float, float, float]] = []

    def note(iterate: Iterate) -> None:
        assert iterate.held_out is not None
        error = (iterate.picture.abs() - truth).square().sum() / truth.square().sum()
        seen.append((float(error), float(iterate.loss[0]), float(iterate.held_out[0])))

    reconstructor.reconstruct(acquisition, on_iterate=note)
    stop = stopped([held for *_, held in seen], patience)
    return [TraceRow(method, i, *values, int(i == stop)) for i, values in enumerate(seen, start=1)]


def stopped(held_out: Sequence[float], patience: int) -> int:
    """Return the iteration that the fit keeps: the best one before the patience runs out."""
    best, best_at = math.inf, 0
    for i, value in enumerate(held_out, start=1):
        if value < best:
            best, best_at = value, i
        elif i - best_at >= patience:
            break
    return best_at


def main() -> None:
    """Fit, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of trace.csv and convergence.png")
    parser.add_argument("--noise", type=float, default=0.1, help="standard deviation, of the largest magnitude")
    parser.add_argument("--iterations", type=int, default=1500)
    parser.add_argument("--precision", default="32", choices=["32", "bf16"])
    parser.add_argument("--draw", action="store_true", help="fit nothing, draw the trace.csv that is there")
    options = parser.parse_args()
    path = options.out / TRACE
    rows: list[TraceRow] = []
    if not options.draw:
        acquisition, truth = problem(options.noise)
        for method in METHODS:
            rows += trace(method, acquisition, truth, options.iterations, options.precision)
            write_trace(path, rows)
    rows = read_trace(path)
    for method in METHODS:
        errors = {row.iteration: 10 * math.log10(row.nmse) for row in rows if row.method == method}
        (stop,) = [row.iteration for row in rows if row.method == method and row.stop]
        best = min(errors, key=errors.__getitem__)
        print(
            f"{method}: stopped at {stop} with an NMSE of {errors[stop]:.2f} dB, "
            f"best at {best} with {errors[best]:.2f}, at the end {errors[len(errors)]:.2f}"
        )
    save(convergence(rows), options.out / "convergence.png")


if __name__ == "__main__":
    main()
