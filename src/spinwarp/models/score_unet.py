"""A compact U-Net conditioned on the noise level, for score models that train on a CPU."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spinwarp.errors import InputError


class ScoreUNet(nn.Module):
    """Residual U-Net whose blocks are scaled and shifted by the noise level, on patches of pixels.

    Patches of ``patch`` by ``patch`` pixels become channels. Only the first and last layer then work at full
    resolution, which is the most expensive and least informative level. Images may have any size from one patch: they
    are padded at their edges and cropped again.

    Parameters
    ----------
    channels : of input and output.
    widths : channels of each level, from fine to coarse; each level halves the image.
    blocks : residual blocks per level on the way down; there is one more on the way up.
    patch : side of the patches.
    dropout : probability of dropping a feature in each block.

    Raises
    ------
    InputError : if there is no level, or a width is not a multiple of 8, the number of normalisation groups.

    References
    ----------
    Dhariwal and Nichol, "Diffusion models beat GANs on image synthesis", arXiv 2105.05233, for the blocks.
    Hoogeboom et al., "Simple diffusion", arXiv 2301.11093, for the patches.
    """

    def __init__(
        self,
        channels: int = 2,
        widths: Sequence[int] = (48, 96, 192),
        blocks: int = 1,
        patch: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not widths or blocks < 1 or patch < 1 or any(w < 8 or w % _GROUPS for w in widths):
            raise InputError(
                f"a score network needs at least one level, widths that are multiples of {_GROUPS}, at least one block "
                f"and a patch of at least 1; got widths {list(widths)}, blocks {blocks}, patch {patch}"
            )
        n_embedding = 4 * widths[0]
        self.channels = channels
        self.patch = patch
        self.multiple = patch * 2 ** (len(widths) - 1)
        self.embedding = _NoiseEmbedding(n_embedding)
        self.first = nn.Conv2d(channels * patch**2, widths[0], kernel_size=3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        n_in, skips = widths[0], [widths[0]]
        for level, width in enumerate(widths):
            for _ in range(blocks):
                self.down.append(_Block(n_in, width, n_embedding, dropout))
                n_in = width
                skips.append(n_in)
            if level < len(widths) - 1:
                self.down.append(_Downsample())
                skips.append(n_in)
        self.middle = _Block(n_in, n_in, n_embedding, dropout)
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(_Block(n_in + skips.pop(), width, n_embedding, dropout))
                n_in = width
            if level:
                self.up.append(_Upsample())
        self.last = nn.Sequential(
            nn.GroupNorm(_GROUPS, n_in), nn.SiLU(), _zero(nn.Conv2d(n_in, channels * patch**2, 3, padding=1))
        )

    def forward(self, x: Tensor, log_sigma: Tensor) -> Tensor:
        """``(batch, channels, h, w)`` and ``(batch,)`` to ``(batch, channels, h, w)``."""
        h, w = x.shape[-2:]
        missing_h, missing_w = -h % self.multiple, -w % self.multiple
        # a mirrored edge still looks like noise; constant padding would look like nothing in training
        x = F.pad(x, (0, missing_w, 0, missing_h), mode="replicate" if min(h, w) < self.multiple else "reflect")
        embedding = self.embedding(log_sigma)
        x = self.first(F.pixel_unshuffle(x, self.patch))
        skips = [x]
        for layer in self.down:
            x = layer(x, embedding)
            skips.append(x)
        x = self.middle(x, embedding)
        for layer in self.up:
            x = layer(torch.cat([x, skips.pop()], 1) if isinstance(layer, _Block) else x, embedding)
        return F.pixel_shuffle(self.last(x), self.patch)[..., :h, :w]


_GROUPS = 8


class _NoiseEmbedding(nn.Module):
    """The noise level as a vector: sines and cosines of its logarithm, and two layers.

    The logarithm ranges from about -6 to 5. Frequencies of 1/16 to 4 turns per unit resolve levels a tenth apart.
    """

    frequencies: Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2 * torch.pi * torch.logspace(-4, 2, 16, base=2.0), persistent=False)
        self.layers = nn.Sequential(nn.Linear(32, n), nn.SiLU(), nn.Linear(n, n), nn.SiLU())

    def forward(self, log_sigma: Tensor) -> Tensor:
        phase = log_sigma[:, None] * self.frequencies
        embedding: Tensor = self.layers(torch.cat([phase.sin(), phase.cos()], 1))
        return embedding


class _Block(nn.Module):
    """Two convolutions beside a shortcut; the second normalisation is scaled and shifted by the noise level."""

    def __init__(self, n_in: int, n_out: int, n_embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(_GROUPS, n_in), nn.GroupNorm(_GROUPS, n_out)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.conv2 = _zero(nn.Conv2d(n_out, n_out, 3, padding=1))
        self.modulation = nn.Linear(n_embedding, 2 * n_out)
        self.shortcut = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[..., None, None].chunk(2, 1)
        y = self.conv1(F.silu(self.norm1(x)))
        y = F.silu(self.norm2(y) * (1 + scale) + shift)
        out: Tensor = self.shortcut(x) + self.conv2(self.dropout(y))
        return out


class _Downsample(nn.Module):
    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # noqa: ARG002
        return F.avg_pool2d(x, 2)


class _Upsample(nn.Module):
    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # noqa: ARG002
        return F.interpolate(x, scale_factor=2, mode="nearest")


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Initialise a layer at zero: a block is then its shortcut, and the denoiser scales its input."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
