"""Fit the picture that a network makes to what was measured of it."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor, nn

from spinwarp.errors import InputError

STOPS = ("held_out", "authors", "fixed")
_SMOOTHING = 0.9  # weight of the past in the running mean of the held-out error


@dataclass(frozen=True)
class Iterate:
    """One iteration of a fit.

    Parameters
    ----------
    number : from one.
    loss : mean squared error of the fitted samples.
    held_out : that of the held-out samples, smoothed over iterations; None where there are none.
    output : what the network made.
    kept : whether it is the best so far by the rule of the fit.
    """

    number: int
    loss: float
    held_out: float | None
    output: Tensor
    kept: bool


OnIterate = Callable[[Iterate], None]


def fit(
    network: nn.Module,
    operator: Callable[[Tensor], Tensor],
    measured: Tensor,
    held_out: Tensor | None = None,
    *,
    iterations: int,
    learning_rate: float = 0.008,
    stop: str = "fixed",
    patience: int = 250,
    precision: str = "32",
    on_iterate: OnIterate | None = None,
) -> Tensor:
    """Minimise the mean of ``|operator(network()) - measured|^2`` over the network's weights, with Adam.

    Knows nothing of MRI: with the identity, a mask or a mean over blocks for operator it denoises, inpaints and
    superresolves. The weights change; a network that comes fitted to the slice before is a warm start.

    Parameters
    ----------
    network : makes its picture without an argument.
    operator : from the picture to what is measured; differentiable.
    measured : real or complex.
    held_out : bool, broadcastable to ``measured``: what the loss does not see.
    iterations : at most.
    learning_rate : of Adam.
    stop : ``held_out`` keeps the picture with the least smoothed error on the held-out samples and ends when
        ``patience`` iterations brought none better (without such samples it is ``fixed``); ``authors`` keeps one
        whenever the loss is half a percent below that of the last one kept; ``fixed`` keeps the last.
    patience : iterations.
    precision : ``32``, or ``bf16`` for the network's inside.
    on_iterate : called after every iteration.

    Returns
    -------
    picture : the one that was kept, without a gradient.

    Raises
    ------
    InputError : on an unknown rule, or if everything is held out.
    """
    if stop not in STOPS:
        raise InputError(f"stop={stop!r} is not one of {', '.join(STOPS)}")
    held = torch.zeros_like(measured, dtype=torch.bool) if held_out is None else held_out.expand_as(measured)
    n_held = int(held.sum())
    if n_held == held.numel():
        raise InputError("nothing is left to fit: every sample is held out")
    rule = "fixed" if stop == "held_out" and not n_held else stop
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)
    kept, best, best_at, smoothed = measured, inf, 0, None
    for number in range(1, iterations + 1):
        with torch.autocast(measured.device.type, torch.bfloat16, enabled=precision == "bf16"):
            output = network()
        error = _squared(operator(output) - measured)
        loss = error.masked_fill(held, 0).sum() / (held.numel() - n_held)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        value = loss.item()
        if n_held:
            now = (error.detach() * held).sum().item() / n_held
            smoothed = now if smoothed is None else _SMOOTHING * smoothed + (1 - _SMOOTHING) * now
        score = value if smoothed is None or rule == "authors" else smoothed
        better = number == 1 or rule == "fixed" or score * (1.005 if rule == "authors" else 1) < best
        if better:
            kept, best, best_at = output.detach(), score, number
        if on_iterate is not None:
            on_iterate(Iterate(number, value, smoothed, output.detach(), better))
        if rule == "held_out" and number - best_at >= patience:
            break
    return kept


def _squared(error: Tensor) -> Tensor:
    return torch.view_as_real(error).square().sum(-1) if error.is_complex() else error.square()
