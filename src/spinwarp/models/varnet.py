"""Variational networks: unrolled data consistency with learned regularisers."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from spinwarp.acquisition import Acquisition, acs_columns
from spinwarp.coils import combine, root_sum_of_squares
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.models.complex_network import ComplexNetwork
from spinwarp.operators.sense import coil_maps, expand, reduce, sense

DOMAINS = ("kspace", "image")


class VarNet(ComplexNetwork):
    """Cascades of data consistency and a network, in k-space (E2E-VarNet) or in the image (Hammernik's equation).

    ``update_domain="kspace"``, starting from the measured k-space:
    ``k <- k - step * M (k - y) - F S net(S^H F^-1 k)``; the image is the root sum of squares over coils.

    ``update_domain="image"``, starting from A^H y, the first step from a blank image:
    ``x <- x - step * A^H (A x - y) + net(x)``.

    Parameters
    ----------
    regulariser : makes the network of one cascade, complex ``(batch, 1, h, w)`` to the same; called once per cascade.
    n_cascades : number of cascades.
    sensitivity : makes the network that estimates coil maps; None: use the maps of the acquisition.
    update_domain : ``kspace`` or ``image``.
    checkpoint : store only the inputs of the cascades and of the map network for the backward pass, and recompute the
        rest: memory for one cascade instead of ``n_cascades``, one more forward pass, the same numbers (Chen et al.,
        "Training deep nets with sublinear memory cost", arXiv 1604.06174).

    Raises
    ------
    InputError : if the domain is unknown or there are no cascades.

    References
    ----------
    Sriram et al., "End-to-end variational networks for accelerated MRI reconstruction", MICCAI 2020.
    Hammernik et al., "Learning a variational network for reconstruction of accelerated MRI data", MRM 2018.
    """

    def __init__(
        self,
        regulariser: Callable[[], nn.Module],
        n_cascades: int = 12,
        sensitivity: Callable[[], nn.Module] | None = None,
        update_domain: str = "kspace",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if update_domain not in DOMAINS:
            raise InputError(f"update_domain={update_domain!r} is not one of {', '.join(DOMAINS)}")
        if n_cascades < 1:
            raise InputError(f"a VarNet has at least one cascade; got n_cascades={n_cascades}")
        self.update_domain = update_domain
        self.checkpoint = checkpoint
        self.sensitivity = sensitivity() if sensitivity is not None else None
        self.regularisers = nn.ModuleList(regulariser() for _ in range(n_cascades))
        self.steps = nn.Parameter(torch.ones(n_cascades))

    def forward(self, acquisition: Acquisition) -> Tensor:
        """Return the image ``(batch, h, w)`` complex."""
        if self.update_domain == "image":
            return self._image_cascades(acquisition)
        return self._kspace_cascades(acquisition)

    def _kspace_cascades(self, acquisition: Acquisition) -> Tensor:
        mask = acquisition.sampling
        # A line mask is constant along the readout, so every step commutes with the readout transform. It is undone
        # once, and the cascades transform along the phase direction only.
        line_mask = mask.shape[-2] == 1
        dims = (-1,) if line_mask else (-2, -1)
        measured = ifftc(acquisition.kspace, dims=(-2,)) if line_mask else acquisition.kspace
        maps = self._maps(acquisition, measured, dims)

        def cascade(regularise: nn.Module, step: Tensor, kspace: Tensor) -> Tensor:
            prior = regularise(reduce(ifftc(kspace, dims), maps)[:, None])[:, 0]
            consistency = (kspace * mask - measured) * step
            # in place: the backward pass does not need this difference
            return (kspace - consistency).sub_(fftc(expand(prior, maps), dims))

        kspace = measured
        for regularise, step in zip(self.regularisers, self.steps, strict=True):
            kspace = self._checkpointed(cascade, regularise, step, kspace)
        # learned maps have an arbitrary phase; the phase of the image is relative to the maps of the data
        return combine(ifftc(kspace, dims), acquisition.maps)

    def _image_cascades(self, acquisition: Acquisition) -> Tensor:
        maps = self._maps(acquisition, acquisition.kspace, (-2, -1))
        operator = sense(replace(acquisition, maps=maps))
        backprojection = operator.adjoint(acquisition.kspace)

        def cascade(regularise: nn.Module, step: Tensor, image: Tensor) -> Tensor:
            prior: Tensor = regularise(image[:, None])[:, 0]
            return image - step * (operator.normal(image) - backprojection) + prior

        # start after the step from a blank image, which a network that normalises its input cannot use
        image = backprojection
        for regularise, step in zip(self.regularisers, self.steps, strict=True):
            image = self._checkpointed(cascade, regularise, step, image)
        return image if self.sensitivity is None else combine(expand(image, maps), acquisition.maps)

    def _maps(self, acquisition: Acquisition, measured: Tensor, dims: tuple[int, ...]) -> Tensor:
        if self.sensitivity is None:
            return coil_maps(acquisition)
        n_acs = acquisition.n_acs if acquisition.n_acs is not None else acs_columns(acquisition.mask)
        return self._checkpointed(self.sensitivity, measured, n_acs, partial(ifftc, dims=dims))

    def _checkpointed(self, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """Call a function, with checkpointing if the option is set and gradients are needed."""
        if self.checkpoint and torch.is_grad_enabled():
            return recomputed(function, *arguments, use_reentrant=False)
        return function(*arguments)


class SensitivityNet(ComplexNetwork):
    """Estimates coil maps from the autocalibration lines: the same network for every coil, then normalisation.

    Parameters
    ----------
    network : makes the network, complex ``(batch, 1, h, w)`` to the same; coils become items of the batch.
    """

    def __init__(self, network: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.network = network()

    def forward(self, kspace: Tensor, n_acs: Tensor, inverse: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the maps ``(batch, coil, h, w)``, with a sum of squares of one.

        Parameters
        ----------
        kspace : ``(batch, coil, h, w)``, in k-space along the phase direction at least.
        n_acs : ``(batch,)`` number of central columns; at least two are used.
        inverse : transforms ``kspace`` to coil images.
        """
        center = central_columns(n_acs.to(kspace.device).clamp(min=2), kspace.shape[-1])
        images = inverse(kspace * center[:, None, None])
        b, c, h, w = images.shape
        maps = self.network(images.reshape(b * c, 1, h, w)).reshape(b, c, h, w)
        return maps / root_sum_of_squares(maps).clamp_min(torch.finfo(torch.float32).tiny)[:, None]


def central_columns(n: Tensor, width: int) -> Tensor:
    """Return which of ``width`` columns are the ``n`` central ones: bool ``(batch, width)`` for ``(batch,)``."""
    first = (width - n[:, None] + 1) // 2
    column = torch.arange(width, device=n.device)
    return (column >= first) & (column < first + n[:, None])
