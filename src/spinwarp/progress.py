"""How far a long call has come. Methods and samplers report it; whoever shows a progress bar listens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[float], None] | None] = ContextVar("listener", default=None)


def report(done: float, total: float = 1.0) -> None:
    """Report that ``done`` of the ``total`` work of the present call, or of the present :func:`part`, is done."""
    listener = _listener.get()
    if listener is not None:
        listener(done / total)


@contextmanager
def listen(listener: Callable[[float], None]) -> Iterator[None]:
    """Call ``listener`` with each fraction, from 0 to 1, that is reported within this block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def part(i: float, n: float, width: float = 1.0) -> Iterator[None]:
    """Run the block as the steps from ``i`` to ``i + width`` of ``n``: what it reports is a fraction of these.

    Parts may be nested. A block that ends without an error is done.
    """
    outer = _listener.get()
    if outer is None:
        yield
        return
    with listen(lambda fraction: outer((i + width * fraction) / n)):
        yield
    outer((i + width) / n)


@contextmanager
def steps(n: int, advance: Callable[[float], None]) -> Iterator[None]:
    """Run the block as ``n`` steps of a progress bar; ``advance`` is called with the steps since its last call."""
    done = 0.0

    def listener(fraction: float) -> None:
        nonlocal done
        advance(n * fraction - done)
        done = n * fraction

    with listen(listener):
        yield
    listener(1.0)
