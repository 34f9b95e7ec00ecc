"""``spinwarp-serve``: reconstruct while a scanner measures, over the MRD streaming protocol."""

import logging
import signal
from typing import Any, NoReturn

from omegaconf import DictConfig

from spinwarp.cli import app

log = logging.getLogger("spinwarp")
TYPES = {
    "maps": str,
    "host": str,
    "port": int,
    "connections": int,
    "memory_gb": float,
    "timeout": float,
    "device": str,
    "seed": int,
}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main() -> None:
    """Entry point of ``spinwarp-serve``."""
    app.run("serve", serve, TYPES)


def serve(config: DictConfig) -> None:
    """Listen until Ctrl-C or SIGTERM, and then finish the images under way."""
    from hydra.core.hydra_config import HydraConfig

    from spinwarp.cli.method import build_method, hand_over_maps
    from spinwarp.cli.serving import LiveMethod, Server
    from spinwarp.data.given import GivenMaps
    from spinwarp.data.undersample import MAPS, Undersample
    from spinwarp.errors import InputError

    app.check_device(config.device)
    hand_over_maps(config, config)
    given = None if config.maps in MAPS else GivenMaps(config.maps)
    method = build_method(config, HydraConfig.get().runtime.choices)
    if method.n_adjacent > 1:
        raise InputError(
            f"{method.name} sees {method.n_adjacent} adjacent slices at once, and a live scan is reconstructed slice "
            f"by slice; take a method of one slice"
        )
    live = LiveMethod(
        method.reconstructor.to(config.device),
        Undersample(None, MAPS.get(config.maps)),
        method.name,
        config.device,
        config.seed,
        given,
    )
    server = Server(live, config.host, config.port, config.connections, 1e9 * config.memory_gb, config.timeout)
    if config.host not in _LOOPBACK:
        log.warning("whoever reaches %s can send raw data and read images: the protocol has no password", server.host)
    log.info("%s listens on %s:%d", method.name, server.host, server.port)
    # SIGTERM stops a container; a shell starts what runs in the background with SIGINT ignored
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run()
    except KeyboardInterrupt:
        log.info("stopped; the images under way are sent")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: Any) -> NoReturn:  # noqa: ARG001
    raise KeyboardInterrupt
