"""A server of live reconstruction in a thread of a test, and slices to send to it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from mrd_client import CLOSE, LAST_IN_SLICE, Client, Received, configuration, readout, text, xml

from spinwarp.cli.serving import LiveMethod, Server
from spinwarp.coils import low_resolution_maps
from spinwarp.data.undersample import Undersample
from spinwarp.recon import Reconstructor, ZeroFilled

COILS, H, W = 3, 24, 20


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.RandomState(seed)
    return (rng.randn(*shape) + 1j * rng.randn(*shape)).astype(np.complex64)


def root_sum_of_squares(kspace: np.ndarray) -> np.ndarray:
    shifted = np.fft.ifftshift(kspace, (-2, -1))
    images = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), (-2, -1))
    return np.sqrt((np.abs(images) ** 2).sum(-3))


def lines(kspace: np.ndarray, index: int = 0, **changes: Any) -> list[bytes]:
    """The readouts of one slice ``(coil, h, w)``, the last with its flag."""
    n = kspace.shape[-1]
    flags = [LAST_IN_SLICE * (step == n - 1) for step in range(n)]
    return [readout(kspace[..., step], step, index, flags[step], **changes) for step in range(n)]


@contextmanager
def serving(method: Reconstructor | None = None, **options: Any) -> Iterator[Server]:
    live = LiveMethod(method or ZeroFilled(), Undersample(None, low_resolution_maps), "zero_filled")
    settings = {"connections": 5, "memory": 1e8, "timeout": 20.0, **options}
    before = set(threading.enumerate())
    server = Server(live, "127.0.0.1", 0, **settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(timeout=60)
        assert not thread.is_alive()
        assert set(threading.enumerate()) == before  # nothing hangs
    with pytest.raises(OSError):
        socket.create_connection((server.host, server.port), timeout=1)


def connected(server: Server, **options: Any) -> Client:
    return Client((server.host, server.port), **options)


def streamed(server: Server, *messages: bytes, header: str | None = None) -> tuple[list[Received], list[str]]:
    client = connected(server)
    client.send(configuration(), text(3, header or xml(H, W)), *messages, CLOSE)
    return client.finish(), client.texts
