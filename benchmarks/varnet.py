"""E2E-VarNet beside fastMRI's: weights of the same shapes, same input, same threads, alternating in one run.

    python -m venv PEER
    PEER/bin/pip install torch==2.13.0 h5py requests pyyaml pandas tqdm scikit-image torchmetrics
    PEER/bin/pip install --no-deps fastmri==0.3.0
    python benchmarks/varnet.py --peer PEER/bin/python

Prints the median time of each, and the median and range of the ratios of neighbouring runs, because machines drift and
ratios hold.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

from peer import Worker, alternate, ratio, serve

SIZES = {
    "8x256x256, 4 cascades of 8": ((8, 256, 256), 4, 8),
    "8x256x256, 12 cascades of 18": ((8, 256, 256), 12, 18),
    "15x640x368, 4 cascades of 8": ((15, 640, 368), 4, 8),
}


def ours(shape: tuple[int, int, int], n_cascades: int, channels: int) -> Callable[[], object]:
    """Return a function that runs our network once."""
    from functools import partial

    import torch

    from spinwarp.acquisition import Acquisition
    from spinwarp.models.norm_unet import NormUNet
    from spinwarp.models.varnet import SensitivityNet, VarNet

    kspace, mask = problem(shape)
    net = VarNet(partial(NormUNet, channels, 4), n_cascades, partial(SensitivityNet, network=partial(NormUNet, 8, 4)))
    acquisition = Acquisition(kspace=kspace, mask=mask, n_acs=torch.tensor([round(shape[-1] * 0.08)]))
    return lambda: net(acquisition).abs()


def fastmri(shape: tuple[int, int, int], n_cascades: int, channels: int) -> Callable[[], object]:
    """Return a function that runs fastMRI's network once."""
    import torch
    from fastmri.models import VarNet

    kspace, mask = problem(shape)
    net = VarNet(num_cascades=n_cascades, chans=channels, pools=4, sens_chans=8, sens_pools=4)
    real = torch.view_as_real(kspace).contiguous()
    return lambda: net(real, mask[..., None], num_low_frequencies=round(shape[-1] * 0.08))


def problem(shape: tuple[int, int, int]) -> tuple:
    """Return random k-space under a random line mask with a full centre."""
    import torch

    generator = torch.manual_seed(0)
    width = shape[-1]
    mask = torch.rand(1, 1, 1, width, generator=generator) < 0.18
    center = round(width * 0.08)
    mask[..., (width - center + 1) // 2 :][..., :center] = True
    return torch.randn(1, *shape, dtype=torch.complex64, generator=generator) * mask, mask


def work(which: str) -> None:
    """Answer a size, and whether to take the gradient, with the seconds of one run."""
    run: dict[str, Callable] = {}

    def answer(size: str, backward: bool) -> float:
        if size not in run:
            run.clear()  # one network at a time, for the memory
            run[size] = {"ours": ours, "fastmri": fastmri}[which](*SIZES[size])
        start = time.perf_counter()
        out = run[size]()
        if backward:
            out.sum().backward()
        return time.perf_counter() - start

    serve(answer)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="Python of the environment that has fastmri")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES))
    parser.add_argument("--worker", choices=["ours", "fastmri"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return
    if not options.peer:
        parser.error("--peer is the Python that has fastmri; see --help")
    pythons = {"ours": sys.executable, "fastmri": options.peer}
    workers = {name: Worker(name, [python, __file__, "--worker", name]) for name, python in pythons.items()}
    for size in options.sizes:
        for backward in (False, True):
            alternate(workers, size, backward, repeats=1)  # the first call allocates
            seconds = alternate(workers, size, backward, repeats=options.repeats)
            medians = {name: statistics.median(runs) for name, runs in seconds.items()}
            what = "forward and backward" if backward else "forward"
            print(
                f"{size}, {what}: ours {medians['ours']:.2f} s, fastMRI {medians['fastmri']:.2f} s, "
                f"ratio {ratio(seconds['ours'], seconds['fastmri'])}",
                flush=True,
            )
    for worker in workers.values():
        worker.close()


if __name__ == "__main__":
    main()
