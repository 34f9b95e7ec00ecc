"""What the contract of methods and masks is tried with: entries of conf, tiny networks, acquisitions, comparisons."""

import copy
import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from numpy.random import RandomState
from omegaconf import OmegaConf
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition, Reconstruction
from spinwarp.cli.app import conf_folder
from spinwarp.masks import Mask
from spinwarp.models.denoiser import Denoiser
from spinwarp.models.generator import ImageGenerator
from spinwarp.models.loading import build_network
from spinwarp.operators import sense
from spinwarp.recon import Reconstructor
from spinwarp.recon.base import as_reconstruction
from spinwarp.recon.checkpoint import Checkpoint, FastMRIWeights
from spinwarp.recon.ensemble import Ensemble
from spinwarp.recon.l1_wavelet import L1Wavelet
from spinwarp.recon.latent import LatentOptimisation
from spinwarp.recon.mc_dropout import MCDropout
from spinwarp.recon.posterior import Posterior
from spinwarp.recon.tv import TotalVariation
from spinwarp.recon.untrained import UntrainedNetwork
from spinwarp.recon.zero_shot import ZeroShot

CONF = conf_folder()
# networks are made so small, wherever they say the size by one of these keys; what is smaller already stays as it is
SMALL: dict[str, int | list[int]] = {
    "channels": 4, "width": 32, "widths": [8], "multipliers": [1], "max_channels": 8, "latent_channels": 4,
    "pools": 2, "levels": 2, "depth": 2, "n_layers": 3, "n_cascades": 2, "n_unrolls": 3, "size": [32, 36],
    "n_adjacent": 1,
}  # fmt: skip
# methods that iterate longer than a test can wait; they are held to the contract with these options
SHORT: dict[type, dict[str, Any]] = {
    UntrainedNetwork: {"iterations": 3},
    TotalVariation: {"iterations": 20},
    L1Wavelet: {"iterations": 50},
    LatentOptimisation: {"iterations": 5, "restarts": 2},
    Posterior: {"n_samples": 2},
    ZeroShot: {"n_splits": 2, "epochs": 2, "learning_rate": 1e-5},  # rounding flips signs, which Adam follows
}
N_LEVELS, HIGHEST = 3, 1.0  # of the schedule of a sampler: an untrained score model knows nothing of strong noise


def options(group: str, folder: Path = CONF) -> dict[str, Any]:
    """All entries of a group as plain Python; those of a user's folder are composed as by ``--config-dir``."""
    names = [path.stem for path in sorted((folder / group).glob("*.yaml"))]
    overrides = ["+mask=none", "+callbacks=default", *(f"+{group}@all.{name}={name}" for name in names)]
    if folder != CONF:
        overrides.append(f"hydra.searchpath=[file://{folder}]")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose(overrides=overrides).all
    return {name: OmegaConf.to_container(composed[name], resolve=True) for name in names}


def tiny(value: Any, key: str = "") -> Any:
    """Cut a description of a network down to the sizes of ``SMALL``."""
    if isinstance(value, dict):
        return {name: tiny(inner, name) for name, inner in value.items()}
    small = SMALL.get(key)
    if isinstance(small, int) and isinstance(value, int):
        return min(value, small)
    return small if isinstance(small, list) and value is not None else value


def networks(base: type, descriptions: dict[str, Any]) -> dict[str, Any]:
    """Those of a class; of several that are the same when they are tiny, the first."""
    found: dict[str, Any] = {}
    for name, description in descriptions.items():
        if issubclass(get_class(description["_target_"]), base) and description not in found.values():
            found[name] = description
    return found


# the networks of conf/model, tiny, as train.py describes them in a checkpoint
DESCRIPTIONS = {name: tiny(model["net"]) for name, model in options("model").items()}
SCORE, GENERATORS = networks(Denoiser, DESCRIPTIONS), networks(ImageGenerator, DESCRIPTIONS)
PRIORS = (*SCORE.values(), *GENERATORS.values())
NETWORKS = networks(nn.Module, {k: v for k, v in DESCRIPTIONS.items() if v not in PRIORS})
# what no YAML has as it stands
NETWORKS["varnet_image_learned"] = {**DESCRIPTIONS["varnet"], "update_domain": "image"}
DESCRIPTIONS |= NETWORKS | {"dropout": {**DESCRIPTIONS["unet_heteroscedastic"], "dropout": 0.2}}
METHODS = options("recon")
SAMPLINGS = {name: mask for name, mask in options("mask").items() if mask and "path" not in mask}  # but for mask=none
# methods that read weights from a file, and the files that they are tried with; + joins those of several
FILES: dict[type, list[str]] = {
    Checkpoint: list(NETWORKS),
    FastMRIWeights: ["varnet", "unet"],
    Ensemble: ["unet+unet", "varnet+dropout+unet"],
    MCDropout: ["dropout"],
    LatentOptimisation: [name for name in GENERATORS if name != "gan"],  # which makes images of one size
    Posterior: ["score"],
    ZeroShot: ["unrolled", "unet"],
}


def files_of(entry: str) -> list[Any]:
    kinds = FILES.get(get_class(METHODS[entry]["_target_"]), [None])
    if entry == "pretrained":  # another file for recon=checkpoint, which is tried with every network
        return ["unrolled"]
    return list(SCORE) if entry == "posterior" else kinds  # one sampler is tried with every score model


ENTRIES = [
    pytest.param((entry, weights), id=entry + (f"-{weights}" if weights else ""))
    for entry in METHODS
    for weights in files_of(entry)
]
ACQUISITIONS = {
    "line mask, four coils": {"shape": (32, 36)},
    "one coil": {"n_coils": 1, "maps": False, "shape": (32, 36)},
    "odd sizes": {"n_coils": 3, "shape": (33, 29)},
    "plane mask": {"two_dimensional": True, "shape": (32, 36)},
}


def explains(image: Tensor, acquisition: Acquisition) -> list[float]:
    """Of each item, what the image leaves unexplained of the data: 1 is no better than nothing."""
    residual = sense(acquisition)(image.detach()) - acquisition.kspace
    return [norm(left) / norm(kspace) for left, kspace in zip(residual, acquisition.kspace, strict=True)]


def fit(network: nn.Module, acquisitions: Sequence[Acquisition]) -> int:
    """Train towards the zero-filled images until every image explains its data better than nothing, in a few steps.

    Random weights say nothing about the data. Most networks start near the zero-filled image and need no step.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(200):
        images = [as_reconstruction(network(acquisition)).image for acquisition in acquisitions]
        if all(max(explains(*pair)) < 0.9 for pair in zip(images, acquisitions, strict=True)):
            return step
        references = [sense(acquisition).adjoint(acquisition.kspace) for acquisition in acquisitions]
        pairs = zip(images, references, strict=True)
        loss = sum((image - reference).abs().square().sum() / norm(reference) ** 2 for image, reference in pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return step


def write_checkpoint(path: Path, kind: str, seed: int = 0, acquisitions: Sequence[Acquisition] = ()) -> None:
    """A checkpoint of a tiny network as train.py writes it."""
    torch.manual_seed(seed)
    description = DESCRIPTIONS[kind]
    network = build_network(description, ("spinwarp.models",))
    if kind in NETWORKS:
        fit(network, acquisitions)
    state = {f"net.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "spinwarp": {"net": description, "name": "tiny"}}, path)


def shortened(schedule: Any) -> list[float]:
    """A few of the lower noise levels of a sampler, whatever makes its schedule and whatever its options are called."""
    levels = list(instantiate(schedule))
    levels = [sigma for sigma in levels if sigma <= HIGHEST] or levels
    step = max((len(levels) - 1) // (N_LEVELS - 1), 1)
    return levels[::step][:N_LEVELS]


def build(name: str, config: dict[str, Any], weights: list[Path] | None) -> Reconstructor:
    """Instantiate one entry of conf/recon, ``path`` or ``paths`` replaced by the files of weights."""
    config, target = copy.deepcopy(config), get_class(config["_target_"])
    if weights is not None and "paths" in config:
        config["paths"] = [str(file) for file in weights]
    elif weights is not None:
        (config["path"],) = map(str, weights)
    elif any(key in config and not config[key] for key in ("path", "paths")):
        pytest.fail(f"conf/recon/{name}.yaml reads a file: add {target.__name__} to FILES in {__file__}")
    config |= SHORT.get(target, {})
    if "schedule" in config.get("sampler", {}):
        config["sampler"]["schedule"] = shortened(config["sampler"]["schedule"])
    needed = {
        key
        for key, parameter in inspect.signature(target).parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }
    if missing := sorted(key for key in needed if config.get(key, "???") == "???"):
        pytest.fail(
            f"conf/recon/{name}.yaml leaves out {', '.join(missing)}, without which {config['_target_']} cannot be "
            f"built"
        )
    reconstructor = instantiate(config)
    assert isinstance(reconstructor, Reconstructor), f"conf/recon/{name}.yaml makes no Reconstructor"
    return reconstructor


def reconstruct(reconstructor: Reconstructor, acquisition: Acquisition) -> Reconstruction:
    return reconstructor(acquisition, generator=torch.Generator().manual_seed(3))


def norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))


def fingerprint(value: Any, seen: frozenset[int] = frozenset()) -> Any:
    """Everything that an object holds, tensors by their bytes, as nested tuples that can be compared."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu().resolve_conj().contiguous().view(-1)
        return (value.dtype, tuple(value.shape), plain.view(torch.uint8).numpy().tobytes())
    if isinstance(value, torch.Generator):
        return fingerprint(value.get_state())
    if value is None or isinstance(value, str | bytes | int | float | complex | torch.dtype | torch.device | type):
        return repr(value)
    if id(value) in seen:
        return "..."
    seen = seen | {id(value)}
    if isinstance(value, partial):
        value = (value.func, value.args, value.keywords)
    if isinstance(value, Mapping):
        return tuple((repr(key), fingerprint(inner, seen)) for key, inner in value.items())
    if isinstance(value, Iterable) and not isinstance(value, nn.Module):
        return tuple(fingerprint(inner, seen) for inner in value)
    if hasattr(value, "__dict__") and not inspect.isroutine(value):
        return (type(value).__qualname__, fingerprint(vars(value), seen))
    return repr(value)


class First(NamedTuple):
    """The first call of a reconstructor on an acquisition, and what both held before and after it."""

    result: Reconstruction
    before: tuple[Any, Any]
    after: tuple[Any, Any]


def check_mask(mask: Mask, shape: tuple[int, int]) -> None:
    drawn = [mask(shape, RandomState(seed)) for seed in range(20)]
    h, w = shape
    for lines, n_center in drawn:
        assert lines.dtype == torch.bool
        assert lines.shape in ((1, w), (h, w))
        assert isinstance(n_center, int)
        assert 0 <= n_center <= w
        side = n_center if len(lines) > 1 else 1
        top, left = (len(lines) - side + 1) // 2, (w - n_center + 1) // 2
        assert lines[top : top + side, left : left + n_center].all()  # the centre that it says is there
    again, n_center = mask(shape, RandomState(7))
    assert torch.equal(again, drawn[7][0])
    assert n_center == drawn[7][1]
    assert len({lines.numpy().tobytes() for lines, _ in drawn}) > 1  # other seeds draw other masks
    nominal = getattr(mask, "nominal_acceleration", float("nan"))
    mean = np.mean([lines.numel() / int(lines.sum()) for lines, _ in drawn])
    # fastMRI's literal masks give 3.2 at a nominal 4: a centre beside lines of the nominal distance
    assert math.isnan(nominal) or abs(mean / nominal - 1) < 0.35
