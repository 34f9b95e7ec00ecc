"""The server of live reconstruction, against a client that was written from the protocol alone."""

import io
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from mrd_client import (
    AXIAL,
    CLOSE,
    LAST_IN_SLICE,
    NOISE,
    Client,
    Received,
    configuration,
    readout,
    text,
    waveform,
    xml,
)
from torch import Generator

from spinwarp.acquisition import Acquisition, Header, Reconstruction
from spinwarp.cli.serving import LiveMethod, Server
from spinwarp.coils import low_resolution_maps
from spinwarp.data.fastmri.layout import write_volume
from spinwarp.data.given import GivenMaps
from spinwarp.data.undersample import Undersample
from spinwarp.errors import InputError
from spinwarp.recon import CGSense, Reconstructor, ZeroFilled

COILS, H, W = 3, 24, 20


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


def streamed(server: Server, *messages: bytes, header: str | None = None) -> tuple[list[Received], list[str]]:
    client = connected(server)
    client.send(configuration(), text(3, header or xml(H, W)), *messages, CLOSE)
    return client.finish(), client.texts


# --------------------------------------------------------------------------------------------- what is promised


@pytest.mark.slow
def test_a_phantom_is_streamed_to_a_process_and_is_what_reconstruct_py_makes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    """Four slices, two and two interleaved, lines in any order.

    SIGINT ends the server in good order, also where a shell started it in the background and therefore ignored SIGINT.
    """
    kspace = drawn(4, COILS, 32, 28)
    header = Header("phantom", "scan.h5", None, None, (2.0, 2.0, 4.0))
    write_volume(tmp_path / "scan.h5", kspace, header)
    recon = ["recon=cg_sense", "recon.iterations=4", "recon.weight=0.01"]
    from spinwarp.cli.reconstruct import main

    assert run(main, f"input={tmp_path / 'scan.h5'}", f"out={tmp_path / 'r'}", *recon).code == 0
    with h5py.File(tmp_path / "r" / "scan.h5") as file:
        expected = file["reconstruction"][()]
    command = [sys.executable, "-u", "-c", "from spinwarp.cli.serve import main; main()", *recon, "port=0"]
    environment = {**os.environ, "SPINWARP_RUNS": str(tmp_path / "runs")}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child inherits it
    try:
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        assert process.stdout is not None
        found = next(filter(None, (re.search(r"cg_sense listens on ([\d.]+):(\d+)", line) for line in process.stdout)))
        assert found[1] == "127.0.0.1"
        client = Client((found[1], int(found[2])))
        client.send(configuration(), text(2, '{"parameters": {}}'), text(3, xml(32, 28)))
        for pair in ((0, 1), (2, 3)):
            messages = [message for index in pair for message in lines(kspace[index], index)]
            random.Random(pair[0]).shuffle(messages)
            client.send(*messages, waveform(30))
            client.wait_for(pair[1] + 1)  # before the next slices are measured
        client.send(CLOSE)
        images = client.finish()
        assert client.closed and client.texts == []
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, out
    assert "stopped; the images under way are sent" in out and "Traceback" not in out
    assert sorted(image.slice for image in images) == [0, 1, 2, 3]
    for image in images:
        np.testing.assert_array_equal(image.pixels, expected[image.slice])  # bit for bit


def test_an_image_lies_where_its_readouts_say_and_has_the_size_that_the_header_asks_for() -> None:
    kspace = drawn(COILS, H, W)
    with serving() as server:
        (image,), _ = streamed(server, *lines(kspace, 5), header=xml(H, W, (2.0, 3.0, 4.0), recon=(16, 20)))
    position, *directions = map(np.array, AXIAL)
    np.testing.assert_allclose(image.position, position)  # of row 12 of 24, which is row 8 of the crop
    np.testing.assert_allclose(image.directions, directions)
    assert image.field_of_view == (32.0, 60.0, 4.0)
    assert (image.slice, image.series, image.index) == (5, 1, 1)
    assert "<name>SeriesDescription</name><value>zero_filled</value>" in image.attributes
    np.testing.assert_allclose(image.pixels, root_sum_of_squares(kspace)[4:20], rtol=1e-3, atol=1e-5)


def test_a_noise_scan_whitens_the_coils() -> None:
    kspace, noise = drawn(COILS, H, W), drawn(COILS, 400, seed=1) * np.array([1, 2, 5])[:, None]
    noise[1] += 0.5 * noise[0]
    with serving() as server:
        (image,), _ = streamed(server, *(readout(noise[:, i::4], 0, 0, NOISE) for i in range(4)), *lines(kspace))
    covariance = noise @ noise.conj().T / 400
    level = np.trace(covariance).real / COILS
    white = np.linalg.solve(np.linalg.cholesky(covariance / level), kspace.reshape(COILS, -1)).reshape(kspace.shape)
    # single precision
    np.testing.assert_allclose(image.pixels, root_sum_of_squares(white), rtol=1e-3)


def test_a_noise_scan_that_is_too_short_is_not_used_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    kspace = drawn(COILS, H, W)
    with serving() as server:
        (image,), _ = streamed(server, readout(drawn(COILS, 5), 0, 0, NOISE), *lines(kspace))
    np.testing.assert_allclose(image.pixels, root_sum_of_squares(kspace), rtol=1e-3, atol=1e-5)
    assert "noise scan is not used, so the coils stay as they are: 5 samples of noise are too few" in caplog.text


def test_averages_navigators_and_trajectories_are_as_the_protocol_says() -> None:
    kspace = drawn(2, COILS, H, W)
    twice = [message for average in (0, 1) for message in lines(kspace[average], average=average)]
    navigators = [readout(1e9 * kspace[0, ..., 0], 3, 0, 2 ** (bit - 1)) for bit in (23, 24, 27)]
    with serving() as server:
        (image,), _ = streamed(server, *navigators, *twice, header=xml(H, W, averages=2))
        np.testing.assert_allclose(image.pixels, root_sum_of_squares(kspace.mean(0)), rtol=1e-3)
        (image,), _ = streamed(server, *lines(kspace[0], trajectory=2))
        np.testing.assert_allclose(image.pixels, root_sum_of_squares(kspace[0]), rtol=1e-3, atol=1e-5)


def test_contrasts_and_repetitions_are_images_of_their_own() -> None:
    kspace = drawn(3, COILS, H, W)
    with serving() as server:
        messages = [*lines(kspace[0]), *lines(kspace[1], contrast=1), *lines(kspace[2], repetition=1)]
        images, _ = streamed(server, *messages)
    for image, expected in zip(images, kspace, strict=True):
        np.testing.assert_allclose(image.pixels, root_sum_of_squares(expected), rtol=1e-3, atol=1e-5)


ACCELERATED = (
    "<parallelImaging><accelerationFactor><kspace_encoding_step_1>2</kspace_encoding_step_1>"
    "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor></parallelImaging>"
)


def test_an_accelerated_slice_is_complete_with_its_last_readout() -> None:
    kspace = drawn(2, COILS, H, W)
    kspace[..., 1::2] = 0
    with serving() as server:
        client = connected(server)
        client.send(text(3, xml(H, W, extra=ACCELERATED)))
        for index in range(2):
            sampled = [readout(kspace[index, ..., step], step, index) for step in range(0, W - 2, 2)]
            client.send(*sampled, readout(kspace[index, ..., W - 2], W - 2, index, LAST_IN_SLICE))
            client.wait_for(index + 1)
        client.send(CLOSE)
        for image, expected in zip(client.finish(), kspace, strict=True):
            np.testing.assert_allclose(image.pixels, root_sum_of_squares(expected), rtol=1e-3, atol=1e-5)


def test_what_is_not_complete_at_the_end_is_reconstructed_and_said(caplog: pytest.LogCaptureFixture) -> None:
    kspace = drawn(COILS, H, W)
    with serving() as server:
        (image,), _ = streamed(server, *lines(kspace)[:-3])
    kspace[..., -3:] = 0
    np.testing.assert_allclose(image.pixels, root_sum_of_squares(kspace), rtol=1e-3, atol=1e-5)
    assert f"slice 0 ends with {W - 3} of {W} lines" in caplog.text


class Claiming(Reconstructor):
    """Zero-filled, with a standard deviation."""

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        image = ZeroFilled()(acquisition).image
        return Reconstruction(image, image.abs() / 8)


def test_a_standard_deviation_is_a_second_series() -> None:
    with serving(Claiming()) as server:
        images, _ = streamed(server, *lines(drawn(COILS, H, W)))
    assert [image.series for image in images] == [1, 2]
    np.testing.assert_allclose(images[1].pixels, images[0].pixels / 8, rtol=1e-6)
    assert "zero_filled, standard deviation" in images[1].attributes


# ------------------------------------------------------------------------- clients that are not as they should be

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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"connections": 0}, "connections=0 is at least 1"),
        ({"memory": 0.0}, "memory_gb=0"),
        ({"timeout": -1.0}, "timeout=-1"),
        ({"port": 99999}, "port=99999 is none; give a number from 0"),
        ({"port": 1, "host": "192.0.2.1"}, r"nothing can listen on host=192\.0\.2\.1 port=1"),
        ({"host": "no.such.host.invalid"}, r"nothing can listen on host=no\.such"),
    ],
)
def test_options_that_cannot_be_are_told(options: dict[str, Any], words: str) -> None:
    live = LiveMethod(ZeroFilled(), Undersample(None), "zero_filled")
    settings = {"host": "127.0.0.1", "port": 0, "connections": 1, "memory": 1e8, "timeout": 1.0, **options}
    with pytest.raises(InputError, match=words):
        Server(live, **settings)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("port=70000", "port=70000 is none"),
        ("port=scanner", "port=scanner is not a whole number"),
        ("maps=esprit", "maps=esprit is not low_resolution, espirit or none, nor a file or folder of coil maps"),
        ("recon.path=x", "there is no key recon.path"),
        ("device=cdua", "device=cdua cannot be used here"),
    ],
)
def test_a_command_that_cannot_be_ends_in_a_sentence(run: Any, override: str, words: str) -> None:
    from spinwarp.cli.serve import main

    done = run(main, override)
    assert done.code == 1 and words in done.err and "Traceback" not in done.err


def test_own_coil_maps_are_those_of_the_slice(tmp_path: Path) -> None:
    maps = drawn(4, COILS, H, W)
    maps /= np.sqrt((np.abs(maps) ** 2).sum(1, keepdims=True))
    np.save(tmp_path / "maps.npy", maps)
    truth = drawn(H, W, seed=1)
    shifted = np.fft.fft2(np.fft.ifftshift(maps[3] * truth, (-2, -1)), norm="ortho")
    kspace = np.fft.fftshift(shifted, (-2, -1)).astype(np.complex64)
    kspace[..., 1::2] = 0
    method = CGSense(weight=0.0, maps="given")
    live = LiveMethod(method, Undersample(None), "cg_sense", given=GivenMaps(str(tmp_path / "maps.npy")))
    mask = torch.arange(W) % 2 == 0
    ((_, image),) = live(Acquisition(torch.from_numpy(kspace)[None], mask[None, None, None]), 3)
    # three coils at twice the speed: the least squares problem has one solution
    np.testing.assert_allclose(image, np.abs(truth), atol=2e-3)


def test_the_structures_are_those_of_the_reference_library() -> None:
    ismrmrd = pytest.importorskip("ismrmrd", reason="the reference library of MRD is not installed")
    from spinwarp.data.live.protocol import HEAD, IMAGE_HEAD

    for ours, theirs in ((HEAD, ismrmrd.AcquisitionHeader), (IMAGE_HEAD, ismrmrd.ImageHeader)):
        names = ours.names or ()
        assert names == tuple(name for name, *_ in theirs._fields_)
        assert [ours.fields[name][1] for name in names] == [getattr(theirs, name).offset for name in names]
