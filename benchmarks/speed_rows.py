"""The rows of ``speed.py``: what is timed, beside whom, and how each side is run.

The functions import what they need themselves, because each runs in the environment of its own library.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Seconds = Callable[[], float]


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Parameters
    ----------
    name : of the row.
    peer : who is beside us: a library with an environment of its own, or a side of :data:`SIDES` in ours.
    goal : largest ratio of our time to the peer's; without a peer, the largest number of seconds.
    setting : passed to the functions of both sides.
    """

    name: str
    peer: str
    goal: float
    setting: tuple = ()


ROWS = (
    *(
        Row(f"VarNet {size}, {'forward and backward' if back else 'forward'}", "fastmri", 0.75, (size, back))
        for size in ("8x256x256, 4 cascades of 8", "15x640x368, 4 cascades of 8")
        for back in (False, True)
    ),
    Row("loading 15x640x368 for a VarNet", "h5py", 1 / 0.7),
    Row("SSIM of 36x320x320", "skimage", 0.5),
    Row("pula, a step at 8x256x256", "deepinv", 1.0, ("pula",)),
    Row("ConvDecoder 8x320x320 of 64 channels, an iteration", "deepinv", 0.7, ("convdecoder",)),
    Row("TV 8x256x256 with weight: auto", "one solve", 2.0),
    Row("CG-SENSE 8x256x256, 30 iterations", "sigpy", 1.0, ("cg", 30)),
    Row("TV 8x256x256, 20 iterations beside 100 of PDHG", "sigpy", 1.0, ("tv", 20, 100)),
    Row("wavelets 8x256x256, 40 iterations", "sigpy", 1.0, ("wavelet", 40)),
    Row("ESPIRiT 8x256x256", "sigpy", 1.0, ("espirit", 1)),
    Row("the 34 phantoms of the demo", "", 20.0),
)


def run_of(row: Row, side: str) -> Seconds:
    """Prepare a side of a row, and return what runs it once and says how long that took."""
    kind = row.name.split()[0]
    if kind == "VarNet":
        import varnet

        size, back = row.setting
        return _timed(_varnet({"ours": varnet.ours, "fastmri": varnet.fastmri}[side](*varnet.SIZES[size]), back))
    if row.peer == "sigpy":
        return _classical(side, *row.setting)
    functions = {"loading": _loading, "SSIM": _ssim, "pula,": _pula, "ConvDecoder": _decoder, "TV": _tv}
    return functions[kind](side) if kind in functions else _phantoms()


def _timed(function: Callable[[], object], per: float = 1) -> Seconds:
    def seconds() -> float:
        start = time.perf_counter()
        function()
        return (time.perf_counter() - start) / per

    return seconds


def _varnet(forward: Callable[[], Any], back: bool) -> Callable[[], object]:
    import torch

    def run() -> None:
        if back:
            forward().sum().backward()
        else:
            with torch.inference_mode():
                forward()

    return run


def _loading(side: str) -> Seconds:
    """Read eight slices of two files of 15x640x368, by our loader with masks or by h5py alone."""
    import h5py

    folder = Path(tempfile.gettempdir()) / f"spinwarp_benchmark_{os.getuid()}" / "val"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{i}.h5" for i in range(2)]
    if not all(file.exists() for file in files):
        rng = np.random.RandomState(0)
        distance = np.hypot(np.arange(640)[:, None] - 320, np.arange(368) - 184)
        decay = (1 / (1 + distance) + 0.01).astype(np.float32)
        for file in files:
            with h5py.File(file, "w") as stored:
                parts = rng.standard_normal((4, 15, 640, 368, 2)).astype(np.float32) * decay[..., None]
                stored["kspace"] = parts.view(np.complex64)[..., 0]
                stored["reconstruction_rss"] = np.ones((4, 320, 320), np.float32)

    def alone() -> None:
        for file in files:
            for i in range(4):
                with h5py.File(file) as stored:
                    stored["kspace"][i]

    if side == "h5py":
        return _timed(alone, 8)
    from spinwarp.data.fastmri import FastMRIFiles, Folders
    from spinwarp.data.module import FastMRIDataModule
    from spinwarp.masks import RandomMask

    source = FastMRIFiles("benchmark", Folders(str(folder.parent), val="val"))
    loader = FastMRIDataModule(source, RandomMask([0.08], [4])).val_dataloader()
    return _timed(lambda: [None for _ in loader], 8)


def _ssim(side: str) -> Seconds:
    rng = np.random.RandomState(0)
    target = rng.rand(36, 320, 320).astype(np.float32)
    image = (target + 0.1 * rng.standard_normal(target.shape)).astype(np.float32)
    if side == "skimage":
        from skimage.metrics import structural_similarity

        return _timed(lambda: [structural_similarity(y, x, data_range=1.0) for x, y in zip(image, target, strict=True)])
    import torch

    from spinwarp.metrics import ssim

    x, y, largest = torch.from_numpy(image), torch.from_numpy(target), torch.ones(36)
    return _timed(lambda: ssim(x, y, largest))


def _pula(side: str) -> Seconds:
    import posterior
    import torch

    net = posterior.network("compact")
    torch.nn.init.normal_(net.last[-1].weight, std=0.01)
    make = posterior.ours if side == "ours" else posterior.deepinv
    steps = make("pula", 256, net)

    def seconds() -> float:  # without set-up
        few, more = (_timed(lambda n=n: steps(n))() for n in (2, 5))  # type: ignore[misc]
        return (more - few) / 3

    return seconds


def _decoder(side: str) -> Seconds:
    import untrained

    size = next(iter(untrained.SIZES))
    iterate = untrained.ours(size) if side == "ours" else untrained.deepinv(size)

    def seconds() -> float:
        few, more = (_timed(lambda n=n: iterate(n))() for n in (1, 4))  # type: ignore[misc]
        return (more - few) / 3

    return seconds


def _tv(side: str) -> Seconds:
    """Choose the weight and solve, or solve with the weight that was chosen."""
    from classical_problem import problem

    from spinwarp.recon import TotalVariation

    acquisition = _acquisition(problem(8, 256, 256, 20))
    auto = TotalVariation(maps="given")
    if side == "ours":
        return _timed(lambda: auto(acquisition))
    chosen: list[float] = []

    class Watched(TotalVariation):
        def solve(self, problem: Any, weight: Any) -> Any:
            chosen.append(float(weight[0]))
            return super().solve(problem, weight)

    Watched(maps="given")(acquisition)
    fixed = TotalVariation(chosen[-1], maps="given")
    return _timed(lambda: fixed(acquisition))


def _acquisition(data: dict[str, np.ndarray]) -> Any:
    import torch

    from spinwarp.acquisition import Acquisition

    tensors = {key: torch.from_numpy(value)[None] for key, value in data.items()}
    return Acquisition(tensors["kspace"], tensors["mask"][:, None, None], maps=tensors["maps"], n_acs=tensors["n_acs"])


def _classical(side: str, task: str, iterations: int, theirs: int = 0) -> Seconds:
    """Run a task of ``classical_libraries.py``; the seconds are those of its own watch, without conversion."""
    import contextlib

    from classical_libraries import LIBRARIES
    from classical_problem import Watch, problem

    data = problem(8, 256, 256, 20)
    library = LIBRARIES[side](data)
    if task == "espirit":
        return _timed(library.calibrate)

    def seconds() -> float:
        watch = Watch(data["image"], iterations if side == "ours" or not theirs else theirs, 0)
        with contextlib.suppress(StopIteration):
            library.solve(task, watch, weight=0.005)
        return watch.seconds[-1]

    return seconds


def _phantoms() -> Seconds:
    """Make two of the volumes; the time is that of all 34."""
    from spinwarp.data.phantom import Phantoms

    def make() -> None:
        with tempfile.TemporaryDirectory() as folder:
            Phantoms(folder, n_train=2, n_val=0, n_test=0).prepare()

    return _timed(make, 2 / 34)
