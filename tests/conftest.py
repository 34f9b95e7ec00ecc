"""What several tests share: the folder of real and golden data, small random acquisitions, fastMRI-named weights."""

import os
from collections.abc import Callable
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # a core each: threads of several workers would wait for one another; read when torch and numpy are loaded
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.data.simulation import loop_coil_maps
from spinwarp.fourier import fftc

# what the helpers of several tests assert is shown in full, as in the tests themselves
pytest.register_assert_rewrite("contract", "small_split")

# derandomised, so that a failure on one machine is a failure on all; no deadline, since machines are shared
settings.register_profile("spinwarp", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("spinwarp")

MakeAcquisition = Callable[..., Acquisition]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and golden outputs; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("SPINWARP_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no folder {folder / 'golden'}: the golden files are not here; set SPINWARP_SHARED to its parent")
    return folder


@pytest.fixture(scope="session")
def make_acquisition() -> MakeAcquisition:
    """Make a small acquisition of a bright ellipse with a smooth phase, seen by loop coils, and some noise."""
    return _acquisition


def _acquisition(
    n_coils: int = 4,
    shape: tuple[int, int] = (37, 29),
    batch: int = 2,
    two_dimensional: bool = False,
    maps: bool = True,
    acceleration: float = 3.0,
    seed: int = 0,
) -> Acquisition:
    """``acceleration=1`` samples everything; the centre of eight columns always is; the masks differ in a batch."""
    generator = torch.Generator().manual_seed(seed)
    h, w = shape
    y, x = torch.linspace(-1, 1, h)[:, None], torch.linspace(-1, 1, w)
    ellipses = torch.stack([((x / 0.8) ** 2 + (y / (0.9 - 0.1 * i)) ** 2 < 1).float() for i in range(batch)])
    texture = 1 + 0.3 * torch.randn(batch, h, w, generator=generator)
    image = torch.polar(ellipses * texture.clamp_min(0), (0.5 + 2 * x - 1.5 * y).expand(batch, h, w))
    sensitivities = torch.from_numpy(loop_coil_maps(n_coils, shape, np.random.RandomState(seed)))
    sensitivities = sensitivities.expand(batch, -1, -1, -1).clone()
    mask = torch.rand(batch, 1, h if two_dimensional else 1, w, generator=generator) < 1 / acceleration
    mask[..., w // 2 - 4 : w // 2 + 4] = True
    kspace = fftc(image[:, None] * sensitivities)
    noise_std = torch.full((batch,), 0.02)
    kspace += 0.02 * torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)
    return Acquisition(kspace * mask, mask, maps=sensitivities if maps else None, noise_std=noise_std)


@pytest.fixture(scope="session")
def fastmri_weights() -> Callable[..., dict[str, Tensor]]:
    """Random weights under the names and shapes of ``fastmri.models``; see :func:`_fastmri_weights`."""
    return _fastmri_weights


def _fastmri_weights(kind: str, channels: int = 4, pools: int = 2, n_cascades: int = 2) -> dict[str, Tensor]:
    """State dict of the reference's ``Unet`` (kind "unet") or ``VarNet`` ("varnet"), written out by hand.

    The last layer that works on images is small, so that the network is near the identity as a trained one is.
    """
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        n_inputs = shape[1] * (shape[2] if len(shape) > 2 else 1) ** 2
        return torch.randn(shape, generator=generator) / n_inputs**0.5

    def unet(prefix: str, n_channels: int, gain: float = 0.1) -> dict[str, Tensor]:
        widths = [channels * 2**level for level in range(pools + 1)]
        state = {}
        for level, (n_in, n_out) in enumerate(zip([n_channels, *widths[:-2]], widths[:-1], strict=True)):
            state[f"down_sample_layers.{level}.layers.0.weight"] = draw(n_out, n_in, 3, 3)
            state[f"down_sample_layers.{level}.layers.4.weight"] = draw(n_out, n_out, 3, 3)
        state["conv.layers.0.weight"] = draw(widths[-1], widths[-2], 3, 3)
        state["conv.layers.4.weight"] = draw(widths[-1], widths[-1], 3, 3)
        for level, n in enumerate(reversed(widths[:-1])):
            last = ".0" if level == pools - 1 else ""
            state[f"up_conv.{level}{last}.layers.0.weight"] = draw(n, 2 * n, 3, 3)
            state[f"up_conv.{level}{last}.layers.4.weight"] = draw(n, n, 3, 3)
            state[f"up_transpose_conv.{level}.layers.0.weight"] = draw(2 * n, n, 2, 2)
        state[f"up_conv.{pools - 1}.1.weight"] = gain * draw(n_channels, channels, 1, 1)
        state[f"up_conv.{pools - 1}.1.bias"] = gain * draw(n_channels, 1)[:, 0]
        return {prefix + name: value for name, value in state.items()}

    if kind == "unet":
        return unet("", 1)
    state = unet("sens_net.norm_unet.unet.", 2, gain=1.0)
    for cascade in range(n_cascades):
        state[f"cascades.{cascade}.dc_weight"] = torch.tensor([0.9 + 0.1 * cascade])
        state |= unet(f"cascades.{cascade}.model.unet.", 2)
    return state
