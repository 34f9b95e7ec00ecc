"""The score network at its published size: the U-Net of ADM, configured as in EDM and InverseBench."""

import math
from collections.abc import Collection, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spinwarp.errors import InputError


class ADMUNet(nn.Module):
    """Residual U-Net whose blocks are scaled and shifted by the noise level, with self-attention at the coarsest one.

    The defaults are the prior of InverseBench for knees of 320x320. They give 26,002,050 parameters, as in EDM's
    network with this configuration, and the same output for the same weights to 2e-6; InverseBench published no count.
    Its configuration asks for attention at a resolution of 16, which halving 320 never reaches, so only the middle
    block attends. Images may have any size: they are padded at their edges and cropped again.

    Parameters
    ----------
    channels : of input and output.
    width : features of the finest level; a multiple of 32.
    multipliers : features of each level, from fine to coarse, in units of ``width``; each level halves the image.
    blocks : residual blocks per level on the way down; there is one more on the way up.
    attention : levels, the finest being 0, whose blocks all attend; the middle always does. Memory grows linearly with
        the number of pixels.
    dropout : probability of dropping a feature in each block.

    Raises
    ------
    InputError : if there is no level or block, or ``width`` is no multiple of 32.

    References
    ----------
    Dhariwal and Nichol, "Diffusion models beat GANs on image synthesis" (ADM), arXiv 2105.05233.
    Karras et al., "Elucidating the design space of diffusion-based generative models" (EDM), arXiv 2206.00364.
    Zheng et al., "InverseBench", ICLR 2025, arXiv 2503.11043, for the size.
    """

    def __init__(
        self,
        channels: int = 2,
        width: int = 128,
        multipliers: Sequence[int] = (1, 1, 1, 2, 2),
        blocks: int = 1,
        attention: Collection[int] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if blocks < 1 or width < 32 or width % 32 or not multipliers or min(multipliers) < 1:
            raise InputError(
                f"an ADM network needs at least one block, a width that is a multiple of 32 and a multiplier of 1 or "
                f"more for each level; got blocks {blocks}, width {width}, multipliers {list(multipliers)}"
            )
        widths = [width * multiplier for multiplier in multipliers]
        self.channels = channels
        self.multiple = 2 ** (len(widths) - 1)
        self.embedding = _NoiseEmbedding(width)

        def block(n_in: int, n_out: int, attends: bool = False, resample: str = "") -> _Block:
            return _Block(n_in, n_out, 4 * width, attends, resample, dropout)

        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips = [widths[0]]  # features of the skip connections
        for level, (before, n) in enumerate(pairwise([widths[0], *widths])):
            if level:
                self.down.append(block(before, before, resample="down"))
                skips.append(before)
            self.down.extend(block(before if i == 0 else n, n, level in attention) for i in range(blocks))
            skips.extend([n] * blocks)
        self.middle = nn.ModuleList([block(n, n, attends=True), block(n, n)])
        for level, n_out in reversed(list(enumerate(widths))):
            if level < len(widths) - 1:
                self.up.append(block(n, n, resample="up"))
            for _ in range(blocks + 1):
                self.up.append(block(n + skips.pop(), n_out, level in attention))
                n = n_out
        self.last = nn.Sequential(_group_norm(n), nn.SiLU(), _zero(nn.Conv2d(n, channels, 3, padding=1)))

    def forward(self, x: Tensor, log_sigma: Tensor) -> Tensor:
        """``(batch, channels, h, w)`` and ``(batch,)`` to ``(batch, channels, h, w)``."""
        h, w = x.shape[-2:]
        mode = "replicate" if min(h, w) < self.multiple else "reflect"  # reflection must be smaller than the image
        x = F.pad(x, (0, -w % self.multiple, 0, -h % self.multiple), mode=mode)
        embedding = self.embedding(log_sigma)
        x = self.first(x)
        skips = [x]
        for layer in self.down:
            x = layer(x, embedding)
            skips.append(x)
        for layer in self.middle:
            x = layer(x, embedding)
        for layer in self.up:
            x = layer(x if layer.resample else torch.cat([x, skips.pop()], 1), embedding)
        return self.last(x)[..., :h, :w]


class _NoiseEmbedding(nn.Module):
    """The noise level as a vector: cosines and sines of a quarter of its logarithm, and two layers.

    The frequencies fall geometrically from 1 to about 1e-4, as EDM took them over from time steps.
    """

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.register_buffer("frequencies", 1e4 ** (-torch.arange(half) / half), persistent=False)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width), nn.SiLU())

    def forward(self, log_sigma: Tensor) -> Tensor:
        phase = log_sigma[:, None] / 4 * self.frequencies
        embedding: Tensor = self.layers(torch.cat([phase.cos(), phase.sin()], 1))
        return embedding


class _Block(nn.Module):
    """Two convolutions beside a shortcut, modulated by the noise level; then, if it attends, self-attention.

    ``resample`` is "down" (means of 2x2 pixels), "up" (each pixel four times) or empty.
    """

    def __init__(self, n_in: int, n_out: int, n_embedding: int, attends: bool, resample: str, dropout: float) -> None:
        super().__init__()
        self.resample = resample
        self.norm1, self.norm2 = _group_norm(n_in), _group_norm(n_out)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.conv2 = _zero(nn.Conv2d(n_out, n_out, 3, padding=1))
        self.modulation = nn.Linear(n_embedding, 2 * n_out)
        self.shortcut = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.attention = _Attention(n_out) if attends else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[..., None, None].chunk(2, 1)
        y = self.conv1(self._resampled(F.silu(self.norm1(x))))
        y = F.silu(torch.addcmul(shift, self.norm2(y), 1 + scale))
        y = self.conv2(self.dropout(y)) + self.shortcut(self._resampled(x))
        out: Tensor = self.attention(y)
        return out

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.resample == "up" else x


class _Attention(nn.Module):
    """Every pixel attends to every other, in heads of 64 features."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.heads = math.gcd(max(n // 64, 1), n)
        self.norm = _group_norm(n)
        self.qkv = nn.Conv2d(n, 3 * n, 1)
        self.out = _zero(nn.Conv2d(n, n, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(1, (3, self.heads, -1)).flatten(4).transpose(3, 4).unbind(1)
        attended = F.scaled_dot_product_attention(q, k, v)  # (batch, head, pixel, feature)
        out: Tensor = x + self.out(attended.transpose(2, 3).reshape(x.shape))
        return out


def _group_norm(n: int) -> nn.GroupNorm:
    """32 groups, or fewer groups of four features."""
    return nn.GroupNorm(min(32, n // 4), n)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Initialise a layer at zero: a block is then its shortcut, and the denoiser scales its input."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
