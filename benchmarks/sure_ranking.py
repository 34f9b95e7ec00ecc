"""Whether SURE, which sees only undersampled data, ranks methods as their true error does.

    python benchmarks/sure_ranking.py --checkpoints runs/NAME/every/*.ckpt      # along a training
    python benchmarks/sure_ranking.py --families tv threshold  # by weight and level

The phantoms of the validation split under mask=random_4x, as validation sees them. For every candidate the mean over
slices of SURE's relative error and of three true ones: of the k-space of all coils that image and maps predict, which
SURE estimates; of the complex image beside the complete k-space combined with the same maps; and of the magnitude
beside the target, as evaluate.py takes it (but slice by slice). Then Spearman's rank correlation of SURE with each.
Families: checkpoints; tv, total variation by weight, 20 iterations; threshold, a soft threshold of the wavelets of the
density-compensated image by its level.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from numpy.random import RandomState
from scipy.stats import spearmanr
from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.cli.app import conf_folder
from spinwarp.cli.train import build_data
from spinwarp.coils import low_resolution_maps
from spinwarp.data.undersample import Undersample
from spinwarp.fourier import fftc, ifftc
from spinwarp.masks import seed_of
from spinwarp.operators import wavelet
from spinwarp.operators.sense import coil_maps, expand, reduce
from spinwarp.preparation import data_scale
from spinwarp.recon import TotalVariation
from spinwarp.recon.checkpoint import Checkpoint
from spinwarp.solvers import soft_threshold
from spinwarp.uncertainty import adapted_density, compensated, sure

Method = Callable[[Acquisition], Tensor]
WEIGHTS = [10 ** (-3 + k / 2) for k in range(6)]
TRUTHS = ("all coils", "image", "magnitude")


class Problem:
    """One undersampled slice, its density, and the truth."""

    def __init__(self, complete: Acquisition, seen: Acquisition, target: Tensor, density: Tensor) -> None:
        self.complete, self.seen, self.target, self.density = complete, seen, target, density

    def truths(self, image: Tensor) -> list[float]:
        """Relative squared errors, in the order of ``TRUTHS``."""
        maps, kspace = coil_maps(self.seen), self.complete.kspace
        pairs = [
            (fftc(expand(image, maps)), kspace),
            (image, reduce(ifftc(kspace), maps)),
            (image.abs(), self.target),
        ]
        return [float((a - b).abs().square().sum() / b.abs().square().sum()) for a, b in pairs]


def problems(n_volumes: int, slices: Sequence[int], draw: int) -> list[Problem]:
    """Slices of the validation split; ``draw`` = 0 is the mask of the volume's name, others are other draws."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        data = build_data(compose("evaluate", ["data=phantom", "mask=random_4x"]))
    data.prepare_data()
    undersample, result = Undersample(data.eval_mask, low_resolution_maps), []
    for volume in data.source.volumes("val")[:n_volumes]:
        for index in slices:
            example = data.source.read(volume, index)
            seen = undersample(example, RandomState((*seed_of(volume.name), draw) if draw else seed_of(volume.name)))
            density = data.eval_mask.density(example.acquisition.kspace.shape[-2:])
            result.append(Problem(example.acquisition, seen.acquisition, example.target, density))
    return result


def threshold(acquisition: Acquisition, level: float, density: Tensor) -> Tensor:
    """Soft threshold, a fraction of the data's scale, of the wavelets of the density-compensated image."""
    image = compensated(acquisition, density)
    transform = wavelet(tuple(image.shape[1:]))
    cut = level * data_scale(acquisition).view(-1, 1, 1)
    return transform.adjoint(soft_threshold(transform(image), cut))


def candidates(family: str, checkpoints: Sequence[str], weights: Sequence[float]) -> dict[str, Callable[..., Method]]:
    """Name to a function that makes the method for a problem."""
    if family == "checkpoints":
        made = {Path(path).stem: Checkpoint(path) for path in checkpoints}
        return {name: (lambda _, r=r: lambda a: r(a).image) for name, r in made.items()}
    if family == "tv":
        made_tv = {f"tv {w:.2g}": TotalVariation(w, maps="given", iterations=20) for w in weights}
        return {name: (lambda _, r=r: lambda a: r(a).image) for name, r in made_tv.items()}
    return {
        f"threshold {10 * w:.2g}": (lambda p, w=w: partial(threshold, level=10 * w, density=p.density)) for w in weights
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", nargs="*", default=[], help="files of train.py, in any order")
    parser.add_argument("--weights", nargs="*", type=float, default=WEIGHTS)
    parser.add_argument("--families", nargs="*", default=["checkpoints", "tv", "threshold"])
    parser.add_argument("--volumes", type=int, default=4)
    parser.add_argument("--slices", nargs="*", type=int, default=[2, 5])
    parser.add_argument("--draw", type=int, default=0, help="0: the masks of validation; 1, 2, ...: other draws")
    parser.add_argument("--probe", default="deletion", choices=["deletion", "derivative"])
    parser.add_argument("--probes", type=int, default=8)
    parser.add_argument("--design", action="store_true", help="weigh by the density of the mask, not the adapted one")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    cases = problems(options.volumes, options.slices, options.draw)
    for family in options.families:
        table = []
        for name, make in candidates(family, options.checkpoints, options.weights).items():
            rows = []
            for case in cases:
                density = case.density if options.design else adapted_density(case.seen, case.density)
                generator = torch.Generator().manual_seed(0)
                risk = sure(
                    make(case), case.seen, density, probe=options.probe, n_probes=options.probes, generator=generator
                )
                rows.append([float(risk.nmse), *case.truths(risk.image)])
            table.append(torch.tensor(rows, dtype=torch.float64))
            mean, spread = table[-1].mean(0), (table[-1][:, 0] - table[-1][:, 1]).std()
            numbers = " ".join(f"{label} {value:.4f}" for label, value in zip(TRUTHS, mean[1:].tolist(), strict=True))
            print(f"{name:>18}: SURE {mean[0]:.4f}  {numbers}  std(SURE - all coils) {spread:.4f}", flush=True)
        if len(table) > 2:
            means = torch.stack([rows.mean(0) for rows in table])
            ranks = [spearmanr(means[:, 0], means[:, i + 1]).statistic for i in range(len(TRUTHS))]
            print(family, "Spearman", *(f"{label} {r:.3f}" for label, r in zip(TRUTHS, ranks, strict=True)), flush=True)


if __name__ == "__main__":
    main()
