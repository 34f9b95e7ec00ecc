"""The contract of every reconstructor: each entry of conf/recon is run, and a new one is picked up by itself."""

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
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

from spinwarp.acquisition import Acquisition, Header, Reconstruction, item_acquisition
from spinwarp.cli.app import conf_folder
from spinwarp.errors import InputError
from spinwarp.masks import Mask
from spinwarp.models.denoiser import Denoiser
from spinwarp.models.generator import ImageGenerator
from spinwarp.models.loading import build_network
from spinwarp.operators import sense
from spinwarp.preparation import MAPS
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


@pytest.fixture(scope="module")
def weights_file(
    tmp_path_factory: pytest.TempPathFactory,
    fastmri_weights: Callable[..., dict[str, Tensor]],
    make_acquisition: Callable[..., Acquisition],
) -> Callable[[str, str], list[Path]]:
    """Make the files that an entry of conf/recon reads, mostly a single one."""
    folder = tmp_path_factory.mktemp("weights")
    acquisitions = [make_acquisition(**kind) for kind in ACQUISITIONS.values()]

    def make(entry: str, kinds: str) -> list[Path]:
        paths = []
        for seed, kind in enumerate(kinds.split("+")):
            path = folder / f"{entry}-{kind}-{seed}.pt"
            if not path.exists() and entry != "fastmri_weights":
                write_checkpoint(path, kind, seed, acquisitions)
            elif not path.exists():
                torch.save(fastmri_weights(kind), path)
            paths.append(path)
        return paths

    return make


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


@pytest.fixture(scope="module", params=ENTRIES)
def reconstructor(request: pytest.FixtureRequest, weights_file: Callable[[str, str], list[Path]]) -> Reconstructor:
    entry, kind = request.param
    return build(entry, METHODS[entry], weights_file(entry, kind) if kind else None)


@pytest.fixture(scope="module", params=ACQUISITIONS)
def acquisition(request: pytest.FixtureRequest, make_acquisition: Callable[..., Acquisition]) -> Acquisition:
    made = make_acquisition(**ACQUISITIONS[request.param])
    # a contrast that fastMRI has one coil and several coils of, for the methods that look at it
    return replace(made, headers=(Header(contrast="CORPD_FBK"),) * len(made.kspace))


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


@pytest.fixture(scope="module")
def first(reconstructor: Reconstructor, acquisition: Acquisition) -> First:
    before = fingerprint(reconstructor), fingerprint(acquisition)
    result = reconstruct(reconstructor, acquisition)
    return First(result, before, (fingerprint(reconstructor), fingerprint(acquisition)))


def test_shape_precision_and_device_are_kept(first: First, acquisition: Acquisition) -> None:
    result = first.result
    b, _, h, w = acquisition.kspace.shape
    assert isinstance(result, Reconstruction)
    assert result.image.shape == (b, h, w)
    assert result.image.dtype == torch.complex64
    assert result.image.device == acquisition.kspace.device
    assert result.image.isfinite().all()
    assert not result.image.requires_grad
    if result.std is not None:
        assert result.std.shape == (b, h, w)
        assert (result.std >= 0).all()
    if result.samples is not None:
        assert result.samples.shape[1:] == (b, h, w)


def test_a_call_changes_neither_the_reconstructor_nor_the_acquisition(
    first: First, reconstructor: Reconstructor, acquisition: Acquisition
) -> None:
    assert first.after == first.before
    result = reconstruct(reconstructor, item_acquisition(acquisition, 0))
    with torch.inference_mode():
        result.image.zero_()  # nor is the result a view of the acquisition
    assert (fingerprint(reconstructor), fingerprint(acquisition)) == first.before


def test_equal_generators_give_equal_images_bit_for_bit(
    first: First, reconstructor: Reconstructor, acquisition: Acquisition
) -> None:
    torch.rand(7)  # the global generator has no say
    assert fingerprint(reconstruct(reconstructor, acquisition)) == fingerprint(first.result)


def test_a_batch_equals_its_items(first: First, reconstructor: Reconstructor, acquisition: Acquisition) -> None:
    batch = first.result.image
    for i in range(len(batch)):
        alone = reconstruct(reconstructor, item_acquisition(acquisition, i)).image
        # sums over other batch sizes are in another order: 1e-6, more after many iterations
        assert norm(alone[0] - batch[i]) < 1e-4 * norm(batch[i])


def test_the_image_explains_the_data_better_than_nothing(first: First, acquisition: Acquisition) -> None:
    assert max(explains(first.result.image, acquisition)) < 1


@pytest.mark.parametrize("scale", [3e-6, 700.0])
def test_the_physical_scale_is_kept(
    first: First, reconstructor: Reconstructor, acquisition: Acquisition, scale: float
) -> None:
    image = first.result.image
    noise_std = None if acquisition.noise_std is None else scale * acquisition.noise_std
    scaled = replace(acquisition, kspace=scale * acquisition.kspace, noise_std=noise_std)
    # scaled data are rounded anew, 1e-7, which networks and iterations amplify
    assert norm(reconstruct(reconstructor, scaled).image / scale - image) < 1e-3 * norm(image)


def test_without_a_centre_a_method_takes_the_maps_of_the_data_and_says_how(
    reconstructor: Reconstructor, make_acquisition: Callable[..., Acquisition]
) -> None:
    full = make_acquisition(shape=(32, 36), acceleration=1, batch=1)
    mask = (torch.arange(36) % 3 == 1).view(1, 1, 1, 36)
    headers = (Header(contrast="CORPD_FBK"),)
    n_acs = torch.zeros(1, dtype=torch.long)
    without = replace(full, kspace=full.kspace * mask, mask=mask, n_acs=n_acs, headers=headers)
    if getattr(reconstructor, "maps", None) in MAPS:
        with pytest.raises(InputError, match=r"recon\.maps=given"):
            reconstruct(reconstructor, without)
        reconstructor = copy.copy(reconstructor)
        reconstructor.maps = "given"
    if isinstance(reconstructor, LatentOptimisation):
        with pytest.raises(InputError, match=r"phase of the image.*use a mask with a centre"):
            reconstruct(reconstructor, without)
    else:
        assert reconstruct(reconstructor, without).image.isfinite().all()


@pytest.mark.parametrize("shape", [(64, 96), (33, 73)], ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_mask_keeps_its_promises(name: str, shape: tuple[int, int]) -> None:
    check_mask(instantiate(SAMPLINGS[name]), shape)


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


def test_every_method_of_conf_is_run_and_every_network_is_in_one() -> None:
    run = [param.values[0] for param in ENTRIES]
    assert {entry for entry, _ in run} == {path.stem for path in (CONF / "recon").glob("*.yaml")}
    assert {"zero_filled", "checkpoint", "fastmri_weights"} <= {entry for entry, _ in run}
    tried = [
        DESCRIPTIONS[kind] for entry, kinds in run if kinds and entry != "fastmri_weights" for kind in kinds.split("+")
    ]
    left_out = {path.stem for path in (CONF / "model").glob("*.yaml") if DESCRIPTIONS[path.stem] not in tried}
    assert left_out == {"gan"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_target_": "spinwarp.recon.tv.TotalVariation", "path": ""}, r"new\.yaml reads a file: add TotalVariation"),
        ({"_target_": "spinwarp.recon.base.NetworkReconstructor"}, r"new\.yaml leaves out network"),
        ({"_target_": "spinwarp.recon.base.NetworkReconstructor", "network": "???"}, r"new\.yaml leaves out network"),
        ({"_target_": "spinwarp.acquisition.Header"}, r"new\.yaml makes no Reconstructor"),
    ],
)
def test_a_new_entry_that_cannot_be_run_says_how_to_mend_it(config: dict[str, Any], message: str) -> None:
    with pytest.raises((pytest.fail.Exception, AssertionError), match=message):
        build("new", config, None)


class Plain(nn.Module):
    """A network that starts far from any image: two convolutions, nothing around them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))

    def forward(self, acquisition: Acquisition) -> Tensor:
        image = sense(acquisition).adjoint(acquisition.kspace)
        real = torch.view_as_real(image).movedim(-1, 1)
        return torch.view_as_complex(self.layers(real).movedim(1, -1).contiguous())


def test_a_network_that_starts_far_from_any_image_is_fitted_first(make_acquisition: Callable[..., Acquisition]) -> None:
    torch.manual_seed(0)
    network, acquisition = Plain(), make_acquisition(shape=(32, 36))
    assert max(explains(network(acquisition), acquisition)) > 0.9
    assert 0 < fit(network, [acquisition]) < 100
    assert max(explains(network(acquisition), acquisition)) < 0.9


@pytest.mark.parametrize(
    "schedule",
    [
        {"_target_": "spinwarp.samplers.geometric", "sigma_max": 10.0, "sigma_min": 0.01, "n_levels": 1000},
        {"_target_": "spinwarp.samplers.jalal"},  # neither sigma_max nor n_levels
        [0.9, 0.3, 0.05],
        [20.0, 5.0],
    ],
)
def test_any_schedule_is_cut_to_a_few_falling_levels(schedule: Any) -> None:
    levels = shortened(schedule)
    assert 1 < len(levels) <= N_LEVELS
    assert levels == sorted(levels, reverse=True)
    assert levels[0] <= HIGHEST or schedule == [20.0, 5.0]


def test_the_fingerprint_sees_changes_at_any_depth() -> None:
    def holder() -> dict:
        torch.manual_seed(0)
        return {"network": nn.Sequential(nn.BatchNorm2d(2), nn.Dropout()), "options": [1, {"a": torch.zeros(2)}]}

    before = fingerprint(holder())
    assert fingerprint(holder()) == before
    assert fingerprint(copy.deepcopy(holder())) == before
    for change in (
        lambda h: h["network"](torch.randn(1, 2, 3, 3)),  # running statistics
        lambda h: h["network"].eval(),
        lambda h: h["options"][1]["a"].add_(1e-7),
        lambda h: setattr(h["network"][1], "p", 0.4),
        lambda h: h["options"].append(2),
    ):
        changed = holder()
        change(changed)
        assert fingerprint(changed) != before
