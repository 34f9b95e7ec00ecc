"""How large a network may become that is built after somebody else's description."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from spinwarp.errors import InputError


@contextmanager
def allowance(n_elements: int) -> Iterator[None]:
    """Stop the building of a network that gets more parameters than there are weights for it.

    A description of a few bytes can ask for more memory than there is. A parameter is counted when it is registered,
    which is before its memory is touched: ``torch.empty`` only reserves it.

    Parameters
    ----------
    n_elements : numbers in the weights; twice that is let pass, since a constructor may replace a parameter.

    Raises
    ------
    InputError : when the network exceeds it.
    """
    built = 0

    def count(_: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal built
        built += 0 if parameter is None else parameter.numel()
        if built > 2 * n_elements:
            raise InputError(
                f"the weights are those of another network than it describes, which has more than their {n_elements} "
                f"parameters (at {name!r})"
            )

    handle = nn.modules.module.register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
