"""What the rows work on: acquisitions, configurations, tiny networks in files."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from torch import Tensor

from gpu.same_numbers import perturbed
from gpu.setting import ROOT, Setting
from spinwarp.acquisition import Acquisition, Header
from spinwarp.fourier import fftc
from spinwarp.models.loading import build_network

_NORM_UNET = {"_target_": "spinwarp.models.norm_unet.NormUNet", "_partial_": True, "channels": 4, "pools": 2}
_SENSITIVITY = {"_target_": "spinwarp.models.varnet.SensitivityNet", "_partial_": True, "network": _NORM_UNET}
_SIZE = {"size": [32, 36], "levels": 1}
#: tiny networks, as a checkpoint describes them
NETWORKS: dict[str, dict[str, Any]] = {
    "varnet": {
        "_target_": "spinwarp.models.varnet.VarNet",
        "n_cascades": 2,
        "regulariser": _NORM_UNET,
        "sensitivity": _SENSITIVITY,
    },
    "unet": {"_target_": "spinwarp.models.unet.MagnitudeUNet", "channels": 4, "pools": 2, "dropout": 0.2},
    "vae": {"_target_": "spinwarp.models.vae.VAE", "channels": 8, "latent_channels": 4, **_SIZE},
    "flow": {"_target_": "spinwarp.models.flow.Flow", "channels": 4, "depth": 2, **_SIZE},
    "score": {
        "_target_": "spinwarp.models.denoiser.Denoiser",
        "network": {"_target_": "spinwarp.models.score_unet.ScoreUNet", "widths": [8]},
    },
}
#: phantoms that are made in a second, and those of a scan at full size
TINY_PHANTOMS = {"n_train": 2, "n_val": 1, "n_test": 1, "n_slices": 2, "height": 64, "width": 64, "n_coils": 2}
FULL_PHANTOMS = {"n_train": 3, "n_val": 1, "n_test": 0, "n_slices": 4, "height": 640, "width": 368, "n_coils": 15}


def acquisition(
    coils: int, h: int, w: int, batch: int = 1, change: float = 0.0, device: str = "cpu", seed: int = 0
) -> Acquisition:
    """Make an ellipse with structure and a phase, seen by smooth coils through a random 4x line mask with noise.

    Parameters
    ----------
    change : relative change of the data; see :func:`gpu.same_numbers.perturbed`.
    """
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.linspace(-1, 1, h)[:, None], torch.linspace(-1, 1, w)
    inside = ((x / 0.8) ** 2 + (y / 0.9) ** 2 < 1).float()
    texture = 0.5 * torch.cos(9 * x) * torch.sin(7 * y) + 0.1 * torch.rand(batch, h, w, generator=generator)
    magnitude = inside * (1 + texture)
    image = torch.polar(magnitude, (0.5 + 2 * x - 1.5 * y).expand(batch, h, w))
    angles = 2 * torch.pi * torch.arange(coils)[:, None, None] / coils
    near = torch.exp(-((x - angles.cos()) ** 2 + (y - angles.sin()) ** 2) / 2)
    maps = torch.polar(near, angles + x * angles.sin() + y * angles.cos())
    maps = maps / maps.abs().square().sum(0).sqrt()
    mask = torch.rand(batch, 1, 1, w, generator=generator) < 0.18
    n_center = max(8, round(0.08 * w))
    mask[..., (w - n_center + 1) // 2 :][..., :n_center] = True
    noise = 0.02 * torch.randn(batch, coils, h, w, dtype=torch.complex64, generator=generator)
    kspace = (fftc(image[:, None] * maps) + noise) * mask
    made = Acquisition(
        perturbed(kspace, change),
        mask,
        maps=maps.expand(batch, -1, -1, -1).clone(),
        noise_std=torch.full((batch,), 0.02),
        n_acs=torch.full((batch,), n_center),
        headers=(Header(contrast="CORPD_FBK"),) * batch,
    )
    return made.to(device)


def without_maps(made: Acquisition) -> Acquisition:
    """Return the acquisition as a scanner delivers it."""
    return replace(made, maps=None, noise_std=None)


def composed(name: str, *overrides: str) -> DictConfig:
    """Compose a configuration of ``conf/``."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def phantoms(setting: Setting, tiny: bool) -> list[str]:
    """Overrides that choose phantoms, in the folder of this run."""
    sizes = TINY_PHANTOMS if tiny or setting.dry else FULL_PHANTOMS
    return [
        "data=phantom",
        f"data.source.files.root={setting.folder / 'phantom'}",
        *(f"data.source.files.{key}={value}" for key, value in sizes.items()),
    ]


def checkpoint(setting: Setting, kind: str, seed: int = 0) -> str:
    """Write a tiny network as train.py writes one, and return the path."""
    path = setting.folder / f"{kind}-{seed}.ckpt"
    if not path.exists():
        torch.manual_seed(seed)
        state = build_network(NETWORKS[kind], ("spinwarp.models",)).state_dict()
        for value in state.values():
            if value.ndim > 1 and not value.any():  # layers that begin at zero would hide what is before them
                value.normal_(std=0.1)
        record = {"net": NETWORKS[kind], "name": "tiny"}
        torch.save({"state_dict": {f"net.{name}": value for name, value in state.items()}, "spinwarp": record}, path)
    return str(path)


def fastmri_unet(setting: Setting, channels: int = 4, pools: int = 2) -> str:
    """Write random weights under the names that fastMRI's U-Net has, and return the path."""
    path = setting.folder / "fastmri_unet.pt"
    widths = [channels * 2**level for level in range(pools + 1)]
    shapes: dict[str, tuple[int, ...]] = {}
    for level, (before, n) in enumerate(zip([1, *widths[:-2]], widths[:-1], strict=True)):
        shapes |= _block(f"down_sample_layers.{level}", before, n)
    shapes |= _block("conv", widths[-2], widths[-1])
    for level, n in enumerate(reversed(widths[:-1])):
        shapes |= _block(f"up_conv.{level}" + (".0" if level == pools - 1 else ""), 2 * n, n)
        shapes[f"up_transpose_conv.{level}.layers.0.weight"] = (2 * n, n, 2, 2)
    shapes |= {f"up_conv.{pools - 1}.1.weight": (1, channels, 1, 1), f"up_conv.{pools - 1}.1.bias": (1,)}
    torch.manual_seed(0)
    torch.save({name: 0.2 * torch.randn(shape) for name, shape in shapes.items()}, path)
    return str(path)


def _block(name: str, before: int, n: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.layers.0.weight": (n, before, 3, 3), f"{name}.layers.4.weight": (n, n, 3, 3)}


def names(group: str) -> list[str]:
    """Entries of a group of ``conf/``."""
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


@contextmanager
def learning(*parameters: Tensor) -> Iterator[torch.optim.Optimizer]:
    """Give an Adam that has its moments already, as it has in every step but the first."""
    optimizer = torch.optim.Adam(parameters, lr=3e-4)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    yield optimizer


def scratch(setting: Setting, name: str) -> Path:
    """Make an empty folder for a row."""
    folder = setting.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
