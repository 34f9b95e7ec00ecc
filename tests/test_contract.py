"""The contract of every reconstructor: each entry of conf/recon is run, and a new one is picked up by itself."""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition, Header, Reconstruction, item_acquisition
from spinwarp.operators import sense
from spinwarp.recon import Reconstructor
from spinwarp.recon.checkpoint import build_network

CONF = Path(__file__).parents[1] / "conf" / "recon"

_NORM_UNET = {"_target_": "spinwarp.models.norm_unet.NormUNet", "_partial_": True, "channels": 4, "pools": 2}
_SENSITIVITY = {"_target_": "spinwarp.models.varnet.SensitivityNet", "_partial_": True, "network": _NORM_UNET}
_RESIDUAL_CNN = {"_target_": "spinwarp.models.residual_cnn.ResidualCNN", "_partial_": True, "channels": 6}
_VARNET = {"_target_": "spinwarp.models.varnet.VarNet", "n_cascades": 2, "regulariser": _NORM_UNET}
# tiny networks of every kind, as train.py describes them in a checkpoint
NETWORKS = {
    "varnet": {**_VARNET, "sensitivity": _SENSITIVITY, "update_domain": "kspace"},
    "varnet_image": {**_VARNET, "sensitivity": None, "update_domain": "image"},
    "varnet_image_learned": {**_VARNET, "sensitivity": _SENSITIVITY, "update_domain": "image"},
    "unet": {"_target_": "spinwarp.models.unet.MagnitudeUNet", "channels": 4, "pools": 2},
    "heteroscedastic": {
        "_target_": "spinwarp.models.heteroscedastic.HeteroscedasticUNet", "channels": 4, "pools": 2, "dropout": 0.2,
    },
    "modl": {"_target_": "spinwarp.models.modl.MoDL", "n_unrolls": 3, "regulariser": _RESIDUAL_CNN},
}  # fmt: skip
# generators: latents to images
GENERATORS = {
    "vae": {"_target_": "spinwarp.models.vae.VAE", "size": [32, 36], "channels": 8, "levels": 1, "latent_channels": 4},
    "flow": {"_target_": "spinwarp.models.flow.Flow", "size": [32, 36], "levels": 2, "depth": 2, "channels": 4},
}
# score models: a denoiser is one from the start
SCORE = {
    "score": {
        "_target_": "spinwarp.models.denoiser.Denoiser",
        "network": {"_target_": "spinwarp.models.score_unet.ScoreUNet", "widths": [8]},
    }
}
SAMPLERS = [path.stem for path in sorted(CONF.glob("*.yaml")) if "/_posterior" in path.read_text(encoding="utf-8")]
# methods that iterate longer than a test can wait; they are held to the contract with these options
SHORT: dict[str, dict[str, Any]] = {
    **{key: {"iterations": 3} for key in ("convdecoder", "deep_decoder", "dip")},
    "l1_wavelet": {"iterations": 50},
    "latent": {"iterations": 5, "restarts": 2},
    **{key: {"n_samples": 2, "sampler.schedule.sigma_max": 1.0, "sampler.schedule.n_levels": 5} for key in SAMPLERS},
}
# entries that read weights from a file, and the files that they are tried with; + joins those of several
FILES = {"checkpoint": list(NETWORKS), "fastmri_weights": ["varnet", "unet"], "latent": list(GENERATORS)}
FILES |= {"ensemble": ["unet+unet", "varnet+heteroscedastic+unet"], "mc_dropout": ["heteroscedastic"]}
FILES |= {key: list(SCORE) for key in SAMPLERS}
ENTRIES = [
    pytest.param((path, weights), id=path.stem + (f"-{weights}" if weights else ""))
    for path in sorted(CONF.glob("*.yaml"))
    for weights in FILES.get(path.stem, [None])
]
ACQUISITIONS = {
    "line mask, four coils": {"shape": (32, 36)},
    "one coil": {"n_coils": 1, "maps": False, "shape": (32, 36)},
    "odd sizes": {"n_coils": 3, "shape": (33, 29)},
    "plane mask": {"two_dimensional": True, "shape": (32, 36)},
}


def write_checkpoint(path: Path, kind: str, seed: int = 0) -> None:
    """A checkpoint as train.py writes it; last layers on images are small: near the identity, as a trained one is."""
    torch.manual_seed(seed)
    description = (NETWORKS | GENERATORS | SCORE)[kind]
    network = build_network(description, ("spinwarp.models",))
    state = network.state_dict()
    for name, value in state.items():
        if ".head." in name and not name.startswith("sensitivity."):
            value.mul_(0.1)
    record = {"net": description, "name": "tiny"}
    torch.save({"state_dict": {f"net.{name}": value for name, value in state.items()}, "spinwarp": record}, path)


@pytest.fixture(scope="module")
def weights_file(
    tmp_path_factory: pytest.TempPathFactory, fastmri_weights: Callable[..., dict[str, Tensor]]
) -> Callable[[str, str], list[Path]]:
    """Make the files that an entry of conf/recon reads, mostly a single one."""
    folder = tmp_path_factory.mktemp("weights")

    def make(entry: str, kinds: str) -> list[Path]:
        paths = []
        for seed, kind in enumerate(kinds.split("+")):
            path = folder / f"{entry}-{kind}-{seed}.pt"
            if not path.exists() and entry != "fastmri_weights":
                write_checkpoint(path, kind, seed)
            elif not path.exists():
                torch.save(fastmri_weights(kind), path)
            paths.append(path)
        return paths

    return make


def build(path: Path, weights: list[Path] | None) -> Reconstructor:
    """Instantiate one YAML of conf/recon, ``path`` or ``paths`` replaced by the files of weights."""
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    if "defaults" in config:  # it shares keys with others
        with initialize_config_dir(str(CONF.parent), version_base="1.3"):
            config = compose(overrides=[f"+recon={path.stem}"]).recon
    if weights is not None and "paths" in config:
        config.paths = [str(file) for file in weights]
    elif weights is not None:
        (config.path,) = map(str, weights)
    elif any(key in config and not config[key] for key in ("path", "paths")):
        pytest.fail(f"conf/recon/{path.name} reads a file: add {path.stem!r} to FILES and weights_file in {__file__}")
    for key, value in SHORT.get(path.stem, {}).items():
        OmegaConf.update(config, key, value)
    names = {
        name for name in config if name not in ("_target_", "_convert_") and not OmegaConf.is_missing(config, name)
    }
    needed = {
        name
        for name, parameter in inspect.signature(get_class(config._target_)).parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }
    if needed - names:
        missing = ", ".join(sorted(needed - names))
        pytest.fail(f"conf/recon/{path.name} leaves out {missing}, without which {config._target_} cannot be built")
    reconstructor = instantiate(config)
    assert isinstance(reconstructor, Reconstructor), f"conf/recon/{path.name} makes no Reconstructor"
    return reconstructor


@pytest.fixture(scope="module", params=ENTRIES)
def reconstructor(request: pytest.FixtureRequest, weights_file: Callable[[str, str], list[Path]]) -> Reconstructor:
    path, kind = request.param
    return build(path, weights_file(path.stem, kind) if kind else None)


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
    residual = sense(acquisition)(first.result.image) - acquisition.kspace
    for i in range(len(residual)):
        assert norm(residual[i]) < norm(acquisition.kspace[i])


@pytest.mark.parametrize("scale", [3e-6, 700.0])
def test_the_physical_scale_is_kept(
    first: First, reconstructor: Reconstructor, acquisition: Acquisition, scale: float
) -> None:
    image = first.result.image
    noise_std = None if acquisition.noise_std is None else scale * acquisition.noise_std
    scaled = replace(acquisition, kspace=scale * acquisition.kspace, noise_std=noise_std)
    # scaled data are rounded anew, 1e-7, which networks and iterations amplify
    assert norm(reconstruct(reconstructor, scaled).image / scale - image) < 1e-3 * norm(image)


def test_every_entry_of_conf_recon_is_run() -> None:
    assert {param.values[0][0].stem for param in ENTRIES} == {path.stem for path in CONF.glob("*.yaml")}
    assert {"zero_filled", "checkpoint", "fastmri_weights"} <= {path.stem for path in CONF.glob("*.yaml")}
    assert set(FILES) <= {path.stem for path in CONF.glob("*.yaml")}


def test_a_new_entry_that_needs_a_file_or_an_argument_says_how_to_mend_this_test(tmp_path: Path) -> None:
    entry = tmp_path / "new.yaml"
    entry.write_text("_target_: spinwarp.recon.checkpoint.Checkpoint\npath: ''\n")
    with pytest.raises(pytest.fail.Exception, match=r"new\.yaml reads a file: add 'new' to FILES"):
        build(entry, None)
    entry.write_text("_target_: spinwarp.recon.base.NetworkReconstructor\n")
    with pytest.raises(pytest.fail.Exception, match=r"new\.yaml leaves out network"):
        build(entry, None)
    entry.write_text("_target_: spinwarp.recon.base.NetworkReconstructor\nnetwork: ???\n")
    with pytest.raises(pytest.fail.Exception, match=r"new\.yaml leaves out network"):
        build(entry, None)
    entry.write_text("_target_: spinwarp.losses.L1Loss\n")
    with pytest.raises(AssertionError, match="makes no Reconstructor"):
        build(entry, None)


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
