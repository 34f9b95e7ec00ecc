"""One simulated scan of one slice: draws everything that varies between scanners."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spinwarp.data.heads.anatomy import Slice, View, draw_view, recoloured, seen
from spinwarp.data.heads.reception import draw_array, draw_noise, draw_phase, draw_window, refined, smooth_nodes
from spinwarp.fourier import fftc, ifftc


@dataclass(frozen=True)
class Scan:
    """K-space and the ground truth behind it: ``kspace = window * (F (maps * image) + noise)``.

    Parameters
    ----------
    kspace : ``(coil, h, w)`` complex64, zero outside the window.
    image : ``(h, w)`` complex64, without noise.
    maps : ``(coil, h, w)`` complex64 with a sum of squares of one.
    noise : ``(coil, h, w)`` complex64.
    window : acquired rows and columns.
    target : ``(h, w)`` float32, root sum of squares of the acquired k-space without noise.
    view : position of the head in the scanner.
    """

    kspace: Tensor
    image: Tensor
    maps: Tensor
    noise: Tensor
    window: tuple[slice, slice]
    target: Tensor
    view: View


def draw_scan(
    there: Slice,
    shape: tuple[int, int, int],
    snr: tuple[float, float],
    rng: np.random.RandomState,
    measured: Path | None = None,
) -> Scan:
    """Draw a scan of ``shape`` = (coil, h, w).

    Parameters
    ----------
    snr : range of the signal-to-noise ratio, drawn uniformly in the logarithm: mean magnitude of the head over the
        standard deviation of the complex noise of a pixel.
    measured : file of measured sensitivities, see :func:`spinwarp.data.heads.reception.draw_array`.
    """
    n_coils, *size = shape
    h, w = size
    view = draw_view(there, (h, w), rng)
    head = view.head(there)
    maps_nodes, profile = draw_array(n_coils, (h, w), head, rng, measured)
    fine = recoloured(seen(there, view, (h, w)), rng)
    bias = profile ** rng.uniform(0, 0.9) * np.exp(rng.uniform(0, 0.3) * smooth_nodes(rng, rng.randint(3, 6)))
    fine = fine * refined(bias.astype(np.float32), (fine.shape[0], fine.shape[1])).clamp_min(0.05)
    phase = draw_phase(fine, head, rng)
    # k-space of a finer image is cut at its edge: edges ring, and phases within a pixel cancel
    world = fftc(torch.polar(fine.abs(), phase) * fine.sign())
    top, left = world.shape[-2] // 2 - h // 2, world.shape[-1] // 2 - w // 2
    image = ifftc(world[top : top + h, left : left + w]) * (h * w / world.numel()) ** 0.5
    maps = refined(maps_nodes, (h, w))
    maps = maps / maps.abs().square().sum(0).sqrt()
    image = image * float(np.exp(rng.uniform(np.log(1e-2), np.log(1e2))))  # scanners have arbitrary units
    magnitude = image.abs()
    signal = float(magnitude[magnitude > 0.1 * magnitude.max()].mean())
    noise = draw_noise((n_coils, h, w), signal / float(np.exp(rng.uniform(*np.log(snr)))), rng)
    window = draw_window((h, w), rng)
    clean = fftc(maps * image)
    kspace = torch.zeros_like(clean)
    kspace[:, window[0], window[1]] = (clean + noise)[:, window[0], window[1]]
    target = magnitude
    if window != (slice(0, h), slice(0, w)):
        acquired = torch.zeros_like(clean)
        acquired[:, window[0], window[1]] = clean[:, window[0], window[1]]
        target = ifftc(acquired).abs().square().sum(0).sqrt()
    return Scan(kspace, image, maps, noise, window, target, view)
