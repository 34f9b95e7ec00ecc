"""An unrolled network in parts: each part is a module, and the published networks are settings of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from spinwarp.acquisition import Acquisition, acs_columns
from spinwarp.channels import root_sum_of_squares
from spinwarp.coils import combine, espirit_maps, with_smooth_phase
from spinwarp.errors import InputError
from spinwarp.models.complex_network import ComplexNetwork
from spinwarp.models.conditioning import ScanCode
from spinwarp.models.data_steps import DataStep, Measured, State
from spinwarp.models.map_net import MapNet
from spinwarp.models.prompt_unet import Features
from spinwarp.operators.sense import coil_maps, reduce

_GROUPS = 4  # of images that the buffer adds


@dataclass(frozen=True)
class _Passed:
    """What one cascade hands to the next."""

    state: State
    maps: Tensor
    latent: Tensor | None = None
    history: tuple[Features, ...] = ()


class CascadeNet(ComplexNetwork):
    """Cascades of a network and data consistency, on one slice or on several adjacent ones together.

    PromptMR+, PromptMR and vSHARP are settings of it (``conf/model``), and with a
    :class:`~spinwarp.models.norm_unet.PlainUNet`, k-space gradients and learned maps it is the E2E-VarNet.

    The network divides k-space by its own scale and multiplies the image by it.

    Parameters
    ----------
    regulariser : makes the network of one cascade. It is called with the number of images in and out and the length of
        the code, and its network with the images ``(batch, n_in, h, w)``, the features of earlier cascades and the
        code; it returns ``(batch, n_out, h, w)`` and its features.
    consistency : makes the :class:`~spinwarp.models.data_steps.DataStep`; called with the number of cascades.
    sensitivity : makes the :class:`~spinwarp.models.map_net.MapNet`, called with the numbers of slices and cascades.
        None: the maps are those of the acquisition.
    conditioning : describes the scan to the networks. None: they see images alone.
    n_cascades : number of cascades.
    n_adjacent : slices that the network sees together, an odd number; the image is that of the middle one.
    buffer : the networks also see ``A^H A x``, a latent image, ``x0 = A^H y`` and ``A^H A x - x0``. They return five
        times the images, as published: the first are the prior, the second the next latent, and the rest is not used.
    shared : all cascades share one network.
    checkpoint : store only what cascades hand to each other for the backward pass and recompute the rest, and run the
        map network coil by coil: far less memory, one more forward pass, the same numbers.

    Raises
    ------
    InputError : if there are no cascades, or an even number of slices.

    References
    ----------
    Xin et al., "Fill the k-space and refine the image" (PromptMR), arXiv 2309.13839; Xin et al., "Rethinking deep
    unrolled model for accelerated MRI reconstruction", ECCV 2024 (PromptMR+).
    """

    def __init__(
        self,
        regulariser: Callable[[int, int, int], nn.Module],
        consistency: Callable[[int], DataStep],
        sensitivity: Callable[[int, int], MapNet] | None = None,
        conditioning: ScanCode | None = None,
        n_cascades: int = 12,
        n_adjacent: int = 1,
        buffer: bool = False,
        shared: bool = False,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if n_cascades < 1:
            raise InputError(f"a CascadeNet has at least one cascade; got n_cascades={n_cascades}")
        if n_adjacent < 1 or n_adjacent % 2 == 0:
            raise InputError(f"n_adjacent is an odd number of slices about the middle one; got {n_adjacent}")
        self.n_cascades = n_cascades
        self.n_adjacent = n_adjacent
        self.buffer = buffer
        self.checkpoint = checkpoint
        self.conditioning = conditioning
        self.consistency = consistency(n_cascades)
        self.sensitivity = sensitivity(n_adjacent, n_cascades) if sensitivity is not None else None
        extra = _GROUPS if buffer else 0
        n_in, n_out = (self.consistency.n_inputs + extra) * n_adjacent, (1 + extra) * n_adjacent
        n_code = 0 if conditioning is None else conditioning.length
        self.regularisers = nn.ModuleList(regulariser(n_in, n_out, n_code) for _ in range(1 if shared else n_cascades))

    def forward(self, acquisition: Acquisition) -> Tensor:
        """Return the image ``(batch, h, w)`` complex.

        Raises
        ------
        InputError : if the acquisition has too few adjacent slices, or several coils, no maps and none are learned.
        """
        return self._images(acquisition, every=False)[-1]

    def cascade_images(self, acquisition: Acquisition) -> list[Tensor]:
        """Return the image of every cascade, for a loss on each of them; arguments and errors as of a call."""
        return self._images(acquisition, every=True)

    def _images(self, acquisition: Acquisition, every: bool) -> list[Tensor]:
        slices = self._slices(acquisition)
        b, _, h, w = acquisition.kspace.shape
        scale = root_sum_of_squares(acquisition.kspace.flatten(1), dim=1) / (h * w) ** 0.5
        scale = scale.clamp_min(torch.finfo(scale.dtype).tiny)
        # a batch of b with s slices has b * s items, the slices of one next to each other
        kspace = torch.stack([a.kspace for a in slices], dim=1).flatten(0, 1)
        rows = max(a.mask.shape[-2] for a in slices)
        mask = torch.stack([a.sampling.expand(-1, -1, rows, -1) for a in slices], dim=1).flatten(0, 1)
        measured = Measured.of(kspace / scale.repeat_interleave(self.n_adjacent).view(-1, 1, 1, 1), mask)
        zero_filled = measured.coil_images(measured.kspace)  # of every coil
        code = None if self.conditioning is None else self.conditioning(acquisition, scale)
        maps = self._first_maps(slices, measured)
        passed = _Passed(self.consistency.start(measured, maps), maps)

        def image() -> Tensor:
            state, its_maps = passed.state, passed.maps
            coils = self.consistency.coil_images(state, measured, its_maps)
            middle = coils.unflatten(0, (b, self.n_adjacent))[:, self.n_adjacent // 2]
            # learned maps have an arbitrary phase; the phase of the image is relative to the maps of the data
            return combine(middle, acquisition.maps) * scale.view(-1, 1, 1)

        images = []
        for cascade in range(self.n_cascades):
            passed = self._recomputed(self._cascade, cascade, passed, measured, zero_filled, code)
            if every or cascade == self.n_cascades - 1:
                images.append(image())
        return images

    def _cascade(
        self, cascade: int, passed: _Passed, measured: Measured, zero_filled: Tensor, code: Tensor | None
    ) -> _Passed:
        step, n = self.consistency, self.n_adjacent
        maps = passed.maps
        if self.sensitivity is not None and len(self.sensitivity.refinements):
            coils = measured.filled(step.coil_images(passed.state, measured, maps))
            maps = self.sensitivity.refined(cascade, maps, coils)
        seen = list(step.images(cascade, passed.state, measured, maps))
        if self.buffer:
            start, back = reduce(zero_filled, maps), measured.normal(seen[0], maps)
            latent = torch.zeros_like(start) if passed.latent is None else passed.latent
            seen += [back, latent, start, back - start]
        stacked = torch.cat([x.unflatten(0, (-1, n)) for x in seen], dim=1)  # (b, images * n, h, w)
        regularise = self.regularisers[cascade % len(self.regularisers)]
        out, features = regularise(stacked, passed.history, code)
        state = step(cascade, passed.state, out[:, :n].flatten(0, 1), measured, maps)
        kept = getattr(regularise, "history", 0)
        history = (*passed.history, features)[-kept:] if kept else ()
        return _Passed(state, maps, out[:, n : 2 * n].flatten(0, 1) if self.buffer else None, history)

    def _slices(self, acquisition: Acquisition) -> Sequence[Acquisition]:
        """Return the adjacent slices in their order."""
        n = self.n_adjacent
        there = 1 + len(acquisition.adjacent)
        if there < n:
            raise InputError(
                f"this network sees {n} adjacent slices together, and the data bring {there}; set data.n_adjacent={n}"
            )
        spare = (there - n) // 2  # the data may bring more
        return acquisition.all_slices()[spare : spare + n]

    def _first_maps(self, slices: Sequence[Acquisition], measured: Measured) -> Tensor:
        if self.sensitivity is None or self.sensitivity.network is None:
            espirit = self.sensitivity is not None and self.sensitivity.espirit
            made = [_espirit(a) if espirit and acs_columns(a.mask).all() else coil_maps(a) for a in slices]
            return torch.stack(made, dim=1).flatten(0, 1)
        counts = [a.n_acs if a.n_acs is not None else acs_columns(a.mask) for a in slices]
        n_acs = torch.stack([n.to(measured.mask.device) for n in counts], dim=1).flatten()
        return self.sensitivity(measured.kspace, n_acs, measured.coil_images, self.checkpoint)

    def _recomputed(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function, and again in the backward pass if the option is set and gradients are needed."""
        if self.checkpoint and torch.is_grad_enabled():
            return recomputed(function, *arguments, use_reentrant=False)
        return function(*arguments)


def _espirit(acquisition: Acquisition) -> Tensor:
    kspace, mask = acquisition.kspace, acquisition.mask
    return with_smooth_phase(espirit_maps(kspace, mask)[0], kspace, acs_columns(mask))
