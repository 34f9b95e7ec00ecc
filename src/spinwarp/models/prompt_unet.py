"""The U-Net of PromptMR: channel attention, prompts, and features of earlier cascades."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spinwarp.channels import to_channels, to_complex
from spinwarp.errors import InputError
from spinwarp.models.complex_network import ComplexNetwork, Layers
from spinwarp.models.norm_unet import padded

Features = tuple[Tensor, ...]  # of each decoder level, from coarse to fine
_REDUCTION = 4  # of the channels inside the channel attention


class PromptUNet(ComplexNetwork):
    """U-Net of channel-attention blocks on complex images; any image size.

    Level ``i`` has ``channels * (1 + i / 2)`` features, rounded down. Each decoder level begins with two optional
    parts:

    - *history*: a 1x1 convolution of its features and those of the last ``history`` cascades, then a block;
    - *prompts*: a mixture of fixed random maps, weighted by a softmax of the mean feature, is resized to the level,
      convolved and appended. It tells the network what kind of image it works on.

    Mean and deviation over all channels normalise the input and scale the output back, so the network commutes with a
    change of scale.

    Parameters
    ----------
    in_images, out_images : complex images of the input and output.
    n_code : numbers that describe the scan; each level is scaled and shifted by a linear function of them (FiLM).
    channels : features of the finest level, at least two.
    pools : number of halvings.
    down, up : blocks of each level on the way down and up, from fine to coarse; those beyond ``pools`` are not used.
    bottom : blocks of the coarsest level.
    attention : whether blocks have channel attention.
    n_prompts : maps that are mixed on each level; 0: no prompts.
    prompt_size : side of the maps of the finest decoder level, halved on each coarser one.
    history : number of earlier cascades whose features are used.

    Raises
    ------
    InputError : if there is no level, a list is too short, or there are fewer than two channels.

    References
    ----------
    Xin, Ye, Axel and Metaxas, "Fill the k-space and refine the image: prompting for dynamic and multi-contrast MRI
    reconstruction" (PromptMR), arXiv 2309.13839.
    Xin, Ye, Axel and Metaxas, "Rethinking deep unrolled model for accelerated MRI reconstruction", ECCV 2024 (history).
    Zhang et al., "Image super-resolution using very deep residual channel attention networks", ECCV 2018.
    Perez et al., "FiLM: visual reasoning with a general conditioning layer", AAAI 2018.
    """

    def __init__(
        self,
        in_images: int,
        out_images: int,
        n_code: int = 0,
        channels: int = 48,
        pools: int = 3,
        down: Sequence[int] = (2, 3, 3),
        up: Sequence[int] = (2, 2, 3),
        bottom: int = 3,
        attention: bool = True,
        n_prompts: int = 5,
        prompt_size: int = 64,
        history: int = 0,
    ) -> None:
        super().__init__()
        if pools < 1 or min(len(down), len(up)) < pools or channels < 2:
            raise InputError(
                f"a PromptUNet has at least two channels and one level, and one number of blocks for each "
                f"level; got channels={channels}, pools={pools}, down={list(down)}, up={list(up)}"
            )
        self.history = history
        self.multiple = 2**pools
        self.unet = _PromptUNet(
            2 * in_images, 2 * out_images, n_code, channels, pools, down, up, bottom, attention, n_prompts,
            prompt_size, history,
        )  # fmt: skip

    def forward(
        self, image: Tensor, history: Sequence[Features] = (), code: Tensor | None = None
    ) -> tuple[Tensor, Features]:
        """``(batch, in_images, h, w)`` complex to ``(batch, out_images, h, w)``, and the features to hand on.

        Parameters
        ----------
        image : complex.
        history : features of earlier cascades, the latest last; at most ``history`` of them are used.
        code : ``(batch, n_code)``, or None.
        """
        x = to_channels(image)
        mean = x.mean((1, 2, 3), keepdim=True)
        std = x.std((1, 2, 3), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        x, (h, w), (top, left) = padded((x - mean) / std, self.multiple)
        x, features = self.unet(x, history[len(history) - self.history :] if self.history else (), code)
        return to_complex(x[..., top : top + h, left : left + w] * std + mean), features


class _PromptUNet(nn.Module):
    """The real network inside :class:`PromptUNet`, which describes the parameters."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_code: int,
        channels: int,
        pools: int,
        down: Sequence[int],
        up: Sequence[int],
        bottom: int,
        attention: bool,
        n_prompts: int,
        prompt_size: int,
        history: int,
    ) -> None:
        super().__init__()
        widths = [channels * (2 + level) // 2 for level in range(pools + 1)]
        self.first = _conv3(n_in, channels)
        self.down = nn.ModuleList(_blocks(widths[i], down[i], attention) for i in range(pools))
        self.codes = nn.ModuleList(_Code(n_code, n) for n in widths if n_code)
        self.shrink = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 3, 2, 1) for i in range(pools))
        self.skips = nn.ModuleList(_Block(widths[i], attention) for i in range(pools))
        self.bottom = _blocks(widths[-1], bottom, attention)
        self.up = nn.ModuleList(
            _Decoder(
                widths[i], widths[i + 1], up[i], attention, n_prompts, (i + 1) * channels // 2, prompt_size // 2**i,
                history,
            )
            for i in reversed(range(pools))
        )  # fmt: skip
        self.last = nn.Conv2d(channels, n_out, 5, padding=2, bias=False)

    def forward(self, x: Tensor, history: Sequence[Features], code: Tensor | None) -> tuple[Tensor, Features]:
        """``(batch, n_in, h, w)`` to ``(batch, n_out, h, w)`` and the features of each decoder level."""
        x = self.first(x)
        skips: list[Tensor] = []
        for level, (blocks, shrink, skip) in enumerate(zip(self.down, self.shrink, self.skips, strict=True)):
            x = blocks(self._coded(x, level, code))
            skips.append(skip(x))
            x = shrink(x)
        x = self.bottom(self._coded(x, len(skips), code))
        features: list[Tensor] = []
        for level, decoder in enumerate(self.up):
            features.append(x)
            x = decoder(x, skips.pop(), [earlier[level] for earlier in history])
        return self.last(x), tuple(features)

    def _coded(self, x: Tensor, level: int, code: Tensor | None) -> Tensor:
        return x if code is None else self.codes[level](x, code)


class _Decoder(nn.Module):
    """One level on the way up: history, prompts, blocks, upsampling, skip connection."""

    def __init__(
        self,
        n_out: int,
        n: int,
        blocks: int,
        attention: bool,
        n_prompts: int,
        prompt_channels: int,
        prompt_size: int,
        history: int,
    ) -> None:
        super().__init__()
        self.fuse = nn.Conv2d((history + 1) * n, n, 1, bias=False) if history else None
        self.fused = _Block(n, attention) if history else None
        self.prompt = _Prompt(n, n_prompts, prompt_channels, prompt_size) if n_prompts else None
        wide = n + (prompt_channels if n_prompts else 0)
        self.blocks = _blocks(wide, blocks, attention)
        self.reduce = nn.Conv2d(wide, n, 1, bias=False)
        self.grow = nn.Conv2d(n, n_out, 1, bias=False)
        self.merged = _Block(n_out, attention)

    def forward(self, x: Tensor, skip: Tensor, history: Sequence[Tensor]) -> Tensor:
        """``(batch, n, h, w)`` to ``(batch, n_out, 2 h, 2 w)``; ``history`` holds earlier features, the latest last."""
        if self.fuse is not None and self.fused is not None:
            # what the first cascades lack counts as zeros: the weights for it are left out
            stacked = torch.cat([x, *reversed(history)], dim=1)
            x = self.fused(F.conv2d(stacked, self.fuse.weight[:, : stacked.shape[1]]))
        if self.prompt is not None:
            x = torch.cat([x, self.prompt(x)], dim=1)
        x = self.grow(F.interpolate(self.reduce(self.blocks(x)), scale_factor=2, mode="bilinear"))
        return self.merged(x + skip)


class _Prompt(nn.Module):
    """A mixture of fixed random maps, chosen by the mean feature."""

    def __init__(self, n: int, n_prompts: int, channels: int, size: int) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.rand(n_prompts, channels, max(size, 1), max(size, 1)), requires_grad=False)
        self.choose = nn.Linear(n, n_prompts)
        self.conv = _conv3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(batch, n, h, w)`` to a prompt ``(batch, channels, h, w)``."""
        weights = self.choose(x.mean((-2, -1))).softmax(1)
        prompt = torch.einsum("bp,pchw->bchw", weights, self.maps.to(weights.dtype))
        return self.conv(F.interpolate(prompt, x.shape[-2:], mode="bilinear"))


class _Code(nn.Module):
    """Scale and shift of features by a linear function of what is known of the scan; the identity at first."""

    def __init__(self, n_code: int, n: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_code, 2 * n)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Features ``(batch, n, h, w)`` and code ``(batch, n_code)``."""
        scale, shift = self.linear(code)[..., None, None].chunk(2, dim=1)
        return x * (1 + scale) + shift


class _Block(nn.Module):
    """Channel-attention block (CAB): two convolutions, their channels weighted by the mean features, added to x."""

    def __init__(self, n: int, attention: bool) -> None:
        super().__init__()
        self.body = Layers(_conv3(n, n), nn.PReLU(), _conv3(n, n))
        few = max(n // _REDUCTION, 1)
        self.attention = (
            Layers(nn.Conv2d(n, few, 1, bias=False), nn.ReLU(), nn.Conv2d(few, n, 1, bias=False), nn.Sigmoid())
            if attention
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, n, h, w)`` to the same."""
        change = self.body(x)
        if self.attention is not None:
            change = change * self.attention(change.mean((-2, -1), keepdim=True))
        return x + change


def _blocks(n: int, number: int, attention: bool) -> Layers:
    return Layers(*(_Block(n, attention) for _ in range(number)))


def _conv3(n_in: int, n_out: int) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
