"""Clients of live reconstruction that are wrong, slow, many or gone: each is served or told why, and harms no other."""

import io
import random
import re
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_server import COILS, H, W, connected, drawn, lines, root_sum_of_squares, serving, streamed
from mrd_client import CLOSE, configuration, readout, text, xml
from torch import Generator

from spinwarp.acquisition import Acquisition, Reconstruction
from spinwarp.recon import Reconstructor, ZeroFilled

LINE = drawn(COILS, H)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([struct.pack("<H", 4711)], "message 4711 is none that raw data consist of"),
        ([b"GET / HTTP/1.1\r\nHost: scanner\r\n\r\n"], "message 17735 is none"),
        ([struct.pack("<HI", 3, 2**31)], "a header of 2147 MB is longer than any"),
        ([readout(LINE, 0)], "a readout came before the header"),
        ([text(3, xml(H, W))] * 2, "a second header came"),
        ([text(3, "<not xml")], "the header"),
        ([text(3, "<!DOCTYPE a [<!ENTITY b 'c'>]><a/>")], "document type"),
        ([text(3, "<ismrmrdHeader/>")], "encoding"),
        ([text(3, xml(60000, 60000)), readout(LINE, 0)], "takes more than"),
        ([text(3, xml(H, W)), readout(LINE[:0], 0)], "a readout has no samples"),
        ([text(3, xml(H, W)), *lines(drawn(COILS, H + 1, W))], "a readout of .*25 samples.* does not fit"),
        ([text(3, xml(H, W)), *lines(drawn(COILS, H, W) * np.nan)], "NaN or infinite"),
        (
            [text(3, xml(H, W)), *lines(drawn(COILS, H, W))[1:], readout(drawn(4, H), 0)],
            "does not fit|numbers of coils",
        ),
        ([text(3, xml(H, W)), *lines(drawn(COILS, H, W)) * 2], "came when its image was made already"),
        ([text(3, xml(H, W)), *(readout(drawn(9, 60000), 0, i) for i in range(3))], "take more than 0.01 GB"),
    ],
    ids=range(15),
)
def test_a_wrong_client_is_told_why_and_ends_alone(messages: list[bytes], words: str) -> None:
    with serving(memory=1e8) as server:
        other = connected(server)
        other.send(text(3, xml(H, W)), *lines(drawn(COILS, H, W))[:5])
        client = connected(server)
        client.send(*messages)
        client.finish()
        assert client.closed
        assert len(client.texts) == 1 and re.search(words, client.texts[0]), client.texts
        other.send(*lines(drawn(COILS, H, W))[5:], CLOSE)
        assert len(other.finish()) == 1 and other.closed


class Failing(Reconstructor):
    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        raise ZeroDivisionError("a bug")


def test_a_bug_in_the_method_ends_one_connection_and_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Failing()) as server:
        for _ in range(2):
            images, texts = streamed(server, *lines(drawn(COILS, H, W)))
            assert not images and texts == ["the server failed; its log says why"]
    assert caplog.text.count("ZeroDivisionError: a bug") == 2


def open_files() -> int:
    folder = Path("/proc/self/fd")  # only Linux has it
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def test_clients_that_vanish_leave_nothing_behind() -> None:
    chance = random.Random(0)
    kspace = drawn(3, COILS, H, W)
    whole = b"".join([configuration(), text(3, xml(H, W)), *(m for i in range(3) for m in lines(kspace[i], i))])
    with serving(connections=3) as server:
        n_files = open_files()
        for i in range(10):
            client = connected(server, listens=False)
            client.send(whole[: chance.randrange(len(whole))])
            if i % 2:
                time.sleep(0.02)
            client.vanish()
        images, _ = streamed(server, *lines(kspace[0]))
        assert len(images) == 1
        deadline = time.monotonic() + 20
        while server._open and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not server._open
        assert open_files() == n_files
        assert all(len(streamed(server, *lines(kspace[i]))[0]) == 1 for i in range(3))


def test_twenty_clients_one_after_another_and_five_at_once_get_their_own_images() -> None:
    kspace = drawn(20, COILS, H, W)
    expected = root_sum_of_squares(kspace)
    with serving(connections=5) as server:
        for i in range(20):
            (image,), _ = streamed(server, *lines(kspace[i]))
            np.testing.assert_allclose(image.pixels, expected[i], rtol=1e-3, atol=1e-5)
        clients = [connected(server) for _ in range(5)]
        for client in clients:
            client.send(text(3, xml(H, W)))
        for step in range(W):
            for i, client in enumerate(clients):
                client.send(readout(kspace[i, ..., step], step))
        for i, client in enumerate(clients):
            client.send(CLOSE)
            (image,) = client.finish()
            np.testing.assert_allclose(image.pixels, expected[i], rtol=1e-3, atol=1e-5)


def test_more_clients_than_the_limit_wait_for_their_turn() -> None:
    kspace = drawn(COILS, H, W)
    with serving(connections=1) as server:
        first, second = connected(server), connected(server)
        second.send(text(3, xml(H, W)), *lines(kspace), CLOSE)
        first.send(text(3, xml(H, W)), *lines(kspace))
        first.wait_for(1)
        assert not second.images and not second.closed
        first.send(CLOSE)
        assert len(first.finish()) == 1
        assert len(second.finish()) == 1


@pytest.mark.parametrize("dribbles", [False, True])
def test_a_client_that_is_too_slow_is_given_up(dribbles: bool) -> None:
    with serving(timeout=0.3) as server:
        client = connected(server)
        client.send(text(3, xml(H, W)), readout(LINE, 0)[:100])
        started = time.monotonic()
        while dribbles and not client.closed and time.monotonic() < started + 5:
            time.sleep(0.05)
            try:
                client.send(b"\0")
            except OSError:
                break
        client.finish()
        assert client.texts == ["no whole message came or could be sent within 0.3 seconds"]
        assert time.monotonic() - started < 4
        assert len(streamed(server, *lines(drawn(COILS, H, W)))[0]) == 1


def test_a_client_that_reads_only_after_it_has_sent_everything_is_served() -> None:
    """More images than the buffers of the sockets hold."""
    kspace = drawn(1, 256, 250)
    with serving() as server:
        client = connected(server, listens=False)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
        messages = lines(kspace)
        client.send(text(3, xml(256, 250)), *messages)
        for index in range(1, 30):
            client.send(*lines(kspace, index))
        client.send(CLOSE)
        assert len(client.finish()) == 30


class Gated(Reconstructor):
    """Zero-filled, once the gate is open."""

    def __init__(self) -> None:
        self.begun, self.gate = threading.Event(), threading.Event()

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        self.begun.set()
        assert self.gate.wait(30)
        return ZeroFilled()(acquisition)


def test_a_client_may_wait_for_its_images_longer_than_it_may_be_silent() -> None:
    method = Gated()
    with serving(method, timeout=0.3) as server:
        client = connected(server)
        client.send(text(3, xml(H, W)), *lines(drawn(COILS, H, W)))
        time.sleep(1.0)
        method.gate.set()
        client.wait_for(1)
        client.send(CLOSE)
        assert len(client.finish()) == 1 and client.texts == []


def test_a_trajectory_that_is_not_used_takes_no_memory() -> None:
    from spinwarp.data.live.protocol import Readout, receive

    stream = io.BytesIO(readout(LINE, 0, trajectory=40))
    _, received = receive(stream.read)
    assert isinstance(received, Readout)
    owner: Any = received.samples
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert len(owner) == LINE.nbytes
    np.testing.assert_array_equal(received.samples, LINE)


def test_a_server_that_stops_finishes_the_image_under_way_and_no_other() -> None:
    method = Gated()
    kspace = drawn(2, COILS, H, W)
    with serving(method) as server:
        client = connected(server)
        client.send(text(3, xml(H, W)), *lines(kspace[0], 0), *lines(kspace[1], 1))
        assert method.begun.wait(30)
        server.stop()
        time.sleep(0.5)
        method.gate.set()
        images = client.finish()
    assert [image.slice for image in images] == [0] and client.closed
