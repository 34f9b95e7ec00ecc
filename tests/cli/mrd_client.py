"""A client of the MRD streaming protocol, written from its specification alone, with nothing of spinwarp in it.

https://ismrmrd.readthedocs.io/en/latest/mrd_messages.html and mrd_raw_data.html, mrd_image_data.html
"""

import socket
import struct
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

# version, flags, measurement, scan counter, time, three physiological times, samples, available and active channels,
# channel mask, discard before and after, centre, encoding, trajectory, sample time, five vectors, nine counters and
# eight of the user, eight integers and eight numbers of the user
HEAD = struct.Struct("<H Q I I I 3I H H H 16Q H H H H H f 15f 9H 8H 8i 8f".replace(" ", ""))
# version, type, flags, measurement, matrix, field of view, channels, five vectors, six counters, times, type of image,
# index, series, eight integers and eight numbers of the user, length of the attributes
IMAGE = struct.Struct("<H H Q I 3H 3f H 15f 6H I 3I H H H 8i 8f I".replace(" ", ""))
AXIAL = ((10.0, -20.0, 30.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))  # position, read, phase, slice
NOISE, LAST_IN_SLICE = 2 ** (19 - 1), 2 ** (8 - 1)


@dataclass
class Received:
    """An image, ``(h, w)`` with the readout first, and what came with it."""

    pixels: np.ndarray
    slice: int
    series: int
    index: int
    position: np.ndarray
    directions: np.ndarray  # read, phase, slice
    field_of_view: tuple[float, ...]
    attributes: str


def xml(nx: int, ny: int, voxel: tuple[float, float, float] = (2.0, 2.0, 4.0), **changes: Any) -> str:
    """A header with encoded and reconstructed space alike; ``recon`` may be smaller."""
    rx, ry = changes.get("recon", (nx, ny))

    def space(name: str, x: int, y: int) -> str:
        return (
            f"<{name}><matrixSize><x>{x}</x><y>{y}</y><z>1</z></matrixSize><fieldOfView_mm><x>{x * voxel[0]}</x>"
            f"<y>{y * voxel[1]}</y><z>{voxel[2]}</z></fieldOfView_mm></{name}>"
        )

    return (
        f'<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>'
        f"{space('encodedSpace', nx, ny)}{space('reconSpace', rx, ry)}<encodingLimits><kspace_encoding_step_1>"
        f"<minimum>0</minimum><maximum>{ny - 1}</maximum><center>{ny // 2}</center></kspace_encoding_step_1>"
        f"<average><minimum>0</minimum><maximum>{changes.get('averages', 1) - 1}</maximum><center>0</center></average>"
        f"</encodingLimits><trajectory>cartesian</trajectory>{changes.get('extra', '')}</encoding></ismrmrdHeader>"
    )


def readout(samples: np.ndarray, step: int, index: int = 0, flags: int = 0, **changes: Any) -> bytes:
    """The message with one readout ``(coil, n)``."""
    n_coils, n = samples.shape
    position, *directions = changes.get("place", AXIAL)
    vectors = [*position, *(x for v in directions for x in v), 0, 0, 0]
    counters = [
        step,
        0,
        changes.get("average", 0),
        index,
        changes.get("contrast", 0),
        0,
        changes.get("repetition", 0),
        0,
        0,
    ]
    head = HEAD.pack(
        1, flags, 7, 0, 0, *[0] * 3, n, n_coils, n_coils, *[0] * 16, changes.get("pre", 0), 0, n // 2, 0,
        changes.get("trajectory", 0), 5.0, *vectors, *counters, *[0] * 8, *[0] * 8, *[0.0] * 8,
    )  # fmt: skip
    path = np.zeros(n * changes.get("trajectory", 0), "<f4").tobytes()
    return struct.pack("<H", 1008) + head + path + samples.astype("<c8").tobytes()


def waveform(n: int) -> bytes:
    head = struct.pack("<H6xQIIIHHfHH", 1, 0, 7, 0, 0, n, 2, 5.0, 1, 0)
    return struct.pack("<H", 1026) + head + np.zeros(2 * n, "<u4").tobytes()


def configuration(name: str = "default.xml") -> bytes:
    return struct.pack("<H", 1) + name.encode().ljust(1024, b"\0")


def text(number: int, content: str) -> bytes:
    return struct.pack("<HI", number, len(content)) + content.encode()


CLOSE = struct.pack("<H", 4)


class Client:
    """Connects, sends what it is told, and receives in a thread of its own until the server closes."""

    def __init__(self, address: tuple[str, int], listens: bool = True) -> None:
        self.socket = socket.create_connection(address, timeout=30)
        self.images: list[Received] = []
        self.times: list[float] = []
        self.texts: list[str] = []
        self.closed = False
        self.arrived = threading.Condition()
        self._thread = threading.Thread(target=self._receive)
        if listens:
            self._thread.start()

    def send(self, *messages: bytes) -> None:
        self.socket.sendall(b"".join(messages))

    def finish(self) -> list[Received]:
        """Wait until the server has closed, and return the images."""
        if not self._thread.ident:
            self._thread.start()
        self._thread.join(timeout=60)
        assert not self._thread.is_alive(), "the server did not close"
        self.socket.close()
        return self.images

    def wait_for(self, n: int) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.images) >= n, timeout=60), f"image {n} did not come"

    def vanish(self) -> None:
        """Cut the connection without a word: a reset, as when the power fails."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _read(self, n: int) -> bytes:
        content = b""
        while len(content) < n:
            part = self.socket.recv(n - len(content))
            if not part:
                raise ConnectionError
            content += part
        return content

    def _receive(self) -> None:
        try:
            while not self.closed:
                self._message()
            while self.socket.recv(1):
                raise AssertionError("something came after the server had closed")
        except (ConnectionError, OSError):
            pass

    def _message(self) -> None:
        (number,) = struct.unpack("<H", self._read(2))
        if number == 4:
            self.closed = True
        elif number == 5:
            self.texts.append(self._read(struct.unpack("<I", self._read(4))[0]).decode())
        else:
            assert number == 1022, number
            head = IMAGE.unpack(self._read(198))
            kind, matrix, view, channels = head[1], head[4:7], head[7:10], head[10]
            assert (kind, channels, matrix[2]) == (5, 1, 1)  # float
            vectors = np.array(head[11:26]).reshape(5, 3)
            (length,) = struct.unpack("<Q", self._read(8))
            assert length == head[-1]
            attributes = self._read(length).decode()
            x, y = matrix[:2]
            pixels = np.frombuffer(self._read(4 * x * y), "<f4").reshape(y, x).T
            with self.arrived:
                self.images.append(
                    Received(pixels, head[27], head[38], head[37], vectors[0], vectors[1:4], view, attributes)
                )
                self.arrived.notify_all()
