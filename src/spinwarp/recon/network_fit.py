"""Fit the pictures that networks make to measurements of them."""

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
_AUTHORS = 1.005  # factor by which the loss must be smaller than that of the last picture kept


@dataclass(frozen=True)
class Iterate:
    """One iteration of a fit.

    Parameters
    ----------
    number : from one.
    loss : ``(batch,)`` mean squared error of the fitted samples.
    held_out : ``(batch,)`` that of the held-out samples, smoothed over iterations; None without held-out samples.
    picture : ``(batch, channels, h, w)``, the output of the networks.
    kept : ``(batch,)`` bool, whether it is the best so far by the rule of the fit.
    """

    number: int
    loss: Tensor
    held_out: Tensor | None
    picture: Tensor
    kept: Tensor


OnIterate = Callable[[Iterate], None]


class BatchedNetworks(nn.Module):
    """Several networks of one architecture as one module, which makes all their pictures in one call.

    Each has its own weights, so their fits are independent. One call is faster where a single small picture does not
    use the whole processor.

    Parameters
    ----------
    networks : at least one; each takes no argument and returns its picture ``(1, channels, h, w)``.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        weights, buffers = stack_module_state(list(networks))
        self._names = list(weights)
        # torch 2.13 computes wrong gradients in a vmap for other layouts, such as channels last
        self._weights = nn.ParameterList(nn.Parameter(weight.detach().contiguous()) for weight in weights.values())
        self._buffers_by_name = buffers
        self._one = [deepcopy(networks[0])]  # a list hides its own weights from the parameters

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

    Nothing here is specific to MRI: with the identity, a mask or a mean over blocks as operator it denoises, inpaints
    or superresolves. Each picture of a batch has its own loss and its own stop. The network keeps the weights of the
    last iteration; a network fitted to the slice before is a warm start.

    Parameters
    ----------
    network : takes no argument and returns pictures ``(batch, channels, h, w)``, each from its own weights.
    operator : from the pictures to their measurements; differentiable.
    measured : ``(batch, ...)`` real or complex.
    held_out : bool, broadcastable to ``measured``: samples that are not fitted.
    sampled : bool, broadcastable to ``measured``: False where an item was not measured; None: measured everywhere.
    iterations : at most.
    learning_rate : of Adam.
    stop : ``held_out`` keeps the picture with the smallest smoothed error on the held-out samples, and ends after
        ``patience`` iterations without a better one. ``authors`` keeps a picture whenever its loss is half a percent
        below that of the last one kept. ``fixed`` keeps the last.
    patience : iterations.
    precision : inside the network, one of :data:`spinwarp.channels.PRECISIONS`.
    on_iterate : called after every iteration.

    Returns
    -------
    pictures : those that were kept, without a gradient.

    Raises
    ------
    InputError : if the rule is unknown, if it needs held-out samples and there are none, or if nothing is left to fit.
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
    """Return weights that turn a sum into the mean over each item's chosen samples; not finite without any."""
    n = chosen.expand_as(measured).flatten(1).sum(1, dtype=torch.float32)
    return chosen / per_item(n, measured)


__getattr__ = old_names(__name__, SideBySide="spinwarp.recon.network_fit.BatchedNetworks")
