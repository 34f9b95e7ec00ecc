"""One number for each item of a batch, shaped ``(batch, 1, ..., 1)`` to broadcast against images."""

import torch
from torch import Tensor


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Real part of the inner product of each item."""
    if a.is_complex() and b.is_complex():  # a real product takes a third of the time
        product = torch.linalg.vecdot(_real(a), _real(b))
    else:
        product = torch.linalg.vecdot(a.flatten(1), b.flatten(1)).real
    return per_item(product, a)


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()).flatten(1)


def norm(x: Tensor) -> Tensor:
    """Euclidean norm of each item."""
    power = inner(x, x)
    return power.clamp_min(torch.finfo(power.dtype).tiny).sqrt() if power.requires_grad else power.sqrt()


def per_item(values: Tensor | float, x: Tensor) -> Tensor:
    """Reshape one or ``(batch,)`` numbers to real ``(batch or 1, 1, ..., 1)``, with as many dimensions as ``x``."""
    numbers = torch.as_tensor(values, dtype=x.real.dtype, device=x.device)
    return numbers.reshape(-1, *[1] * (x.ndim - 1))


class Converged:
    """Stops updating the items whose relative change has fallen to a tolerance.

    Parameters
    ----------
    tolerance : of |x_new - x_old| / |x_new|; zero never stops an item and computes nothing.
    """

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.done: Tensor | None = None

    def hold(self, new: Tensor, old: Tensor) -> Tensor:
        """Return ``new``, or ``old`` for the items that had already converged."""
        if self.tolerance <= 0:
            return new
        if self.done is not None:
            new = torch.where(self.done, old, new)
        with torch.no_grad():
            small = norm(new - old) <= self.tolerance * norm(new)
            self.done = small if self.done is None else self.done | small
        return new

    @property
    def all(self) -> bool:
        """Whether every item has converged."""
        return self.done is not None and bool(self.done.all())
