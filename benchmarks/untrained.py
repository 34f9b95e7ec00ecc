"""One iteration of the ConvDecoder beside deepinv's: same network, coils, mask and threads, alternating in one run.

    python -m venv PEER
    PEER/bin/pip install torch==2.13.0 torchvision==0.28.0 deepinv==0.5.0
    python benchmarks/untrained.py --peer PEER/bin/python

Prints the median time of each, and the median and range of the ratios of neighbouring runs, because machines drift and
ratios hold. Both fit one complex image through given coil maps; deepinv has no fit of coil images.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

from peer import Worker, alternate, ratio, serve

# coils, h, w; channels; layers; size of z
SIZES = {
    "8x320x320, 64 channels": ((8, 320, 320), 64, 8, (8, 4)),
    "8x256x256, 16 channels": ((8, 256, 256), 16, 8, (8, 4)),
}
WORKERS = ("ours", "ours_bf16", "deepinv")


def ours(size: str, precision: str = "32") -> Callable[[int], object]:
    """Return a function that runs our fit for a number of iterations."""
    from functools import partial

    from spinwarp.acquisition import Acquisition
    from spinwarp.models.conv_decoder import ConvDecoder
    from spinwarp.recon.untrained import UntrainedNetwork

    shape, channels, layers, input_size = SIZES[size]
    kspace, mask, maps = problem(shape)
    network = partial(ConvDecoder, channels=channels, layers=layers, input_size=input_size)
    acquisition = Acquisition(kspace=kspace[None], mask=mask[None, None, None], maps=maps[None])
    options = {"maps": "given", "stop": "fixed", "precision": precision}
    return lambda n: UntrainedNetwork(network, iterations=n, **options)(acquisition)


def deepinv(size: str) -> Callable[[int], object]:
    """Return a function that runs deepinv's fit for a number of iterations."""
    import torch
    from deepinv.models import ConvDecoder, DeepImagePrior
    from deepinv.physics import MultiCoilMRI

    shape, channels, layers, input_size = SIZES[size]
    kspace, mask, maps = problem(shape)
    physics = MultiCoilMRI(mask=mask.float().expand(shape[1:]).clone(), coil_maps=maps[None], img_size=shape[1:])
    y = torch.view_as_real(kspace).permute(3, 0, 1, 2)[None].contiguous()  # (1, 2, coil, h, w)
    network = ConvDecoder(img_size=(2, *shape[1:]), in_size=input_size, layers=layers, channels=channels)
    z_size = (channels, *input_size)
    return lambda n: DeepImagePrior(network, img_size=z_size, iterations=n, learning_rate=0.008)(y, physics)


def problem(shape: tuple[int, int, int]) -> tuple:
    """Return random k-space under a random line mask with a full centre, and random maps."""
    import torch

    generator = torch.manual_seed(0)
    width = shape[-1]
    mask = torch.rand(width, generator=generator) < 0.18
    center = round(width * 0.08)
    mask[(width - center + 1) // 2 :][:center] = True
    maps = torch.randn(shape, dtype=torch.complex64, generator=generator)
    maps = maps / torch.linalg.vector_norm(maps, dim=0)
    return torch.randn(shape, dtype=torch.complex64, generator=generator) * mask, mask, maps


def work(which: str) -> None:
    """Answer a size and a number of iterations with the seconds of one iteration, without set-up."""
    run: dict[str, Callable[[int], object]] = {}

    def answer(size: str, n: int) -> float:
        if size not in run:
            run[size] = deepinv(size) if which == "deepinv" else ours(size, "bf16" if which == "ours_bf16" else "32")
        seconds = []
        for iterations in (1, n + 1):
            start = time.perf_counter()
            run[size](iterations)
            seconds.append(time.perf_counter() - start)
        return (seconds[1] - seconds[0]) / n

    serve(answer)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="Python of the environment that has deepinv")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=4, help="of each run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return
    if not options.peer:
        parser.error("--peer is the Python that has deepinv; see --help")
    pythons = {name: options.peer if name == "deepinv" else sys.executable for name in WORKERS}
    workers = {
        name: Worker(name, [python, __file__, "--worker", name], OMP_NUM_THREADS=str(options.threads))
        for name, python in pythons.items()
    }
    for size in options.sizes:
        alternate(workers, size, 1, repeats=1)  # the first call allocates
        seconds = alternate(workers, size, options.iterations, repeats=options.repeats)
        print(f"{size}: " + ", ".join(f"{name} {1000 * statistics.median(s):.0f} ms" for name, s in seconds.items()))
        for name in WORKERS[:2]:
            print(f"  {name} over deepinv {ratio(seconds[name], seconds['deepinv'])}", flush=True)
    for worker in workers.values():
        worker.close()


if __name__ == "__main__":
    main()
