"""Old public names, which work for one more version."""

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any


def old_names(module: str, **new: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module that finds things by their old names, with a ``FutureWarning``.

    Parameters
    ----------
    module : name of the module.
    new : the full new name of each old one, such as ``EndTogether="spinwarp.training.ddp.WatchedDDP"``.
    """

    def find(name: str) -> Any:
        if name not in new:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(
            f"{module}.{name} is now {new[name]}; the next version drops the old name", FutureWarning, stacklevel=2
        )
        place, _, attribute = new[name].rpartition(".")
        return getattr(import_module(place), attribute)

    return find
