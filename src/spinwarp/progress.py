"""How far a long call has come, told to whoever listens; methods report and know nothing of progress bars."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[float], None] | None] = ContextVar("listener", default=None)


def report(share: float) -> None:
    """Tell that ``share`` of the present call is done, from zero to one; a method that takes seconds does so."""
    listener = _listener.get()
    if listener is not None:
        listener(share)


@contextmanager
def listen(listener: Callable[[float], None]) -> Iterator[None]:
    """Have ``listener`` called with every share that is reported within this block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def steps(n: int, advance: Callable[[float], None]) -> Iterator[None]:
    """Have ``advance`` called with the parts of ``n`` steps as they are reported, and at the end with what remains."""
    done = 0.0

    def listener(share: float) -> None:
        nonlocal done
        advance(n * share - done)
        done = n * share

    with listen(listener):
        yield
    listener(1.0)
