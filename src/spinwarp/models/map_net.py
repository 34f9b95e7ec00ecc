"""Coil maps inside a :class:`~spinwarp.models.cascades.CascadeNet`: from the central lines, and refined on the way."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from spinwarp.coils import root_sum_of_squares
from spinwarp.errors import InputError
from spinwarp.models.complex_network import ComplexNetwork
from spinwarp.models.varnet import central_columns

Network = Callable[[int, int, int], nn.Module]  # called with the images in and out, and 0 for no code
_SIGNAL = 0.01  # of the mean power, below which the image says nothing of the maps


class MapNet(ComplexNetwork):
    """Estimates coil maps: one network for every coil, which sees the adjacent slices together.

    The maps come from the images of the central lines. With a refinement, a network of its own changes them before each
    cascade but the first, given the maps and the current coil images over the combined image.

    Parameters
    ----------
    n_adjacent : slices that are seen together.
    n_cascades : number of cascades.
    network : makes the network for the first maps; None: they are those of the data.
    espirit : the first maps are those of ESPIRiT, which are zero in the air; without central lines those of the data.
    refinement : makes the network of one refinement; None: the maps stay.

    Raises
    ------
    InputError : if the maps are to come from a network and from ESPIRiT.

    References
    ----------
    Sriram et al., "End-to-end variational networks for accelerated MRI reconstruction", MICCAI 2020.
    Uecker et al., "ESPIRiT: an eigenvalue approach to autocalibrating parallel MRI", MRM 2014.
    SDUM, arXiv 2512.17137 (a map network in each cascade).
    """

    def __init__(
        self,
        n_adjacent: int,
        n_cascades: int,
        network: Network | None = None,
        refinement: Network | None = None,
        espirit: bool = False,
    ) -> None:
        super().__init__()
        if network is not None and espirit:
            raise InputError("the first maps come from a network or from ESPIRiT; set sensitivity.network=null")
        self.espirit = espirit
        self.n_adjacent = n_adjacent
        self.network = network(n_adjacent, n_adjacent, 0) if network is not None else None
        self.refinements = nn.ModuleList()
        if refinement is not None:
            self.refinements.extend(refinement(2 * n_adjacent, n_adjacent, 0) for _ in range(n_cascades - 1))

    def forward(
        self, kspace: Tensor, n_acs: Tensor, inverse: Callable[[Tensor], Tensor], coil_by_coil: bool = False
    ) -> Tensor:
        """Return the first maps ``(item, coil, h, w)``, with a sum of squares of one.

        Parameters
        ----------
        kspace : ``(item, coil, h, w)``, in k-space along the phase direction at least.
        n_acs : ``(item,)`` number of central columns; at least two are used.
        inverse : transforms ``kspace`` to coil images.
        coil_by_coil : run the network on one coil after the other, and again in the backward pass: less memory.
        """
        center = central_columns(n_acs.to(kspace.device).clamp(min=2), kspace.shape[-1])
        images = inverse(kspace * center[:, None, None])
        assert self.network is not None
        return _normalised(self._of_coils(self.network, self._by_slice(images), coil_by_coil))

    def refined(self, cascade: int, maps: Tensor, coil_images: Tensor, coil_by_coil: bool = False) -> Tensor:
        """Return the maps of a cascade from the last maps and coil images, all ``(item, coil, h, w)``."""
        if cascade == 0 or not len(self.refinements):
            return maps
        image = (coil_images * maps.conj()).sum(1, keepdim=True)
        power = image.abs().square()
        ratio = (
            coil_images
            * image.conj()
            / (power + _SIGNAL * power.mean((-2, -1), keepdim=True)).clamp_min(torch.finfo(power.dtype).tiny)
        )
        # the networks see the maps of all slices, then the ratios of all slices
        both = torch.cat([self._by_slice(maps), self._by_slice(ratio)], dim=1)
        return _normalised(maps + self._of_coils(self.refinements[cascade - 1], both, coil_by_coil))

    def _by_slice(self, x: Tensor) -> Tensor:
        """Turn ``(item, coil, h, w)`` to ``(batch, slice, coil, h, w)``."""
        return x.unflatten(0, (-1, self.n_adjacent))

    def _of_coils(self, network: nn.Module, images: Tensor, coil_by_coil: bool) -> Tensor:
        """Give a network the images ``(batch, image, coil, h, w)`` of each coil; return ``(item, coil, h, w)``."""
        b, _, c = images.shape[:3]
        coils = images.transpose(1, 2).flatten(0, 1)  # (b * c, image, h, w)
        parts = coils.split(1 if coil_by_coil else len(coils))
        again = coil_by_coil and torch.is_grad_enabled()
        out = torch.cat(
            [(recomputed(network, part, use_reentrant=False) if again else network(part))[0] for part in parts]
        )
        return out.unflatten(0, (b, c)).transpose(1, 2).flatten(0, 1)


def _normalised(maps: Tensor) -> Tensor:
    return maps / root_sum_of_squares(maps).clamp_min(torch.finfo(torch.float32).tiny)[:, None]
