"""A server that reconstructs slices while a scanner measures, over the MRD streaming protocol."""

import logging
import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import RandomState

from spinwarp.acquisition import Acquisition, Example
from spinwarp.cli.method import magnitudes
from spinwarp.data.given import GivenMaps
from spinwarp.data.live import protocol
from spinwarp.data.live.assemble import read_slices
from spinwarp.data.live.protocol import Readout
from spinwarp.data.live.scan import Key, LiveScan
from spinwarp.data.undersample import Undersample
from spinwarp.errors import InputError
from spinwarp.recon.base import Reconstructor

log = logging.getLogger("spinwarp")
_VOLUME = "live"  # random numbers depend on it, and a slice that is measured again gets the same
_TICK = 0.2  # seconds between looks at whether the server is to stop
_GOODBYE = 2.0  # seconds in which a client may read why its connection ends


class LiveMethod:
    """A method, one slice at a time, whatever the number of connections.

    Parameters
    ----------
    reconstructor : on ``device``.
    undersample : makes the coil maps.
    name : of the method, sent with the images.
    device, seed : of the method.
    given : coil maps of the user's own, or None.
    """

    def __init__(
        self,
        reconstructor: Reconstructor,
        undersample: Undersample,
        name: str,
        device: str = "cpu",
        seed: int = 0,
        given: GivenMaps | None = None,
    ) -> None:
        self.reconstructor = reconstructor
        self.undersample = undersample
        self.name = name
        self.device = device
        self.seed = seed
        self.given = given
        self._lock = threading.Lock()

    def __call__(self, acquisition: Acquisition, index: int) -> list[tuple[str, np.ndarray]]:
        """Return the magnitude ``(h, w)`` of a slice, and its standard deviation if there is one, with their titles."""
        example = Example(acquisition, None, torch.ones(1), (_VOLUME,), (index,))
        with self._lock:
            if self.given is not None:
                example = self.given(example)
            example = self.undersample(example, RandomState(0))
            names = [f"slice {index} of the scan"]
            image, std = magnitudes(self.reconstructor, example, self.seed, self.device, names)
        found = [(self.name, image[0])]
        return found if std is None else [*found, (f"{self.name}, standard deviation", std[0])]


class Server:
    """Accepts connections until it is stopped. Weights are loaded once, and a connection that fails ends alone.

    Parameters
    ----------
    method : what reconstructs.
    host, port : where to listen; port 0 takes any that is free.
    connections : that are served side by side; others wait.
    memory : bytes that the readouts of unfinished slices may take, of all connections together.
    timeout : seconds without a whole message after which a client counts as lost.

    Raises
    ------
    InputError : if an option cannot be, or nothing can listen there.
    """

    def __init__(
        self, method: LiveMethod, host: str, port: int, connections: int, memory: float, timeout: float
    ) -> None:
        if connections < 1 or memory <= 0 or timeout <= 0:
            raise InputError(
                f"connections={connections} is at least 1, and memory_gb={memory / 1e9:g} and timeout={timeout:g} are "
                f"above 0"
            )
        if not 0 <= port < 2**16:
            raise InputError(f"port={port} is none; give a number from 0, which takes any that is free, to 65535")
        self.method = method
        self.memory = int(memory / connections)
        self.timeout = timeout
        self._slots = threading.Semaphore(connections)
        self._stopping = threading.Event()
        self._open: dict[threading.Thread, _Connection] = {}
        try:
            self._socket = socket.create_server((host, port))
        except OSError as error:
            raise InputError(f"nothing can listen on host={host} port={port} ({error}); give another port=") from error
        self._socket.settimeout(_TICK)
        self.host, self.port = self._socket.getsockname()[:2]

    def run(self) -> None:
        """Serve until :meth:`stop` is called or Ctrl-C comes; finish the images under way before returning."""
        try:
            while not self._stopping.is_set():
                if not self._slots.acquire(timeout=_TICK):
                    continue
                try:
                    accepted, address = self._socket.accept()
                except OSError as error:  # nobody came, or went again at once
                    self._slots.release()
                    if not isinstance(error, TimeoutError):
                        log.warning("a connection could not be accepted (%s)", error)
                        self._stopping.wait(_TICK)
                    continue
                name = f"{address[0]}:{address[1]}"
                connection = _Connection(accepted, name, self.method, self.memory, self.timeout)
                thread = threading.Thread(target=self._serve, args=(connection,), name=name)
                self._open[thread] = connection
                thread.start()
        finally:
            self._socket.close()
            for thread, connection in list(self._open.items()):
                connection.stop()
                thread.join()

    def stop(self) -> None:
        """Let :meth:`run` end."""
        self._stopping.set()

    def _serve(self, connection: "_Connection") -> None:
        try:
            connection.run()
        finally:
            self._slots.release()
            self._open.pop(threading.current_thread(), None)


@dataclass(frozen=True)
class _Job:
    """A complete slice, with the noise that was known when it was complete."""

    key: Key
    readouts: list[Readout]
    noise: list[Readout]

    @property
    def n_bytes(self) -> int:
        return sum(readout.samples.nbytes for readout in self.readouts)


class _ClientGoneError(Exception):
    """The client is not there any more, or too slow."""


class _Connection:
    """One client: this thread listens, another reconstructs and sends.

    Half of the memory is for the readouts of unfinished slices. The other half is for complete slices that wait for the
    method, or for a client that does not read its images; when it is full, the client has to wait.
    """

    def __init__(self, accepted: socket.socket, name: str, method: LiveMethod, memory: int, timeout: float) -> None:
        self.socket = accepted
        self.name = name
        self.method = method
        self.memory = memory // 2
        self.timeout = timeout
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._waiting = 0  # bytes in the queue
        self._changed = threading.Condition()
        self._ended = threading.Event()  # no image is wanted any more
        self._sending = threading.Lock()  # a message goes out whole
        self._xml = ""
        self._scan: LiveScan | None = None
        self._n_sent = 0

    def run(self) -> None:
        """Serve the client to its end; nothing that it does raises."""
        self.socket.settimeout(self.timeout)
        log.info("%s: connected", self.name)
        worker = threading.Thread(target=self._work, name=f"{self.name} method")
        worker.start()
        try:
            with self._reported():
                self._listen()
        finally:
            self._jobs.put(None)
            worker.join()
            with suppress(OSError):
                self._send(protocol.close_message())
            self._say_goodbye()
            log.info("%s: %d images sent", self.name, self._n_sent)

    def stop(self) -> None:
        """Let the image under way be sent, and end."""
        self._ended.set()
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RD)

    def _listen(self) -> None:
        """Read messages until the client closes."""
        while True:
            number, content = protocol.receive(self._read)
            if number == protocol.CLOSE:
                break
            if number in (protocol.CONFIG_FILE, protocol.CONFIG_TEXT):
                log.info("%s: its configuration (%.60s) is not used; this server has one method", self.name, content)
            elif number == protocol.HEADER:
                if self._scan is not None:
                    raise InputError(f"{self.name}: a second header came; one connection is for one measurement")
                self._xml = str(content)
                self._scan = LiveScan(self.name, self._xml, self.memory)
            elif isinstance(content, Readout):
                if self._scan is None:
                    raise InputError(f"{self.name}: a readout came before the header")
                key = self._scan.add(content)
                if key is not None:
                    self._queue(self._scan, key)
        if self._scan is not None:
            for key in self._scan.rest():
                self._queue(self._scan, key)

    def _queue(self, scan: LiveScan, key: Key) -> None:
        """Let a slice be reconstructed; wait if too many are waiting."""
        job = _Job(key, scan.take(key), list(scan.noise))
        with self._changed:
            self._changed.wait_for(
                lambda: self._ended.is_set() or not self._waiting or self._waiting + job.n_bytes <= self.memory
            )
            self._waiting += job.n_bytes
        self._jobs.put(job)

    def _read(self, length: int) -> bytes:
        """Read exactly so many bytes, or give the client up; one that waits for images may take its time."""
        content, deadline = bytearray(length), time.monotonic() + self.timeout
        view = memoryview(content)
        while view:
            try:
                n = self.socket.recv_into(view)
            except TimeoutError:
                if self._waiting and len(view) == length:
                    continue
                raise
            if n == 0:
                raise _ClientGoneError("it closed the connection in the middle of the measurement")
            view = view[n:]
            if view and time.monotonic() > deadline and not self._waiting:
                raise TimeoutError
        return bytes(content)

    def _send(self, message: bytes) -> None:
        with self._sending:
            self.socket.sendall(message)

    def _work(self) -> None:
        """Reconstruct complete slices and send their images, until there are no more."""
        while (job := self._jobs.get()) is not None:
            if not self._ended.is_set():
                with self._reported():
                    self._make(job)
            with self._changed:
                self._waiting -= job.n_bytes
                self._changed.notify()

    def _make(self, job: _Job) -> None:
        """Reconstruct a slice and send its image."""
        acquisitions = read_slices(self.name, self._xml, [*job.noise, *job.readouts])
        for number, acquisition in enumerate(acquisitions):
            header, (h, w) = acquisition.headers[0], acquisition.kspace.shape[-2:]
            images = self.method(acquisition, job.key.slice + number)
            self._n_sent += 1
            for series, (title, image) in enumerate(images, start=1):
                place = header.geometry
                if place is not None:
                    place = place.cropped((h, w), (image.shape[0], image.shape[1]))
                texts = {"DataRole": "Image", "ImageProcessingHistory": f"spinwarp {title}", "SeriesDescription": title}
                voxel = header.voxel_size or (0.0, 0.0, 0.0)
                head = job.readouts[-1].head
                self._send(protocol.image_message(image, head, place, voxel, series, self._n_sent, texts))

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """End this connection, and no other, after any error; say it in the log, and to the client if it is there."""
        reason = ""
        try:
            yield
        except InputError as error:
            reason = str(error)
            log.error("%s", reason if self.name in reason else f"{self.name}: {reason}")
        except _ClientGoneError as error:
            if not self._ended.is_set():
                log.error("%s: %s", self.name, error)
        except TimeoutError:
            reason = f"no whole message came or could be sent within {self.timeout:g} seconds"
            log.error("%s: %s", self.name, reason)
        except OSError as error:
            log.error("%s: the connection broke (%s)", self.name, error.strerror or error)
        except Exception:
            reason = "the server failed; its log says why"
            log.exception("%s: this is a bug, or memory ran out", self.name)
        else:
            return
        self._ended.set()
        with suppress(OSError):
            if reason:
                self._send(protocol.text_message(reason))
            self.socket.shutdown(socket.SHUT_RD)  # the other thread need not wait

    def _say_goodbye(self) -> None:
        """Close when the client has read what it was sent: closing at once would take that from it."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            self.socket.settimeout(_TICK)
            deadline = time.monotonic() + _GOODBYE
            while time.monotonic() < deadline:
                try:
                    if not self.socket.recv(2**16):
                        break
                except TimeoutError:
                    continue
        self.socket.close()
