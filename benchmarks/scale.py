"""How time and memory grow with the size of the problem: one table with exponents.

    python benchmarks/scale.py                   # all; 15 minutes on one quiet core
    python benchmarks/scale.py slices coils      # some

A row grows one number and keeps the others. The exponent p of ``time ~ n^p`` is the slope between the two largest
sizes; 1 is proportional. Each point runs in a process of its own; its memory is the growth of the resident peak.
Seconds are those of the processor, on one thread, but for the workers, whose processes are others. Slices are counted
with empty files, and entries of the index that say what they would hold: nothing reads them.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES: dict[str, tuple[int, ...]] = {
    "slices": (1_000, 10_000, 100_000),
    "coils": (1, 4, 16, 64),
    "matrix": (64, 128, 256, 512, 1024),
    "cascades": (1, 2, 4, 8),
    "chains": (1, 2, 4, 8),
    "workers": (0, 1, 2),
}
SLICES_A_FILE = 36


def slices(n: int) -> dict[str, Callable[[], Any]]:
    """Index and first batches of a set of ``n`` slices."""
    from spinwarp.data.fastmri import FastMRIFiles, Folders
    from spinwarp.data.fastmri.index import Entry, _cache_path, _save_index
    from spinwarp.data.module import FastMRIDataModule
    from spinwarp.masks import RandomMask

    root = Path(tempfile.mkdtemp())
    os.environ["SPINWARP_CACHE"] = str(root / "cache")
    (root / "train").mkdir()
    paths = [root / "train" / f"file{i:06d}.h5" for i in range(-(-n // SLICES_A_FILE))]
    for path in paths:
        path.touch()
    entries = {
        path: Entry(path.stat().st_mtime_ns, 0, SLICES_A_FILE, (15, 640, 368, 320, 320), 1.0, "reconstruction_rss", {})
        for path in paths
    }
    _save_index(_cache_path(paths, "scanner"), entries)
    source = FastMRIFiles("scale", Folders(str(root), train="train"))
    data = FastMRIDataModule(source, RandomMask([0.08], [4]))
    return {
        "index": lambda: source.volumes("train"),
        "dataset and order of an epoch": lambda: next(iter(data.train_dataloader().sampler)),
    }


def _acquisition(n_coils: int, h: int, w: int) -> Any:
    import torch
    from classical_problem import problem

    from spinwarp.acquisition import Acquisition

    data = problem(n_coils, h, w, max(w // 12, 8))
    kspace, maps, mask = (torch.from_numpy(data[key])[None] for key in ("kspace", "maps", "mask"))
    return Acquisition(kspace, mask[:, None, None], maps=maps, n_acs=torch.tensor([int(data["n_acs"])]))


def _methods(n_coils: int, h: int, w: int) -> dict[str, Callable[[], Any]]:
    """Compute with methods on one slice."""
    from functools import partial

    import torch

    from spinwarp.coils import espirit_maps, low_resolution_maps
    from spinwarp.models.norm_unet import NormUNet
    from spinwarp.models.varnet import SensitivityNet, VarNet
    from spinwarp.recon import CGSense, TotalVariation, ZeroFilled

    acquisition = _acquisition(n_coils, h, w)
    net = VarNet(partial(NormUNet, 8, 4), 4, partial(SensitivityNet, network=partial(NormUNet, 8, 4)))

    def varnet() -> None:
        with torch.inference_mode():
            net(acquisition)

    found: dict[str, Callable[[], Any]] = {
        "zero-filled": lambda: ZeroFilled()(acquisition),
        "maps, low resolution": lambda: low_resolution_maps(acquisition.kspace, acquisition.n_acs),
        "CG-SENSE": lambda: CGSense(0.01, "given")(acquisition),
        "TV": lambda: TotalVariation(0.003, "given", iterations=10)(acquisition),
        "VarNet, 4 cascades of 8": varnet,
    }
    if n_coils > 1:
        found["maps, ESPIRiT"] = lambda: espirit_maps(acquisition.kspace, acquisition.mask)
    return found


def coils(n: int) -> dict[str, Callable[[], Any]]:
    """Methods on a slice of ``n`` coils of 192x192."""
    return _methods(n, 192, 192)


def matrix(n: int) -> dict[str, Callable[[], Any]]:
    """Methods on a slice of 4 coils of ``n`` x ``n``; the sizes are the number of pixels of a side."""
    return _methods(4, n, n)


def cascades(n: int) -> dict[str, Callable[[], Any]]:
    """A training step of a VarNet of ``n`` cascades."""
    from functools import partial

    from spinwarp.models.norm_unet import NormUNet
    from spinwarp.models.varnet import SensitivityNet, VarNet

    acquisition = _acquisition(4, 192, 192)

    def step(checkpoint: bool) -> Callable[[], Any]:
        sensitivity = partial(SensitivityNet, network=partial(NormUNet, 8, 4))
        net = VarNet(partial(NormUNet, 8, 4), n, sensitivity, checkpoint=checkpoint)
        return lambda: net(acquisition).abs().sum().backward()

    return {"training step": step(False), "training step, checkpointed": step(True)}


def chains(n: int) -> dict[str, Callable[[], Any]]:
    """A few steps of ``pula`` for ``n`` chains, without a network."""
    from spinwarp import samplers
    from spinwarp.operators import sense

    acquisition = _acquisition(4, 192, 192)
    task = samplers.Problem(lambda x, _: 0.5 * x, sense(acquisition), acquisition.kspace, 0.05, (192, 192))
    noise = samplers.ChainNoise(samplers.chain_generators(range(n)))
    return {"five steps of pula": lambda: samplers.pula(task, noise, schedule=samplers.geometric(10.0, 0.05, 5))}


def workers(n: int) -> dict[str, Callable[[], Any]]:
    """An epoch of 24 slices of 8x256x256 with ``n`` processes that load; the first epoch starts them."""
    import numpy as np

    from spinwarp.acquisition import Header
    from spinwarp.data.fastmri import FastMRIFiles, Folders
    from spinwarp.data.fastmri.layout import write_volume
    from spinwarp.data.module import FastMRIDataModule
    from spinwarp.masks import RandomMask

    root = Path(tempfile.mkdtemp())
    os.environ["SPINWARP_CACHE"] = str(root / "cache")
    (root / "train").mkdir()
    rng = np.random.RandomState(0)
    for i in range(2):
        kspace = rng.standard_normal((12, 8, 256, 256, 2)).astype(np.float32).view(np.complex64)[..., 0]
        write_volume(root / "train" / f"{i}.h5", kspace, Header())
    source = FastMRIFiles("scale", Folders(str(root), train="train"))
    loader = FastMRIDataModule(source, RandomMask([0.08], [4]), num_workers=n).train_dataloader()
    return {"epoch of the loader": lambda: [None for _ in loader]}


def point(kind: str, n: int) -> dict[str, tuple[float, float]]:
    """Return seconds and growth of the peak memory in MB of each function; the second call counts."""
    functions = {"slices": slices, "coils": coils, "matrix": matrix, "cascades": cascades, "chains": chains}
    made = (functions | {"workers": workers})[kind](n)
    found = {}
    for name, function in made.items():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        function()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        clock = time.perf_counter if kind == "workers" else time.process_time
        start = clock()
        function()
        found[name] = (clock() - start, (after - before) / 1024)
    return found


def exponent(sizes: list[int], values: list[float]) -> str:
    """Slope between the two largest sizes on logarithmic axes; "-" if a value is zero."""
    (a, b), (x, y) = sizes[-2:], values[-2:]
    return f"{math.log(y / x) / math.log(b / a):.1f}" if min(a, x, y) > 0 else "-"


def main() -> None:
    """Print the table as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(SIZES))
    parser.add_argument("--largest", type=int, help="leave out sizes above this one")
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        print(json.dumps(point(options.point[0], int(options.point[1]))))
        return
    if unknown := set(options.kinds) - set(SIZES):
        parser.error(f"there is no {', '.join(unknown)}; choose from {', '.join(SIZES)}")
    print(
        "| grows | what | sizes | seconds | exponent | MB more at the largest |\n|:--|:--|:--|:--|--:|--:|", flush=True
    )
    for kind in options.kinds or SIZES:
        sizes = [n for n in SIZES[kind] if options.largest is None or n <= options.largest]
        points = []
        for n in sizes:
            command = [sys.executable, __file__, "--point", kind, str(n)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                sys.exit(f"{kind} {n}: {done.stderr.strip().splitlines()[-1]}")
            points.append(json.loads(done.stdout.splitlines()[-1]))
        for name in points[-1]:
            known = [(n, *p[name]) for n, p in zip(sizes, points, strict=True) if name in p]
            ns, seconds, memory = (list(column) for column in zip(*known, strict=True))
            slope = exponent(ns, seconds) if len(ns) > 1 else "-"
            times = ", ".join(f"{s:.2g}" for s in seconds)
            print(f"| {kind} | {name} | {', '.join(map(str, ns))} | {times} | {slope} | {memory[-1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
