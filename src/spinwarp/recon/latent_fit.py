"""Latent descent: from several starts to the latent whose image explains the data best."""

from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.masks import hold_out
from spinwarp.models.generator import ImageGenerator
from spinwarp.operators import sense
from spinwarp.solvers.lbfgs import lbfgs
from spinwarp.solvers.trace import Callback


@dataclass(frozen=True)
class LatentFit:
    """The result of latent descent.

    Parameters
    ----------
    z : ``(batch, *latent_shape)`` latents of the best starts.
    image : ``(batch, h, w)`` complex, ``G(z)``.
    winner : ``(batch,)`` number of the best start.
    residuals : ``(starts, batch)`` |A G(z) - y| / |y| over all measured samples.
    stopped : ``(starts, batch)`` the iteration whose z was taken.
    curve, held_out_curve : ``(iterations + 1, starts, batch)`` |A G(z) - y| / |y| at each iteration, over the fitted
        and over the held-out samples (None if nothing was held out). A curve goes on after its start has stopped, as
        long as another start goes on.
    """

    z: Tensor
    image: Tensor
    winner: Tensor
    residuals: Tensor
    stopped: Tensor
    curve: Tensor
    held_out_curve: Tensor | None


def fit_latent(
    net: ImageGenerator,
    problem: Acquisition,
    starts: Tensor,
    *,
    prior_weight: float = 0.0,
    iterations: int = 100,
    patience: int | None = 10,
    trace: Callback | None = None,
) -> LatentFit:
    """Minimise ``|A G(z) - y|^2 + prior_weight |z|^2`` by L-BFGS from several starts, and take the best.

    Parameters
    ----------
    net : the generator.
    problem : data in the units of the generator, with maps.
    starts : ``(starts, *latent_shape)``, the same for every item of the batch.
    prior_weight : with the variance of the complex noise of a k-space sample, z is the most probable one.
    iterations : at most.
    patience : hold out one in five of the sampled lines (:func:`spinwarp.masks.hold_out`) to estimate the error of the
        whole k-space. A start ends after this many iterations without a smaller estimate. Its z of smallest estimate is
        taken, and the start with the smallest estimate wins. None: fit all lines to the end; the smallest objective
        wins.
    trace : called with the number of each iteration and its z ``(starts * batch, *latent_shape)``, start after start.

    Raises
    ------
    InputError : if lines are to be held out and there are none outside the centre.

    References
    ----------
    Bora et al., "Compressed sensing using generative models" (CSGM), ICML 2017.
    """
    n, batch = len(starts), len(problem.kspace)
    h, w = problem.kspace.shape[-2:]
    held = torch.zeros_like(problem.mask) if patience is None else hold_out(problem)
    # one batch of all starts and items: all items of the first start, then of the second, ...
    all_lines = replace(problem, mask=torch.ones_like(problem.mask), n_acs=None, headers=())
    operator = sense(_repeat(all_lines, n))
    kspace = problem.kspace.repeat(n, 1, 1, 1)
    parts = torch.stack([problem.mask & ~held, held]).repeat(1, n, 1, 1, 1)
    # the held-out samples stand for all samples that are not fitted
    unfitted = (~parts[0]).flatten(1).sum(1)
    ratio = unfitted / parts[1].flatten(1).sum(1).clamp_min(1)
    seen: dict[str, Tensor] = {}

    def objective(z: Tensor) -> Tensor:
        error = operator(net.generate(z, (h, w))) - kspace
        power = (error.real.square() + error.imag.square()).sum(1, keepdim=True)
        fitted, held_out = (power * parts).flatten(2).sum(2)
        seen.update(z=z.detach(), errors=torch.stack([fitted.detach(), held_out.detach()]))
        return fitted + prior_weight * z.square().flatten(1).sum(1)

    best_z = starts.repeat_interleave(batch, 0)
    # for each start and item: errors of the fitted and of the held-out samples; best score, its iteration and residual
    errors = torch.full((2, len(best_z)), torch.inf, device=best_z.device)
    best, best_at, residual = errors[0], torch.zeros_like(errors[0], dtype=torch.long), errors[0]
    done = torch.zeros_like(best_at, dtype=torch.bool)
    history: list[Tensor] = []
    for i, (z, value) in enumerate(islice(lbfgs(objective, best_z), iterations + 1)):
        # a run that has converged keeps its z; the objective may have been evaluated elsewhere since
        there = (seen["z"] == z).flatten(1).all(1)
        errors = torch.where(there, seen["errors"], errors)
        history.append(errors)
        score = value if patience is None else errors[0] + ratio * errors[1]
        better = ~done & (score < best)
        best, best_at = torch.where(better, score, best), torch.where(better, i, best_at)
        residual = torch.where(better, errors.sum(0), residual)
        best_z = torch.where(better.view(-1, *[1] * (z.ndim - 1)), z, best_z)
        if trace is not None:
            trace(i, z)
        if patience is not None:
            done = done | (i - best_at >= patience)
        if done.all():
            break
    winner = best.view(n, batch).argmin(0)
    z = best_z.unflatten(0, (n, batch))[winner, torch.arange(batch, device=winner.device)]
    with torch.no_grad():
        image = net.generate(z, (h, w))
    energy = (kspace.abs().square() * parts).flatten(2).sum(2)
    curves = (torch.stack(history) / energy.clamp_min(torch.finfo(energy.dtype).tiny)).sqrt().unflatten(2, (n, batch))
    residuals = (residual / energy.sum(0).clamp_min(torch.finfo(energy.dtype).tiny)).sqrt().view(n, batch)
    held_out_curve = None if patience is None else curves[:, 1]
    return LatentFit(z, image, winner, residuals, best_at.view(n, batch), curves[:, 0], held_out_curve)


def _repeat(acquisition: Acquisition, n: int) -> Acquisition:
    """Repeat the items of a batch, the whole batch ``n`` times."""
    maps = None if acquisition.maps is None else acquisition.maps.repeat(n, 1, 1, 1)
    kspace, mask = acquisition.kspace.repeat(n, 1, 1, 1), acquisition.mask.repeat(n, 1, 1, 1)
    return Acquisition(kspace, mask, maps)
