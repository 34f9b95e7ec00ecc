"""A sheet of simulated scans beside real ones, to be looked at: ``python benchmarks/heads_sheet.py SHARED sheet.png``.

``SHARED`` is a folder with ``heads``, ``cheng_t1ce``, ``coils_32ch_head``, ``raw_multicoil`` and ``ulf_0055T``. Each
tile shows the root sum of squares of the noisy, fully sampled k-space, from black to its 99.7th percentile (square
root, so that air and noise are seen). Below it are the logarithm of the first coil's k-space and the phase of its
image. The first tiles are the real scans, framed in white. If one can tell the others from them at a glance, the
simulation is at fault.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from raw_scans import raw_scans
from torch import Tensor

from spinwarp.data.heads import SimulatedHeads
from spinwarp.fourier import ifftc

TILE, COLUMNS = 168, 8
CONF = Path(__file__).parents[1] / "conf" / "data" / "simulated_heads.yaml"


def tile(kspace: Tensor, real: bool) -> np.ndarray:
    """Draw one scan."""
    images = ifftc(kspace)
    rss = images.abs().square().sum(0).sqrt()
    first = kspace[0].abs()
    log = (first / first.max()).clamp_min(1e-5).log()
    upper = (rss / torch.quantile(rss.flatten(), 0.997)).sqrt()
    lower = ((log - log.min()) / (log.max() - log.min()), images[0].angle() / (2 * np.pi) + 0.5)
    canvas = np.full((TILE + TILE // 2, TILE), 255 if real else 40, np.uint8)
    canvas[2 : TILE - 2, 2:-2] = _scaled(upper, TILE - 4)
    for i, picture in enumerate(lower):
        left = i * TILE // 2
        canvas[TILE:-2, left + 2 : left + TILE // 2 - 2] = _scaled(picture, TILE // 2)[1:-1, 2:-2]
    return canvas


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--heads", action="store_true", help="NIfTI volumes alone, without the PNG slices")
    args = parser.parse_args()
    options = yaml.safe_load(CONF.read_text())["source"]
    options.pop("_target_")
    folders = ["heads"] if args.heads else ["heads", "cheng_t1ce"]
    options |= {
        "path": [args.shared / name for name in folders],
        "coil_maps": args.shared / "coils_32ch_head" / "xGT.mat",
    }
    if args.heads:
        options |= {"val": ["openms_09"], "test": ["openms_04", "philips"]}
    source = SimulatedHeads(**options)
    volumes = source.volumes("train")
    rng = np.random.RandomState(args.seed)
    tiles = [tile(scan.kspace, real=True) for scan in raw_scans(args.shared) if "turned" not in scan.name]
    for i in rng.randint(len(volumes), size=args.n):
        example = source.draw(volumes[i], 0, np.random.RandomState(rng.randint(2**31)))
        print(len(tiles), volumes[i].name, volumes[i].shape[:3], example.acquisition.headers[0].orientation)
        tiles.append(tile(example.acquisition.kspace[0], real=False))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % COLUMNS)
    rows = [np.concatenate(tiles[i : i + COLUMNS], 1) for i in range(0, len(tiles), COLUMNS)]
    Image.fromarray(np.concatenate(rows)).save(args.sheet)


def _scaled(picture: Tensor, size: int) -> np.ndarray:
    """Fit into a square, black around."""
    h, w = picture.shape
    new = (max(size * h // max(h, w), 1), max(size * w // max(h, w), 1))
    grey = Image.fromarray((255 * picture.clamp(0, 1)).numpy().astype(np.uint8)).resize(new[::-1])
    canvas = np.zeros((size, size), np.uint8)
    top, left = (size - new[0]) // 2, (size - new[1]) // 2
    canvas[top : top + new[0], left : left + new[1]] = np.asarray(grey)
    return canvas


if __name__ == "__main__":
    main()
