"""What a network is told of the scan: acceleration, noise and contrast, as a few numbers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition
from spinwarp.coils import noise_level
from spinwarp.models.complex_network import ComplexNetwork

_FREQUENCIES = 4  # sinusoids of each number


class ScanCode(ComplexNetwork):
    """Describes a scan by a vector: a small network of sinusoids of its acceleration and noise, and of its contrast.

    The noise level is that of the acquisition, or measured in the corners of its k-space, relative to the image.

    Parameters
    ----------
    length : of the vector.
    contrasts : those that are told apart, as the header names them; all others share one vector.
    acceleration, noise : whether these numbers are used.

    References
    ----------
    Vaswani et al., "Attention is all you need", NeurIPS 2017 (the sinusoids).
    SDUM, arXiv 2512.17137 (the protocol as an embedding).
    """

    def __init__(
        self, length: int = 32, contrasts: Sequence[str] = (), acceleration: bool = True, noise: bool = True
    ) -> None:
        super().__init__()
        self.length = length
        self.contrasts = list(contrasts)
        self.acceleration = acceleration
        self.noise = noise
        n_numbers = int(acceleration) + int(noise)
        self.layers = (
            nn.Sequential(nn.Linear(2 * _FREQUENCIES * n_numbers, length), nn.SiLU(), nn.Linear(length, length))
            if n_numbers
            else None
        )
        self.contrast = nn.Embedding(len(self.contrasts) + 1, length) if self.contrasts else None

    def forward(self, acquisition: Acquisition, scale: Tensor) -> Tensor:
        """Return the code ``(batch, length)``; ``scale`` is the size of the image, ``(batch,)``."""
        kspace, mask = acquisition.kspace, acquisition.mask
        numbers = []
        if self.acceleration:
            numbers.append(-mask.float().mean((1, 2, 3)).clamp_min(1e-6).log2())
        if self.noise:
            noise = acquisition.noise_std if acquisition.noise_std is not None else noise_level(kspace.detach(), mask)
            numbers.append((noise / scale).clamp(1e-6, 1e6).log2())
        code = kspace.real.new_zeros(len(kspace), self.length)
        if self.layers is not None:
            # periods of 2 to 16 doublings, which tell all usual scans apart
            phase = torch.stack(numbers, 1)[..., None] * (math.pi / 2 ** torch.arange(_FREQUENCIES, device=mask.device))
            code = code + self.layers(torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(1))
        if self.contrast is not None:
            named = [h.contrast for h in acquisition.headers] or [None] * len(kspace)
            index = [self.contrasts.index(name) if name in self.contrasts else len(self.contrasts) for name in named]
            code = code + self.contrast(torch.tensor(index, device=mask.device))
        return code
