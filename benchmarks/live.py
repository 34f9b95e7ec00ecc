"""Latency of spinwarp-serve: from the last line of a slice to its image, with its parts.

    OMP_NUM_THREADS=1 python benchmarks/live.py recon=zero_filled
    python benchmarks/live.py recon=cg_sense recon.weight=0.01 --coils 16 --size 320 320 --slices 8

Server and client run in one process and talk over a loopback socket, with the client of the tests. Random k-space is
streamed line by line, a slice after the other; the client waits for each image before it sends the next slice, so that
no slice waits for another. ``assemble`` puts the lines into k-space, ``method`` makes coil maps and the image,
``rest`` is what the socket, the protocol and the threads take. The median of the slices but the first is printed.
"""

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cli"))


@contextmanager
def timed(owner: Any, name: str, seconds: list[float]) -> Iterator[None]:
    """Note how long each call of a method takes."""
    original: Callable[..., Any] = getattr(owner, name)

    def measured(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return original(*arguments)
        finally:
            seconds.append(time.perf_counter() - start)

    setattr(owner, name, measured)
    try:
        yield
    finally:
        setattr(owner, name, original)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of serve.yaml, such as recon=tv")
    parser.add_argument("--coils", type=int, default=16)
    parser.add_argument("--size", type=int, nargs=2, default=(320, 320), metavar=("H", "W"))
    parser.add_argument("--slices", type=int, default=8)
    options = parser.parse_intermixed_args()

    from hydra import compose, initialize_config_dir
    from mrd_client import CLOSE, Client, readout, text, xml
    from omegaconf import OmegaConf

    from spinwarp.cli import serving
    from spinwarp.cli.app import conf_folder
    from spinwarp.cli.method import build_method
    from spinwarp.cli.serving import LiveMethod, Server
    from spinwarp.coils import low_resolution_maps
    from spinwarp.data.undersample import Undersample

    OmegaConf.register_new_resolver("stamp", lambda *_: "now")
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("serve", options.overrides, return_hydra_config=True)
    method = build_method(config, dict(config.hydra.runtime.choices))
    undersample = Undersample(None, low_resolution_maps if config.maps == "low_resolution" else None)
    live = LiveMethod(method.reconstructor.to(config.device), undersample, method.name, config.device)
    server = Server(live, "127.0.0.1", 0, 1, 8e9, 600.0)
    thread = threading.Thread(target=server.run)
    thread.start()
    h, w = options.size
    rng = np.random.default_rng(0)
    totals: list[float] = []
    assemble: list[float] = []
    compute: list[float] = []
    try:
        with timed(serving, "read_slices", assemble), timed(LiveMethod, "__call__", compute):
            client = Client((server.host, server.port))
            client.send(text(3, xml(h, w)))
            for index in range(options.slices):
                shape = (options.coils, h, w)
                kspace = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
                *lines, last = (readout(kspace[..., step], step, index) for step in range(w))
                for line in lines:
                    client.send(line)
                time.sleep(0.05)  # the server has them all
                start = time.perf_counter()
                client.send(last)
                client.wait_for(index + 1)
                totals.append(time.perf_counter() - start)
            client.send(CLOSE)
            client.finish()
    finally:
        server.stop()
        thread.join()
    total, first, second = (1e3 * statistics.median(seconds[1:]) for seconds in (totals, assemble, compute))
    print(f"{method.name}, {options.coils} coils of {h}x{w}, {config.device}, {torch.get_num_threads()} threads")
    print(f"{total:.0f} ms: assemble {first:.0f}, method {second:.0f}, rest {total - first - second:.0f}")


if __name__ == "__main__":
    main()
