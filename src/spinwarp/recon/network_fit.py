"""Fit the pictures that networks make to what was measured of them."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from spinwarp.channels import autocast
from spinwarp.errors import InputError
from spinwarp.progress import report
from spinwarp.renamed import old_names
from spinwarp.solvers import per_item

STOPS = ("held_out", "authors", "fixed")
_SMOOTHING = 0.9  # weight of the past in the running mean of the held-out error
_AUTHORS = 1.005  # a loss must be so many times smaller than that of the picture kept before


@dataclass(frozen=True)
class Iterate:
    """One iteration of a fit.

    Parameters
    ----------
    number : from one.
    loss : ``(batch,)`` mean squared error of the fitted samples.
    held_out : ``(batch,)`` that of the held-out samples, smoothed over iterations; None where there are none.
    picture : ``(batch, channels, h, w)``, what the networks made.
    kept : ``(batch,)`` bool, whether it is the best so far by the rule of the fit.
    """

    number: int
    loss: Tensor
    held_out: Tensor | None
    picture: Tensor
    kept: Tensor


OnIterate = Callable[[Iterate], None]


class BatchedNetworks(nn.Module):
    """Networks of one architecture as one that makes all their pictures in one call.

    Each has weights of its own, so that their fits do not meet; the work is done as one, which is faster where a single
    small picture leaves a processor idle.

    Parameters
    ----------
    networks : at least one; each makes its picture ``(1, channels, h, w)`` without an argument.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        weights, buffers = stack_module_state(list(networks))
        self._names = list(weights)
        # of weights in another layout, such as channels last, torch 2.13 computes wrong gradients in a vmap
        self._weights = nn.ParameterList(nn.Parameter(weight.detach().contiguous()) for weight in weights.values())
        self._buffers_by_name = buffers
        self._one = [deepcopy(networks[0])]  # in a list, so that its own weights are not among the parameters

    def forward(self) -> Tensor:
        """Return the pictures ``(networks, channels, h, w)``."""
        weights = dict(zip(self._names, self._weights, strict=True))
        pictures: Tensor = vmap(self._picture)((weights, self._buffers_by_name))
        return pictures[:, 0]

    def _picture(self, state: object) -> Tensor:
        picture: Tensor = functional_call(self._one[0], state, ())  # type: ignore[arg-type]
        return picture


def fit(
    network: nn.Module,
    operator: Callable[[Tensor], Tensor],
    measured: Tensor,
    held_out: Tensor | None = None,
    *,
    sampled: Tensor | None = None,
    iterations: int,
    learning_rate: float = 0.008,
    stop: str = "fixed",
    patience: int = 250,
    precision: str = "32",
    on_iterate: OnIterate | None = None,
) -> Tensor:
    """Minimise the mean of ``|operator(network()) - measured|^2`` over the network's weights, with Adam.

    Knows nothing of MRI: with the identity, a mask or a mean over blocks for operator it denoises, inpaints and
    superresolves. Of a batch of pictures each has its own loss and its own stop. The weights change, and are those of
    the last iteration in the end; a network that comes fitted to the slice before is a warm start.

    Parameters
    ----------
    network : makes its pictures ``(batch, channels, h, w)`` without an argument; each from weights of its own.
    operator : from the pictures to what is measured of each; differentiable.
    measured : ``(batch, ...)`` real or complex.
    held_out : bool, broadcastable to ``measured``: what the loss does not see.
    sampled : bool, broadcastable to ``measured``: False where an item was not measured; None: it was everywhere.
    iterations : at most.
    learning_rate : of Adam.
    stop : ``held_out`` keeps the picture with the least smoothed error on the held-out samples and ends when
        ``patience`` iterations brought none better; ``authors`` keeps one whenever the loss is half a percent below
        that of the last one kept; ``fixed`` keeps the last.
    patience : iterations.
    precision : of the network's inside, one of :data:`spinwarp.channels.PRECISIONS`.
    on_iterate : called after every iteration.

    Returns
    -------
    pictures : those that were kept, without a gradient.

    Raises
    ------
    InputError : on an unknown rule, if it asks for held-out samples and there are none, or nothing is left to fit.
    """
    if stop not in STOPS:
        raise InputError(f"stop={stop!r} is not one of {', '.join(STOPS)}")
    seen = torch.ones(1, dtype=torch.bool, device=measured.device) if sampled is None else sampled
    held = torch.zeros_like(seen) if held_out is None else held_out & seen
    weights, held_weights = _mean_weights(seen & ~held, measured), _mean_weights(held, measured)
    if not weights.isfinite().all():
        raise InputError("nothing is left to fit: every sample is held out")
    watch = bool(held_weights.isfinite().all())
    if stop == "held_out" and not watch:
        raise InputError("stop=held_out, but nothing is held out; choose recon.stop=fixed")
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)
    kept, smoothed = measured, None
    best = torch.full((len(measured),), inf, device=measured.device)
    best_at = torch.zeros_like(best)
    for number in range(1, iterations + 1):
        with autocast(precision, measured.device):
            picture = network()
        error = _squared(operator(picture) - measured)
        loss = (error * weights).flatten(1).sum(1)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        loss, picture = loss.detach(), picture.detach()
        if watch:
            now = (error.detach() * held_weights).flatten(1).sum(1)
            smoothed = now if smoothed is None else _SMOOTHING * smoothed + (1 - _SMOOTHING) * now
        running = number - best_at <= patience if stop == "held_out" else torch.ones_like(best, dtype=torch.bool)
        score = smoothed if stop == "held_out" and smoothed is not None else loss
        lower = score * (_AUTHORS if stop == "authors" else 1) < best
        better = (running if stop == "fixed" else running & lower) | (best_at == 0)
        best, best_at = torch.where(better, score, best), torch.where(better, number, best_at)
        kept = picture if number == 1 else torch.where(better.view(-1, *[1] * (picture.ndim - 1)), picture, kept)
        report(number, iterations)
        if on_iterate is not None:
            on_iterate(Iterate(number, loss, smoothed, picture, better))
        if stop == "held_out" and not (number - best_at < patience).any():
            break
    return kept


def _squared(error: Tensor) -> Tensor:
    return torch.view_as_real(error).square().sum(-1) if error.is_complex() else error.square()


def _mean_weights(chosen: Tensor, measured: Tensor) -> Tensor:
    """By which a product sums to the mean over the chosen of each item; not finite where none is."""
    n = chosen.expand_as(measured).flatten(1).sum(1, dtype=torch.float32)
    return chosen / per_item(n, measured)


__getattr__ = old_names(__name__, SideBySide="spinwarp.recon.network_fit.BatchedNetworks")
