"""A step of posterior sampling: what it costs around the network, and beside deepinv's.

    python -m venv PEER
    PEER/bin/pip install torch==2.13.0 torchvision==0.28.0 deepinv==0.5.0
    python benchmarks/posterior.py profile
    python benchmarks/posterior.py compare --peer PEER/bin/python

``profile`` runs ``pula`` over its default schedule and splits the time of a step: the network's own forward, A^H A and
how often it is applied, noise of the data, the rest. The networks are untrained and return zero, as for a prior of
white noise, which allows running them at every ``--every``-th step only. The network of the published size is timed
alone; the time around it is taken from the compact one.

``compare`` steps both through the same network with the same weights and the same multi-coil problem, alternating in
one run. It prints the median time of each, and the median and range of the ratios of neighbouring runs, because
machines drift and ratios hold. On a shared machine, CLOCK=cpu with one thread counts the process's own time.
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from peer import Worker, alternate, ratio, serve
from posterior_problem import COILS, NOISE, clock, network, problem

STEPS = 100  # network evaluations of pula
CG = 10  # iterations of DiffPIR's data step
NETWORKS = ("compact", "published")
# our name: label; DiffPIR with CG iterations for both, and with the limits of each
PAIRS = {
    "dps": "DPS",
    "diffpir": f"DiffPIR, {CG} CG iterations",
    "diffpir_own": "DiffPIR, own tolerances",
    "annealed_langevin": "Langevin (ULA)",
    "pula": "pula beside ULA",
}


def our_problem(size: int, denoiser: Any) -> Any:
    """Return the problem as a :class:`spinwarp.samplers.Problem`."""
    from spinwarp.acquisition import Acquisition
    from spinwarp.operators import sense
    from spinwarp.samplers import Problem

    kspace, mask, maps = problem(size)
    acquisition = Acquisition(kspace=kspace[None], mask=mask[None, None, None], maps=maps[None])
    return Problem(denoiser, sense(acquisition), acquisition.kspace, NOISE, (size, size))


# --- profile


class Timed:
    """A function that counts its calls and their seconds."""

    def __init__(self, function: Callable) -> None:
        self.function, self.calls, self.seconds = function, 0, 0.0

    def __call__(self, *args: Any) -> Any:
        """Call it."""
        start = clock()
        out = self.function(*args)
        self.seconds += clock() - start
        self.calls += 1
        return out


def profile(options: argparse.Namespace) -> None:
    """Print the profile of a step of ``pula``."""
    import torch

    from spinwarp import samplers
    from spinwarp.models.denoiser import Denoiser

    torch.set_num_threads(options.threads)

    def run(size: int, chains: int, net: Callable) -> dict[str, tuple[float, float]]:
        """Return name to calls and seconds of a step; of the network, those of a call."""
        denoiser, forward = Denoiser(torch.nn.Identity()), Timed(net)
        turn = itertools.count()
        denoiser.network.forward = lambda x, s: torch.zeros_like(x) if next(turn) % options.every else forward(x, s)
        plain = our_problem(size, denoiser)
        normal, data_noise = Timed(plain.operator.normal), Timed(samplers.data_step.backprojected_noise)
        task = replace(plain, operator=replace(plain.operator, gram=normal))
        noise = samplers.ChainNoise(samplers.chain_generators(range(chains)))
        with mock.patch.object(sys.modules["spinwarp.samplers.pula"], "backprojected_noise", data_noise):
            start = clock()
            samplers.pula(task, noise, schedule=samplers.geometric(10.0, 0.01, STEPS - 1))
            total = clock() - start
        table = {name: (p.calls / STEPS, p.seconds / STEPS) for name, p in (("A^H A", normal), ("A^H n", data_noise))}
        rest = (total - forward.seconds) / STEPS - sum(seconds for _, seconds in table.values())
        return {"network": (1, forward.seconds / forward.calls), **table, "rest": (1, rest)}

    with torch.inference_mode():
        for size, chains in itertools.product(options.sizes, options.chains):
            print(f"{COILS}x{size}x{size}, {chains} chains, ms of a step of pula")
            parts = run(size, chains, network("compact"))
            print("  " + ", ".join(f"{name} {1e3 * s:.1f} ({n:.1f} calls)" for name, (n, s) in parts.items()))
            around = sum(seconds for name, (_, seconds) in parts.items() if name != "network")
            forwards = {"compact": parts["network"][1]}
            if "published" in options.networks:
                forwards["published"] = alone("published", size, chains)
            for name, seconds in forwards.items():
                part = around / (around + seconds)
                print(f"  {name}: forward {1e3 * seconds:.0f}, around it {1e3 * around:.1f}, {part:.1%}", flush=True)


def alone(name: str, size: int, chains: int) -> float:
    """Return the seconds of a network's forward."""
    import torch

    net, x = network(name), torch.randn(chains, 2, size, size)
    net(x[:1, :, :32, :32], torch.zeros(1))
    start = clock()
    net(x, torch.zeros(chains))
    return clock() - start


# --- compare


def ours(pair: str, size: int, net: Any) -> Callable[[int], object]:
    """Return a function that takes a number of our steps."""
    from spinwarp import samplers
    from spinwarp.models.denoiser import Denoiser

    task = our_problem(size, Denoiser(net))
    noise = samplers.ChainNoise(samplers.chain_generators([0]))
    if pair == "dps":
        return lambda n: samplers.dps(task, noise, schedule=samplers.karras(10.0, 0.01, n))
    if pair.startswith("diffpir"):
        limits: dict = {"cg_iterations": CG, "cg_tolerance": 0.0} if pair == "diffpir" else {}
        return lambda n: samplers.diffpir(task, noise, schedule=samplers.karras(10.0, 0.01, n), **limits)
    if pair == "annealed_langevin":
        return lambda n: samplers.annealed_langevin(task, noise, likelihood="exact", schedule=(NOISE,) * n)
    return lambda n: samplers.pula(task, noise, schedule=samplers.geometric(10.0, 0.01, n), denoise_last=False)


def deepinv(pair: str, size: int, net: Any) -> Callable[[int], object]:
    """Return a function that takes a number of deepinv's steps."""
    import torch
    from deepinv.optim import L2, ScorePrior
    from deepinv.physics import MultiCoilMRI
    from deepinv.sampling import DPS, BaseSampling, DiffPIR
    from deepinv.sampling.sampling_iterators import ULAIterator

    kspace, mask, maps = problem(size)
    physics = MultiCoilMRI(mask=mask.float().expand(size, size).clone(), coil_maps=maps[None], img_size=(size, size))
    y = torch.view_as_real(kspace).permute(3, 0, 1, 2)[None].contiguous()  # (1, 2, coil, h, w)
    start = torch.randn(1, 2, size, size)

    class Denoiser(torch.nn.Module):
        """Our denoiser, on the real channels that deepinv keeps."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Any, sigma: Any, **_: Any) -> Any:
            sigma = torch.as_tensor(sigma, dtype=x.dtype).expand(len(x)).view(-1, 1, 1, 1)
            total = (sigma.square() + 0.5).sqrt()
            return 0.5 / total.square() * x + sigma * 0.5**0.5 / total * self.net(x / total, sigma.flatten().log())

    denoiser = Denoiser()
    if pair == "dps":
        # float32 and no rescaling, as ours; its defaults cost more
        own: dict = {"schedule": "ve", "dtype": torch.float32, "minus_one_one": False}
        return lambda n: DPS(denoiser, num_steps=n, **own)(y, physics, x_init=start.clone())
    if pair.startswith("diffpir"):
        if pair == "diffpir":
            physics.max_iter, physics.tol = CG, 0.0
        return lambda n: DiffPIR(denoiser, L2(), sigma=NOISE, max_iter=n, zeta=1.0, lambda_=8.0)(y, physics)
    step = {"step_size": 1e-3, "alpha": 1.0, "sigma": NOISE}
    return lambda n: BaseSampling(  # without its statistics
        ULAIterator(step), L2(sigma=NOISE), ScorePrior(denoiser), max_iter=n, burnin_ratio=1.0
    ).sample(y, physics)


def work(which: str) -> None:
    """Answer a pair, a size and a number of steps with the seconds of one step, without set-up."""
    import torch

    net, run = network("compact"), {}
    torch.nn.init.normal_(net.last[-1].weight, std=0.01)

    def answer(pair: str, size: int, n: int) -> float:
        key = (pair, size, n)
        if key not in run:
            run[key] = {"ours": ours, "deepinv": deepinv}[which](pair, size, net)
        seconds = []
        for steps in (2, n + 2):
            start = clock()
            run[key](steps)
            seconds.append(clock() - start)
        return (seconds[1] - seconds[0]) / n

    serve(answer)


def compare(options: argparse.Namespace) -> None:
    """Print the times of a step of ours and of deepinv's."""
    source = str(Path(__file__).parents[1] / "src")  # the peer reads the network's file, which imports torch alone
    environment = {"OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": source}
    pythons = {"ours": sys.executable, "deepinv": options.peer}
    workers = {name: Worker(name, [python, __file__, "work", name], **environment) for name, python in pythons.items()}
    for size in options.sizes:
        for pair in options.pairs:
            alternate(workers, pair, size, 1, repeats=1)  # the first call allocates
            seconds = alternate(workers, pair, size, options.steps, repeats=options.repeats)
            milliseconds = {name: 1e3 * statistics.median(runs) for name, runs in seconds.items()}
            print(
                f"{COILS}x{size}x{size}, {PAIRS[pair]}: ours {milliseconds['ours']:.0f} ms, "
                f"deepinv {milliseconds['deepinv']:.0f} ms, ratio {ratio(seconds['ours'], seconds['deepinv'])}",
                flush=True,
            )
    for worker in workers.values():
        worker.close()


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("profile")
    first.add_argument("--chains", type=int, nargs="*", default=[1, 8])
    first.add_argument("--every", type=int, default=8, help="run the network at every so many steps")
    first.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=NETWORKS)
    second = commands.add_parser("compare")
    second.add_argument("--peer", required=True, help="Python of the environment that has deepinv")
    second.add_argument("--repeats", type=int, default=5)
    second.add_argument("--steps", type=int, default=4, help="of each run")
    second.add_argument("--pairs", nargs="*", default=list(PAIRS), choices=list(PAIRS))
    for command in (first, second):
        command.add_argument("--sizes", type=int, nargs="*", default=[256])
        command.add_argument("--threads", type=int, default=1)
    commands.add_parser("work").add_argument("which", choices=["ours", "deepinv"])
    options = parser.parse_args()
    if options.command == "work":
        work(options.which)
    else:
        {"profile": profile, "compare": compare}[options.command](options)


if __name__ == "__main__":
    main()
