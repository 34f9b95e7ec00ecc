"""Data consistency of a :class:`~spinwarp.models.cascades.CascadeNet`: gradient, conjugate gradient and ADMM steps.

A step owns what a cascade hands to the next: its state, a tuple of tensors, the iterate first. It says which images the
network sees, and makes the next state of what the network returns. Slices are items here: images are
``(item, h, w)``, k-space ``(item, coil, h, w)``.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spinwarp.channels import to_channels, to_complex
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.models.complex_network import ComplexNetwork, Layers
from spinwarp.operators.sense import expand, reduce
from spinwarp.solvers import conjugate_gradient

State = tuple[Tensor, ...]
_KNOTS = 16  # of a profile of weights over k-space


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Parameters
    ----------
    kspace : ``(item, coil, h, w)``. A line mask is constant along the readout, so all steps commute with the transform
        along it, which is then undone already.
    mask : ``(item, 1, 1 or h, w)`` bool, or float32 with a gradient (``soft_mask`` of an acquisition). ``kspace`` was
        multiplied by it already; a second time would lose the gradient of lines that are not sampled.
    dims : that are left to transform.
    """

    kspace: Tensor
    mask: Tensor
    dims: tuple[int, ...]

    @staticmethod
    def of(kspace: Tensor, mask: Tensor) -> "Measured":
        """Undo the transform along the readout if the mask allows it."""
        lines = mask.shape[-2] == 1
        return Measured(ifftc(kspace, (-2,)) if lines else kspace, mask, (-1,) if lines else (-2, -1))

    def coil_images(self, kspace: Tensor) -> Tensor:
        """Transform k-space to coil images."""
        return ifftc(kspace, self.dims)

    def residual(self, image: Tensor, maps: Tensor, weight: Tensor | None = None) -> Tensor:
        """Compute ``A^H W (A x - y)``, ``(item, h, w)``; ``W`` is 1 without a weight."""
        miss = fftc(expand(image, maps), self.dims) * self.mask - self.kspace
        return reduce(ifftc(miss if weight is None else miss * weight, self.dims), maps)

    def normal(self, image: Tensor, maps: Tensor) -> Tensor:
        """Compute ``A^H A x``, ``(item, h, w)``."""
        return reduce(ifftc(fftc(expand(image, maps), self.dims) * self.mask, self.dims), maps)

    def filled(self, coil_images: Tensor) -> Tensor:
        """Return coil images whose measured samples are those of the scan."""
        return coil_images + ifftc(self.kspace - fftc(coil_images, self.dims) * self.mask, self.dims)


class DataStep(ComplexNetwork, ABC):
    """Base of the steps.

    Parameters
    ----------
    n_cascades : number of cascades.
    momentum : each iterate but the last moves on by a learned part of its last change: ``x + m (x - previous x)``.
    """

    n_inputs = 1  #: images of each slice that the network sees

    def __init__(self, n_cascades: int, momentum: bool = False) -> None:
        super().__init__()
        self.momentum = nn.Parameter(torch.zeros(n_cascades - 1)) if momentum and n_cascades > 1 else None

    def moved(self, cascade: int, new: Tensor, old: Tensor) -> Tensor:
        """Add the momentum."""
        if self.momentum is None or cascade == len(self.momentum):
            return new
        return new + self.momentum[cascade] * (new - old)

    @abstractmethod
    def start(self, measured: Measured, maps: Tensor) -> State:
        """Return the first state."""

    @abstractmethod
    def images(self, cascade: int, state: State, measured: Measured, maps: Tensor) -> tuple[Tensor, ...]:
        """Return the images that the network sees, ``n_inputs`` of ``(item, h, w)``; the first is the current one."""

    @abstractmethod
    def forward(self, cascade: int, state: State, prior: Tensor, measured: Measured, maps: Tensor) -> State:
        """Return the next state; ``prior`` is what the network returned, ``(item, h, w)``."""

    def coil_images(self, state: State, measured: Measured, maps: Tensor) -> Tensor:  # noqa: ARG002
        """Return the coil images ``(item, coil, h, w)`` of a state."""
        return expand(state[0], maps)


class KSpaceGradient(DataStep):
    """``k <- k - eta M (k - y) - F S net(S^H F^-1 k)``, starting at y (E2E-VarNet, PromptMR).

    Parameters
    ----------
    n_cascades, momentum : see :class:`DataStep`.
    weighted : multiply M by a learned profile over the distance to the centre, one for lines and one for points.

    References
    ----------
    Sriram et al., "End-to-end variational networks for accelerated MRI reconstruction", MICCAI 2020.
    """

    def __init__(self, n_cascades: int, momentum: bool = False, weighted: bool = False) -> None:
        super().__init__(n_cascades, momentum)
        self.steps = nn.Parameter(torch.ones(n_cascades))
        self.profile = _Profile(n_cascades) if weighted else None

    def start(self, measured: Measured, maps: Tensor) -> State:  # noqa: ARG002
        """Start at the measured k-space."""
        return (measured.kspace,)

    def images(self, cascade: int, state: State, measured: Measured, maps: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Return the image that k-space combines to."""
        return (reduce(measured.coil_images(state[0]), maps),)

    def forward(self, cascade: int, state: State, prior: Tensor, measured: Measured, maps: Tensor) -> State:
        """Take the step."""
        kspace = state[0]
        step = self.steps[cascade]
        if self.profile is not None:
            step = step * self.profile(cascade, measured.mask)
        new = kspace - (kspace * measured.mask - measured.kspace) * step - fftc(expand(prior, maps), measured.dims)
        return (self.moved(cascade, new, kspace),)

    def coil_images(self, state: State, measured: Measured, maps: Tensor) -> Tensor:  # noqa: ARG002
        """Transform the k-space."""
        return measured.coil_images(state[0])


class ImageGradient(DataStep):
    """``x <- x - eta A^H (A x - y) + net(x)``, starting at ``A^H y`` (Hammernik et al., MRM 2018).

    Parameters
    ----------
    n_cascades, momentum, weighted : see :class:`KSpaceGradient`.
    """

    def __init__(self, n_cascades: int, momentum: bool = False, weighted: bool = False) -> None:
        super().__init__(n_cascades, momentum)
        self.steps = nn.Parameter(torch.ones(n_cascades))
        self.profile = _Profile(n_cascades) if weighted else None

    def start(self, measured: Measured, maps: Tensor) -> State:
        """Start at the zero-filled image."""
        return (reduce(measured.coil_images(measured.kspace), maps),)

    def images(self, cascade: int, state: State, measured: Measured, maps: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Return the image."""
        return state

    def forward(self, cascade: int, state: State, prior: Tensor, measured: Measured, maps: Tensor) -> State:
        """Take the step."""
        image = state[0]
        weight = None if self.profile is None else self.profile(cascade, measured.mask)
        residual = measured.residual(image, maps, weight)
        return (self.moved(cascade, image - self.steps[cascade] * residual + prior, image),)


class ConjugateGradient(DataStep):
    """``z = x + net(x)``, then ``x = argmin_x |A x - y|^2 + lambda |x - z|^2`` by conjugate gradients (MoDL).

    Parameters
    ----------
    n_cascades, momentum : see :class:`DataStep`.
    iterations : conjugate gradient steps.
    weight : lambda of every cascade at the start of training, positive; its logarithm is learned.

    Raises
    ------
    InputError : if there are no iterations, or the weight is not positive.

    References
    ----------
    Aggarwal, Mani and Jacob, "MoDL: model-based deep learning architecture for inverse problems", IEEE TMI 2019.
    """

    def __init__(self, n_cascades: int, momentum: bool = False, iterations: int = 4, weight: float = 0.05) -> None:
        super().__init__(n_cascades, momentum)
        if iterations < 1 or not 0 < weight < math.inf:
            raise InputError(f"ConjugateGradient needs iterations >= 1 and weight > 0; got {iterations} and {weight}")
        self.iterations = iterations
        self.log_weight = nn.Parameter(torch.full((n_cascades,), math.log(weight)))

    def start(self, measured: Measured, maps: Tensor) -> State:
        """Start at the zero-filled image."""
        return (reduce(measured.coil_images(measured.kspace), maps),)

    def images(self, cascade: int, state: State, measured: Measured, maps: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Return the image."""
        return state

    def forward(self, cascade: int, state: State, prior: Tensor, measured: Measured, maps: Tensor) -> State:
        """Take the step."""
        image = state[0]
        weight = self.log_weight[cascade].exp()
        target = image + prior

        def system(x: Tensor) -> Tensor:
            return measured.normal(x, maps) + weight * x

        rhs = reduce(measured.coil_images(measured.kspace), maps) + weight * target
        new = conjugate_gradient(system, rhs, target, iterations=self.iterations)
        return (self.moved(cascade, new, image),)


class ADMM(DataStep):
    """``z = net(z, x, u / rho)``; a few gradient steps on x; ``u <- u + rho (x - z)`` (vSHARP).

    Each gradient step is ``x <- x - eta (A^H (A x - y) + rho (x - z) + u)``. The ``eta`` are shared by all cascades,
    and every cascade has its ``rho``. Four dilated convolutions make the first u of ``x = A^H y``.

    Parameters
    ----------
    n_cascades, momentum : see :class:`DataStep`; the momentum is that of x.
    iterations : gradient steps.
    channels : features of the four convolutions.

    Raises
    ------
    InputError : if there are no iterations.

    References
    ----------
    Yiasemis, Moriakov, Sonke and Teuwen, "vSHARP: variable splitting half-quadratic ADMM algorithm for reconstruction
    of inverse-problems", arXiv 2309.09954.
    """

    n_inputs = 3
    _DILATIONS = (1, 1, 2, 4)

    def __init__(self, n_cascades: int, momentum: bool = False, iterations: int = 10, channels: int = 32) -> None:
        super().__init__(n_cascades, momentum)
        if iterations < 1:
            raise InputError(f"ADMM needs iterations >= 1; got {iterations}")
        # the means of what the paper's code draws
        self.log_steps = nn.Parameter(torch.full((iterations,), math.log(0.8)))
        self.log_rho = nn.Parameter(torch.full((n_cascades,), math.log(0.08)))
        widths = [2, channels, channels, 2 * channels, 2 * channels]
        layers: list[nn.Module] = []
        for n_in, n_out, dilation in zip(widths, widths[1:], self._DILATIONS, strict=False):
            layers += [
                nn.Conv2d(n_in, n_out, 3, padding=dilation, dilation=dilation, padding_mode="replicate"),
                nn.ReLU(),
            ]
        self.first = Layers(*layers, nn.Conv2d(widths[-1], 2, 1), nn.PReLU())

    def start(self, measured: Measured, maps: Tensor) -> State:
        """Start at the zero-filled image, for x and z."""
        image = reduce(measured.coil_images(measured.kspace), maps)
        return (image, image, to_complex(self.first(to_channels(image[:, None])))[:, 0])

    def images(self, cascade: int, state: State, measured: Measured, maps: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Return x, z and u / rho."""
        x, z, u = state
        return x, z, u / self.log_rho[cascade].exp()

    def forward(self, cascade: int, state: State, prior: Tensor, measured: Measured, maps: Tensor) -> State:
        """Take the steps."""
        x, _, u = state
        rho = self.log_rho[cascade].exp()
        new = x
        for step in self.log_steps.exp():
            new = new - step * (measured.residual(new, maps) + rho * (new - prior) + u)
        return self.moved(cascade, new, x), prior, u + rho * (new - prior)


class _Profile(nn.Module):
    """Learned positive weights over the distance to the centre of k-space; 1 everywhere at first."""

    def __init__(self, n_cascades: int) -> None:
        super().__init__()
        self.log_knots = nn.Parameter(torch.zeros(n_cascades, 2, _KNOTS))

    def forward(self, cascade: int, mask: Tensor) -> Tensor:
        """Return the weights ``(1, 1, 1 or h, w)`` of a cascade."""
        h, w = mask.shape[-2:]
        axes = [torch.linspace(-1, 1, n, device=mask.device) if n > 1 else mask.new_zeros(1).float() for n in (h, w)]
        distance = (axes[0][:, None].square() + axes[1].square()).sqrt() / (1 if h == 1 else math.sqrt(2))
        knots = self.log_knots[cascade, 0 if h == 1 else 1].exp()
        # linear interpolation between the knots, which lie from -1 to 1
        grid = torch.stack([2 * distance - 1, torch.zeros_like(distance)], dim=-1)[None]
        return F.grid_sample(knots.view(1, 1, 1, -1), grid, align_corners=True, padding_mode="border")
