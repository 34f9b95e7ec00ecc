"""Hostile clients of the live server, and hostile files of coil maps and masks."""

import random
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import Cases
from numpy.random import RandomState
from scipy.io import savemat

from spinwarp.acquisition import Acquisition, Example
from spinwarp.data.given import FileMask, GivenMaps
from spinwarp.data.live import protocol
from spinwarp.data.live.assemble import read_slices
from spinwarp.data.live.scan import LiveScan

N = 12
XML = (
    '<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding><encodedSpace><matrixSize><x>12</x><y>12</y><z>1</z>'
    "</matrixSize><fieldOfView_mm><x>240</x><y>240</y><z>5</z></fieldOfView_mm></encodedSpace><reconSpace><matrixSize>"
    "<x>12</x><y>12</y><z>1</z></matrixSize><fieldOfView_mm><x>240</x><y>240</y><z>5</z></fieldOfView_mm></reconSpace>"
    "<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>11</maximum><center>6</center>"
    "</kspace_encoding_step_1></encodingLimits></encoding></ismrmrdHeader>"
)


def stream() -> bytes:
    """A header, a noise scan and two slices of two coils."""
    rng = np.random.RandomState(0)
    content = struct.pack("<HI", protocol.HEADER, len(XML)) + XML.encode()
    for i in range(2 * N + 4):
        head = np.zeros((), protocol.HEAD)
        head["flags"] = 2**18 if i < 4 else 0
        head["number_of_samples"], head["active_channels"], head["center_sample"] = N, 2, N // 2
        head["idx"]["slice"], head["idx"]["kspace_encode_step_1"] = divmod(max(i - 4, 0), N)
        head["read_dir"], head["phase_dir"], head["slice_dir"] = np.eye(3)
        samples = (rng.randn(2, N) + 1j * rng.randn(2, N)).astype("<c8")
        content += struct.pack("<H", protocol.ACQUISITION) + head.tobytes() + samples.tobytes()
    return content + struct.pack("<H", protocol.CLOSE)


def consume(content: bytes, limit: int = 10**7) -> int:
    """Do what a connection does with what it reads; return the number of slices."""
    place = 0

    def read(n: int) -> bytes:
        nonlocal place
        if place + n > len(content):
            raise EOFError
        place += n
        return content[place - n : place]

    scan = None
    xml = ""
    n_slices = 0
    try:
        while (message := protocol.receive(read))[0] != protocol.CLOSE:
            number, inside = message
            if number == protocol.HEADER:
                xml, scan = str(inside), LiveScan("client", str(inside), limit)
            elif isinstance(inside, protocol.Readout) and scan is not None:
                key = scan.add(inside)
                if key is not None:
                    (made,) = read_slices("client", xml, [*scan.noise, *scan.take(key)])
                    assert made.kspace.isfinite().all()
                    n_slices += 1
    except EOFError:
        pass  # the client is gone
    return n_slices


def test_streams_that_are_cut_flipped_or_lie_are_refused_in_a_sentence(tmp_path: Path) -> None:
    whole = stream()
    assert consume(whole) == 2
    cases = Cases("live streams", tmp_path)
    chance = random.Random(0)
    for number in range(500):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(content))
            kind = number % 5
            if kind == 0:
                content[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                content[at : at + 4] = bytes([255] * 4)
            elif kind == 2:
                del content[at : at + chance.randint(1, 400)]
            elif kind == 3:
                content[at:at] = chance.randbytes(chance.randint(1, 40))
            else:  # the header, whose numbers rule everything after it
                at = 6 + chance.randrange(len(XML))
                content[at : at + 1] = chance.choice([b"9", b"<", b"-", b"\xff", b"0"])
        cases.run(f"stream {number}", lambda content=bytes(content): consume(content))
    for number in range(100):
        cases.run(f"noise {number}", lambda: consume(chance.randbytes(3000)))
    cases.check()


@pytest.mark.parametrize("kind", ["maps.npy", "maps.mat", "maps.cfl", "maps.hdr", "mask.npy", "mask.png"])
def test_maps_and_masks_that_are_cut_or_flipped_are_refused_in_a_sentence(tmp_path: Path, kind: str) -> None:
    from PIL import Image

    maps = np.ones((2, N, N), np.complex64)
    mask = (np.arange(N * N).reshape(N, N) % 3 == 0).astype(np.uint8)
    np.save(tmp_path / "maps.npy", maps)
    savemat(tmp_path / "maps.mat", {"maps": maps.transpose(1, 2, 0)})
    maps.tofile(tmp_path / "maps.cfl")
    (tmp_path / "maps.hdr").write_text(f"# Dimensions\n{N} {N} 1 2 1\n")
    np.save(tmp_path / "mask.npy", mask)
    Image.fromarray(mask * 255).save(tmp_path / "mask.png")
    example = Example(
        Acquisition(torch.zeros(1, 2, N, N) + 0j, torch.ones(1, 1, 1, N) > 0), None, torch.ones(1), ("a.h5",), (0,)
    )

    def read() -> None:
        if kind.startswith("maps"):
            GivenMaps(str(tmp_path / kind.replace("hdr", "cfl")))(example)
        else:
            FileMask(str(tmp_path / kind))((N, N), RandomState(0))

    read()
    path = tmp_path / kind
    whole = path.read_bytes()
    cases = Cases("own maps and masks", tmp_path)
    chance = random.Random(1)
    for number in range(60):
        content = bytearray(whole)
        if number % 2:
            del content[chance.randrange(len(content)) :]
        else:
            for _ in range(3):
                content[chance.randrange(min(len(content), 200))] = chance.randrange(256)
        path.write_bytes(content)
        cases.run(f"{kind} {number}", read)
    cases.check()
