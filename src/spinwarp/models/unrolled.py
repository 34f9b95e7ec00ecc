"""An unrolled network for any scan: alternates a denoiser and data consistency, both told the noise level."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition, acs_columns
from spinwarp.channels import root_sum_of_squares
from spinwarp.coils import combine, espirit_maps, noise_level, with_smooth_phase
from spinwarp.errors import InputError
from spinwarp.files import warn_once
from spinwarp.models.complex_network import ComplexNetwork
from spinwarp.operators.sense import expand, sense
from spinwarp.solvers import conjugate_gradient

_FIRST_LEVEL = 0.7  # of the errors before the first denoising, relative to the image
_LEAST_NOISE = 0.02  # the maps are not exact either


class UnrolledNet(ComplexNetwork):
    """Alternates data consistency and one denoiser, from coarse to fine, starting from zero.

    ``z = argmin_z |A z - y|^2 + lambda |z - x|^2``, by a few conjugate gradient steps from x, then
    ``x = z + net(z, tau)``, then ``x <- x + m (x - previous x)`` but for the last time.

    The level ``tau`` falls from most of the image to its noise ``sigma``, and ``lambda = w (sigma^2 + .02^2) / tau^2``:
    a noisy scan trusts the network more. The network may be trained as a denoiser first; this is then half-quadratic
    splitting with a learned prior (Zhang et al.). Trained end to end, it learns to undo what undersampling does. The
    factors on all ``tau``, the ``w`` and the ``m`` are learned.

    The network commutes with a change of scale, and the noise level is that of the acquisition, or measured in
    rows of air or the corners of its k-space. Coil maps are those of ESPIRiT, whatever maps come with the data: they
    are zero in the air, which undoes much of the aliasing. Without central lines they are those of the data.

    Parameters
    ----------
    regulariser : makes the network, complex ``(batch, 1, h, w)`` and noise level ``(batch,)`` to a residual
        ``(batch, 1, h, w)``; all alternations share it.
    n_unrolls : number of alternations, at least two.
    cg_iterations : conjugate gradient steps of each data consistency.
    smooth_phase : the maps take the phase of the low-resolution image, so that the network sees a nearly real one
        (:func:`~spinwarp.coils.with_smooth_phase`). Without central lines the image keeps its phase, and the log says
        so.

    Raises
    ------
    InputError : if there are fewer than two alternations, or no conjugate gradient steps.

    References
    ----------
    Aggarwal, Mani and Jacob, "MoDL: model-based deep learning architecture for inverse problems", IEEE TMI 2019.
    Zhang et al., "Plug-and-play image restoration with deep denoiser prior" (DPIR), arXiv 2008.13751, section 4.
    Uecker et al., "ESPIRiT: an eigenvalue approach to autocalibrating parallel MRI", MRM 2014.
    """

    def __init__(
        self,
        regulariser: Callable[[], nn.Module],
        n_unrolls: int = 10,
        cg_iterations: int = 4,
        smooth_phase: bool = False,
    ) -> None:
        super().__init__()
        if n_unrolls < 2 or cg_iterations < 1:
            raise InputError(
                f"an unrolled network has at least two unrolls and one CG step; got {n_unrolls} and {cg_iterations}"
            )
        self.regulariser = regulariser()
        self.n_unrolls = n_unrolls
        self.cg_iterations = cg_iterations
        self.smooth_phase = smooth_phase
        # of .1 to 1 and 0 to .5 the best with a denoiser, before any training end to end
        self.log_weight = nn.Parameter(torch.full((n_unrolls,), math.log(0.1)))
        self.momentum = nn.Parameter(torch.full((n_unrolls - 1,), 0.5))
        self.log_level = nn.Parameter(torch.zeros(n_unrolls))

    def forward(self, acquisition: Acquisition) -> Tensor:
        """Return the image ``(batch, h, w)`` complex.

        Raises
        ------
        InputError : if several coils come without central lines and without maps.
        """
        prepared = self.prepared(acquisition)
        assert prepared.maps is not None
        # the phase of the image is relative to the maps of the data
        return combine(expand(self.alternate(prepared), prepared.maps), acquisition.maps)

    def prepared(self, acquisition: Acquisition) -> Acquisition:
        """Return the acquisition with the coil maps that the network uses and the noise level, where it has none.

        Raises
        ------
        InputError : see :meth:`forward`.
        """
        kspace, mask = acquisition.kspace, acquisition.mask
        noise_std = acquisition.noise_std if acquisition.noise_std is not None else noise_level(kspace.detach(), mask)
        maps = acquisition.maps
        n_acs = acs_columns(mask)
        has_centre = bool(n_acs.all())
        if maps is None or has_centre:
            maps, _ = espirit_maps(kspace, mask)
        if self.smooth_phase and has_centre:
            maps = with_smooth_phase(maps, kspace, n_acs)
        elif self.smooth_phase:
            warn_once(
                "the mask leaves out the centre of k-space, so the image keeps its phase; the network was trained on "
                "images without one, so expect a worse one"
            )
        return replace(acquisition, maps=maps, noise_std=noise_std)

    def alternate(self, acquisition: Acquisition) -> Tensor:
        """Return the image ``(batch, h, w)`` complex of an acquisition that is :meth:`prepared`.

        No decision depends on the values of the data, so it can be recorded as a CUDA graph.
        """
        maps, noise_std = acquisition.maps, acquisition.noise_std
        assert maps is not None
        assert noise_std is not None
        support = (maps != 0).any(1)
        operator = sense(acquisition)
        rhs = operator.adjoint(acquisition.kspace)
        scale = root_sum_of_squares(rhs.flatten(1), dim=1) / rhs[0].numel() ** 0.5
        scale = scale.clamp_min(torch.finfo(scale.dtype).tiny)
        rhs = rhs / scale.view(-1, 1, 1)
        noise = (noise_std / scale).square()
        last_level = noise.sqrt().clamp(_LEAST_NOISE, _FIRST_LEVEL)

        image = previous = torch.zeros_like(rhs)
        for step in range(self.n_unrolls):
            progress = step / (self.n_unrolls - 1)
            level = _FIRST_LEVEL * (last_level / _FIRST_LEVEL) ** progress * self.log_level[step].exp()
            weight = self.log_weight[step].exp() * (noise + _LEAST_NOISE**2) / level.square()
            image = self._consistent(operator.normal, rhs, image, weight.view(-1, 1, 1))
            image = image + support * self.regulariser(image[:, None], level)[:, 0]
            if step < self.n_unrolls - 1:
                image, previous = image + self.momentum[step] * (image - previous), image
        return image * scale.view(-1, 1, 1)

    def _consistent(self, normal: Callable[[Tensor], Tensor], rhs: Tensor, start: Tensor, weight: Tensor) -> Tensor:
        def system(x: Tensor) -> Tensor:
            return normal(x) + weight * x

        return conjugate_gradient(system, rhs + weight * start, start, iterations=self.cg_iterations)
