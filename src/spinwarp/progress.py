"""How far a long call has come, told to whoever listens; methods report and know nothing of progress bars."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[float], None] | None] = ContextVar("listener", default=None)


@contextmanager
def listen(listener: Callable[[float], None]) -> Iterator[None]:
    """Within this block, ``listener`` is told the share of the call that is done, from zero to one."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def report(share: float) -> None:
    """Tell that ``share`` of the present call is done; a method that takes seconds calls this as it goes."""
    listener = _listener.get()
    if listener is not None:
        listener(share)
