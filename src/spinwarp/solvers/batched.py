"""Numbers of each item of a batch, shaped ``(batch, 1, ..., 1)`` so that they multiply images."""

import torch
from torch import Tensor


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Real part of the inner product of each item."""
    if a.is_complex() and b.is_complex():  # the product of real numbers takes a third of the time
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
    """One number, or ``(batch,)`` numbers, as real ``(batch or 1, 1, ..., 1)`` with the dimensions of ``x``."""
    numbers = torch.as_tensor(values, dtype=x.real.dtype, device=x.device)
    return numbers.reshape(-1, *[1] * (x.ndim - 1))


class Converged:
    """Holds still the items whose relative change has fallen to a tolerance, so that a batch equals its items.

    Parameters
    ----------
    tolerance : of |x_new - x_old| / |x_new|; zero: nothing ever stops, nothing is computed.
    """

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.done: Tensor | None = None

    def hold(self, new: Tensor, old: Tensor) -> Tensor:
        """Return ``new``, with ``old`` for the items that had converged before."""
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
