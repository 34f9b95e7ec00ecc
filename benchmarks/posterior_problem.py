"""The networks and the problem of ``posterior.py``; needs torch and spinwarp's networks only."""

import os
import time
from typing import Any

COILS, NOISE = 8, 0.05


def clock() -> float:
    """Seconds of wall time; with CLOCK=cpu of processor time, which on one thread leaves out only the waiting."""
    return time.process_time() if os.environ.get("CLOCK") == "cpu" else time.perf_counter()


def network(name: str) -> Any:
    """Build the network of model=score ("compact") or of model=score_edm."""
    import torch

    torch.manual_seed(0)
    if name == "compact":
        from spinwarp.models.score_unet import ScoreUNet

        return ScoreUNet(widths=(48, 96, 192)).eval().requires_grad_(False)
    from spinwarp.models.adm_unet import ADMUNet

    return ADMUNet().eval().requires_grad_(False)


def problem(size: int) -> tuple:
    """Return noisy k-space ``(coil, h, w)`` of an image with the spectrum of photographs, its line mask and maps."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Any:
        return torch.randn(shape, dtype=torch.complex64, generator=generator)

    def fft(x: Any, inverse: bool = False) -> Any:
        transform = torch.fft.ifft2 if inverse else torch.fft.fft2
        return torch.fft.fftshift(transform(torch.fft.ifftshift(x, dim=(-2, -1)), norm="ortho"), dim=(-2, -1))

    axis = torch.linspace(-1, 1, size)
    h, w = axis[:, None], axis[None]
    image = fft(noise(size, size) / (1 + size / 2 * (h**2 + w**2).sqrt()), inverse=True)
    image = image / image.abs().square().mean().sqrt()
    angle = torch.arange(COILS).view(-1, 1, 1) * 2 * torch.pi / COILS
    distance = (h - 1.2 * angle.sin()) ** 2 + (w - 1.2 * angle.cos()) ** 2
    maps = torch.polar((-distance / 2).exp(), angle + h * angle.cos() + w * angle.sin())
    maps = maps / maps.abs().square().sum(0).sqrt()
    mask = torch.rand(size, generator=generator) < 0.18
    center = round(size * 0.08)
    mask[(size - center + 1) // 2 :][:center] = True
    return (fft(image * maps) + NOISE * noise(COILS, size, size)) * mask, mask, maps
