"""An invertible flow of complex images: multi-scale, with affine couplings (Glow)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from spinwarp.channels import double, to_channels, to_complex
from spinwarp.errors import InputError
from spinwarp.models.generator import ImageGenerator, Size, pad_to_multiple, padded_size

_MAX_LOG_SCALE = 2.0  # of a coupling; the bound keeps the inverse accurate


class Flow(ImageGenerator):
    """``x = G(z)``, one to one, with one latent for each real number in the image.

    Each level folds 2x2 pixels into channels and applies ``depth`` steps of actnorm, invertible 1x1 convolution and
    affine coupling. Then half of the channels become latents, normalised with a mean and scale predicted from the other
    half, so all latents are standard normal. The network is convolutional and makes images of any size. If a side is
    not a multiple of ``2^levels``, the flow makes the next larger image and crops its last rows and columns; then ``G``
    is still onto, but no longer one to one.

    Parameters
    ----------
    size : default ``(h, w)`` of the images.
    levels : number of times that pixels are folded.
    depth : steps per level.
    channels : features inside the couplings.

    Raises
    ------
    InputError : if the size, a level, step or channel count is below one.

    References
    ----------
    Kingma and Dhariwal, "Glow: generative flow with invertible 1x1 convolutions", NeurIPS 2018.
    Asim et al., "Invertible generative models for inverse problems", ICML 2020 (GlowIP), for its use as a prior.
    """

    invertible = True

    def __init__(self, size: Sequence[int], levels: int = 3, depth: int = 8, channels: int = 32) -> None:
        super().__init__(size)
        if min(levels, depth, channels) < 1:
            raise InputError(f"a flow has at least one level, step and channel; got {levels=}, {depth=}, {channels=}")
        self.block = 2**levels
        self.levels = nn.ModuleList()
        self.splits = nn.ModuleList()
        n = 2
        for level in range(levels):
            n *= 4
            self.levels.append(nn.ModuleList(Step(n, channels) for _ in range(depth)))
            if level < levels - 1:
                n //= 2
                self.splits.append(Conditioner(n, n, channels))

    def latent_shape(self, size: Size | None = None) -> tuple[int]:
        """Shape of the latent of one image: one number for each real number in the (padded) image."""
        h, w = padded_size(size or self.size, self.block)
        return (2 * h * w,)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Latents ``(batch, n)`` of images ``(batch, h, w)`` complex, and ``log |det dz/dx|`` ``(batch,)``."""
        x = pad_to_multiple(to_channels(images[:, None]), self.block)
        log_det = x.new_zeros(len(x))
        latents = []
        for level in range(len(self.levels)):
            x = F.pixel_unshuffle(x, 2)
            for step in self._steps(level):
                x, change = step.encode(x)
                log_det = log_det + change
            if level < len(self.splits):
                x, rest = x.chunk(2, dim=1)
                log_scale, shift = self.splits[level](x)
                latents.append(((rest - shift) * (-log_scale).exp()).flatten(1))
                log_det = log_det - log_scale.flatten(1).sum(1)
        return torch.cat([*latents, x.flatten(1)], dim=1), log_det

    def generate(self, z: Tensor, size: Size | None = None) -> Tensor:
        """Make images: ``(batch, n)`` to ``(batch, h, w)`` complex64, the inverse of :meth:`encode`."""
        h, w = size or self.size
        shapes = self._latent_shapes((h, w))
        parts = z.split([n * rows * columns for n, rows, columns in shapes], dim=1)
        latents = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
        x = latents.pop()
        for level in reversed(range(len(self.levels))):
            if level < len(self.splits):
                log_scale, shift = self.splits[level](x)
                x = torch.cat([x, latents.pop() * log_scale.exp() + shift], dim=1)
            for step in reversed(self._steps(level)):
                x = step.generate(x)
            x = F.pixel_shuffle(x, 2)
        return to_complex(x[..., :h, :w])[:, 0]

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the conditioners; the invertible parts have no ``forward``, only ``encode`` and ``generate``."""
        for module in self.modules():
            if isinstance(module, Conditioner):
                module.compile(*args, **kwargs)

    def _steps(self, level: int) -> "list[Step]":
        return [step for step in self.levels[level].children() if isinstance(step, Step)]

    def _latent_shapes(self, size: Size) -> list[tuple[int, int, int]]:
        """``(channels, h, w)`` of the latents that leave at each level."""
        h, w = padded_size(size, self.block)
        n, shapes = 2, []
        for level in range(len(self.levels)):
            n, h, w = 4 * n, h // 2, w // 2
            if level < len(self.splits):
                n //= 2
            shapes.append((n, h, w))
        return shapes


class Step(nn.Module):
    """Actnorm, invertible 1x1 convolution and affine coupling on an even number of ``channels``.

    The actnorm is initialised on the first training batch, to give each channel mean zero and variance one. The matrix
    of the convolution is ``P L (U + diag(s))`` with a permutation P; its determinant is the product of s, up to sign.
    """

    permutation: Tensor
    sign: Tensor
    initialised: Tensor

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialised", torch.tensor(False))
        rotation = torch.linalg.qr(torch.randn(channels, channels))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_diagonal = nn.Parameter(diagonal.abs().log())
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())
        self.coupling = Conditioner(channels // 2, channels // 2, features)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Image to latent, both ``(batch, channels, h, w)``; also return the change of the log-determinant."""
        if self.training and not self.initialised:
            self._initialise(x)
        x = (x + self.bias[:, None, None]) * self.log_scale.exp()[:, None, None]
        x = _mix(x, self._matrix())
        log_det = (self.log_scale.sum() + self.log_diagonal.sum()) * (x.shape[-2] * x.shape[-1])
        kept, changed = x.chunk(2, dim=1)
        log_scale, shift = self.coupling(kept)
        changed = (changed + shift) * log_scale.exp()
        return torch.cat([kept, changed], dim=1), log_det + log_scale.flatten(1).sum(1)

    def generate(self, x: Tensor) -> Tensor:
        """Latent to image: the inverse of :meth:`encode`."""
        kept, changed = x.chunk(2, dim=1)
        log_scale, shift = self.coupling(kept)
        x = torch.cat([kept, changed * (-log_scale).exp() - shift], dim=1)
        # in double precision: cheap for a few channels, and rounding errors of the inverse add up over the steps
        x = _mix(x, torch.linalg.inv(double(self._matrix())).to(x.dtype).to(x.device))
        return x * (-self.log_scale).exp()[:, None, None] - self.bias[:, None, None]

    def _matrix(self) -> Tensor:
        identity = torch.eye(len(self.bias), dtype=self.lower.dtype, device=self.lower.device)
        upper = self.upper.triu(1) + (self.sign * self.log_diagonal.exp()).diag()
        with torch.autocast(upper.device.type, enabled=False):
            return self.permutation @ (self.lower.tril(-1) + identity) @ upper

    @torch.no_grad()
    def _initialise(self, x: Tensor) -> None:
        moments = torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))])
        if distributed.is_available() and distributed.is_initialized():  # every process must start with the same values
            distributed.all_reduce(moments)
            moments /= distributed.get_world_size()
        mean, square = moments
        self.bias.copy_(-mean)
        self.log_scale.copy_(-0.5 * (square - mean.square()).clamp_min(1e-6).log())
        self.initialised.fill_(True)


def _mix(x: Tensor, matrix: Tensor) -> Tensor:
    """Apply a matrix to the channels of ``(batch, channel, h, w)``, in full precision even under autocast."""
    with torch.autocast(x.device.type, enabled=False):
        return F.conv2d(x, matrix[..., None, None])


class Conditioner(nn.Module):
    """Predict a log-scale and a shift for ``n_out`` channels from ``n_in`` others; both start at zero."""

    def __init__(self, n_in: int, n_out: int, features: int) -> None:
        super().__init__()
        first, second = nn.Conv2d(n_in, features, 3, padding=1), nn.Conv2d(features, features, 1)
        last = nn.Conv2d(features, 2 * n_out, 3, padding=1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.layers = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), last)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(batch, n_in, h, w)`` to two ``(batch, n_out, h, w)``."""
        # under autocast the layers return half precision; the coupling must be invertible, so it needs full precision
        log_scale, shift = self.layers(x).to(x.dtype).chunk(2, dim=1)
        return _MAX_LOG_SCALE * torch.tanh(log_scale / _MAX_LOG_SCALE), shift
