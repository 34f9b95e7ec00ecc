"""The server of live reconstruction, against a client that was written from the protocol alone."""

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from live_server import COILS, H, W, connected, drawn, lines, root_sum_of_squares, serving, streamed
from mrd_client import AXIAL, CLOSE, LAST_IN_SLICE, NOISE, Client, configuration, readout, text, waveform, xml
from torch import Generator

from spinwarp.acquisition import Acquisition, Header, Reconstruction
from spinwarp.cli.serving import LiveMethod, Server
from spinwarp.data.fastmri.layout import write_volume
from spinwarp.data.given import GivenMaps
from spinwarp.data.undersample import Undersample
from spinwarp.errors import InputError
from spinwarp.recon import CGSense, Reconstructor, ZeroFilled


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
