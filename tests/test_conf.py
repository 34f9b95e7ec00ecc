"""Every YAML file composes, and every ``_target_`` in it takes the arguments that it is given.

A YAML shows users what they can set, so it repeats defaults of our classes. Each repeated value equals the default, or
its comment starts with ``Python default: VALUE``. New files are found by themselves.
"""

import importlib
import inspect
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from spinwarp.cli.app import conf_folder
from spinwarp.masks import CenteredMask
from spinwarp.training import ScoreModule

CONF = conf_folder()
TOP = sorted(path.stem for path in CONF.glob("*.yaml") if not path.stem.startswith("_"))
# files without a _target_ anywhere: groups that switch something off
EMPTY = {"callbacks/none", "logger/none", "mask/none", "uncertainty/none"}
# groups whose option a model may choose, so that they have to be there
CHOSEN = ["+mask=none", "+callbacks=default"]


def entries(folder: Path = CONF) -> list[str]:
    """``group/option`` of every YAML below the top level."""
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/**/*.yaml"))


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


# what is laid over other entries, and makes nothing by itself
OVERLAYS = ("experiment/", "hydra/", "trainer/last/")
ENTRIES = [entry for entry in entries() if not entry.startswith(OVERLAYS)]


@pytest.fixture(autouse=True)
def _no_job() -> Iterator[None]:
    """Leave Hydra as it was."""
    yield
    GlobalHydra.instance().clear()
    for name in ("hydra", "stamp"):
        OmegaConf.clear_resolver(name)


def plain(config: Any) -> Any:
    """Resolve everything: an interpolation of what does not exist is an error here. What is not given stays ``???``."""
    for name in ("hydra", "stamp"):  # what only a running job can resolve gets a stand-in
        OmegaConf.register_new_resolver(name, lambda *_: "stand-in", replace=True)
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=False)


def composed(overrides: list[str], name: str | None = None, folder: Path = CONF) -> DictConfig:
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose(name, overrides)


def entry_config(entry: str, folder: Path = CONF) -> Any:
    """The node that an entry makes, as plain Python; what is not given (``???``) stays."""
    chosen = CHOSEN if entry.startswith("model/") and folder == CONF else []
    config: Any = composed([*chosen, f"+{entry.rpartition('/')[0]}={entry.rpartition('/')[2]}"], folder=folder)
    for part in entry.split("/")[:-1]:
        config = config[part]
    return plain(config)


def nodes(config: Any) -> Iterator[dict[str, Any]]:
    """Every dictionary with a ``_target_``, however deep."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield config
        for value in config.values():
            yield from nodes(value)
    elif isinstance(config, list):
        for value in config:
            yield from nodes(value)


def bind(node: dict[str, Any]) -> None:
    """Fail unless the target exists, knows every key, and misses none unless it is a ``_partial_``."""
    module, _, name = node["_target_"].rpartition(".")
    target = getattr(importlib.import_module(module), name)
    arguments = {k: v for k, v in node.items() if not (k.startswith("_") and k.endswith("_"))}
    signature = inspect.signature(target)
    if getattr(target, "__init__", None) is nn.Module.__init__:
        signature = inspect.Signature()  # it says **kwargs and takes none
    if target.__module__.startswith("spinwarp"):
        kinds = {p.kind for p in signature.parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds, "**kwargs hide misspelt keys"
    # what the commands add by themselves
    late = {"spinwarp.data.module.FastMRIDataModule": {"mask": None}}.get(node["_target_"], {})
    (signature.bind_partial if node.get("_partial_") else signature.bind)(**arguments, **late)


def bind_all(entry: str, config: Any) -> None:
    for node in nodes(config):
        try:
            bind(node)
        except (TypeError, AttributeError, ImportError, AssertionError) as error:
            pytest.fail(f"conf/{entry}.yaml: {node['_target_']}: {error}")


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_composes_and_binds_to_what_it_names(entry: str) -> None:
    config = entry_config(entry)
    assert (next(nodes(config), None) is None) == (entry in EMPTY), f"conf/{entry}.yaml has no _target_"
    bind_all(entry, config)


DIFFERS = re.compile(r"#\s*Python default: ([^;]+)")
BASES = sorted(path.stem for path in CONF.glob("_*.yaml") if path.stem not in ("_hydra", "_recipe"))


def stated(text: str) -> dict[tuple[str, ...], str | None]:
    """Every key that a YAML itself holds, and the Python default that its comment names."""
    lines, found = text.splitlines(), {}

    def walk(node: yaml.Node | None, path: tuple[str, ...]) -> None:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            differs = DIFFERS.search(lines[key.start_mark.line])
            found[(*path, key.value)] = differs.group(1).strip() if differs else None
            walk(value, (*path, key.value))

    walk(yaml.compose(text, yaml.SafeLoader), ())
    return found


def as_lists(value: Any) -> Any:
    return [as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _meant(differs: str, target: Any) -> Any:
    """What a comment says: a value, or the name of a constant of the target's module, for what is too long to write."""
    return as_lists(getattr(importlib.import_module(target.__module__), differs, yaml.safe_load(differs)))


def drifts(text: str, config: Any) -> list[str]:
    """What a YAML says of defaults and is not so; ``config`` is what it composes to.

    Defaults of other packages are theirs to change. An empty default leaves the choice to the YAML.
    """
    found = []
    for path, differs in stated(text).items():
        node = config
        for key in path[:-1]:
            node = node[key] if isinstance(node, dict) else None
        if not isinstance(node, dict) or "_target_" not in node or path[-1] not in node:
            continue
        module, _, name = node["_target_"].rpartition(".")
        target = getattr(importlib.import_module(module), name)
        parameter = inspect.signature(target).parameters.get(path[-1])
        home = getattr(getattr(target, "__init__", target), "__module__", target.__module__)
        key, value = ".".join(path), node[path[-1]]
        if parameter is None or parameter.default in (parameter.empty, None, "", ()) or "spinwarp" not in home:
            if differs:
                found.append(f"{key} has no Python default")
            continue
        default = as_lists(parameter.default)
        if isinstance(value, dict) and "_partial_" not in value:
            value = as_lists(instantiate(value))
        if differs is None and value != default:
            found.append(f"{key} is {value}, in Python {default}: write '# Python default: {default}' beside it")
        elif differs is not None and (_meant(differs, target) != default or value == default):
            found.append(f"{key} is {value}, its comment says that Python has {differs}, but Python has {default}")
    return found


@pytest.mark.parametrize("entry", [*ENTRIES, *BASES])
def test_every_value_is_the_python_default_or_says_what_that_is(entry: str) -> None:
    config = entry_config(entry) if "/" in entry else plain(composed([], entry))
    assert not drifts((CONF / f"{entry}.yaml").read_text(), config)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("weight: auto", ""),
        ("iterations: 100", ""),
        ("iterations: 7 # Python default: 100; a reason", ""),
        ("iterations: 7", "write '# Python default: 100'"),
        ("iterations: 7 # Python default: 50", "but Python has 100"),
        ("iterations: 100 # Python default: 100", "but Python has 100"),
        ("virtual_coils: 7", ""),
        ("virtual_coils: 7 # Python default: 100", "has no Python default"),
    ],
)
def test_a_value_that_drifts_from_the_python_default_is_named(line: str, message: str) -> None:
    text = f"recon:\n  _target_: spinwarp.recon.cg_sense.CGSense\n  {line}\n"
    found = drifts(text, yaml.safe_load(text))
    assert len(found) == bool(message)
    assert message in "".join(found)


@pytest.mark.parametrize("entry", [entry for entry in entries() if entry.startswith("hydra/")])
def test_every_sweeper_and_launcher_composes_and_binds(entry: str) -> None:
    group, _, option = entry.rpartition("/")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"{group}={option}", "trainer.devices=2"], return_hydra_config=True)
    OmegaConf.register_new_resolver("stamp", lambda: "stand-in", replace=True)
    bind_all(entry, OmegaConf.to_container(config.hydra[group.rpartition("/")[2]], resolve=True))


@pytest.mark.parametrize("recipe", [name for name in options("experiment") if "unet_" in name or "varnet_" in name])
def test_the_published_recipes_of_fastmri_say_their_batch_and_their_figures(recipe: str) -> None:
    text = (CONF / "experiment" / f"{recipe}.yaml").read_text()
    config = plain(composed([f"experiment={recipe}"], "train"))
    demo, varnet = recipe.endswith("_demo"), "varnet" in recipe
    assert "published" in text
    assert config["model"]["reference_batch"] == (2 if demo else 32)
    assert config["model"]["optimizer"]["lr"] == (3e-4 if varnet and not demo else 1e-3)
    assert (config["seed"], config["trainer"]["max_epochs"], config["data"]["batch_size"]) == (42, 50, 1)
    regular = config["mask"]["_target_"].endswith("EquispacedMask")
    assert regular == (varnet if demo else "brain" in recipe)
    n_rates = len(config["mask"]["accelerations"])
    assert n_rates == (1 if demo or "singlecoil" in recipe else 2)


@pytest.mark.parametrize("organ", ["knee", "brain"])
@pytest.mark.parametrize("network", ["promptmr", "promptmr_plus"])
def test_the_recipes_of_promptmr_have_the_settings_of_its_authors(organ: str, network: str) -> None:
    recipe = f"fastmri_{organ}_{network}"
    assert "published" in (CONF / "experiment" / f"{recipe}.yaml").read_text()
    config = plain(composed([f"experiment={recipe}", "trainer=8gb"], "train"))
    model, trainer = config["model"], config["trainer"]
    assert (model["optimizer"]["_target_"], model["optimizer"]["lr"], model["optimizer"]["weight_decay"]) == (
        "torch.optim.AdamW", 1e-4, 0.01,
    )  # fmt: skip
    drop = instantiate(model["schedule"])
    assert (drop(34.9 / 45), drop(35.1 / 45)) == (1.0, 0.1)
    assert (trainer["max_epochs"], trainer["gradient_clip_val"], config["data"]["n_adjacent"]) == (45, 0.01, 5)
    assert (model["net"]["n_adjacent"], model["net"]["checkpoint"], model["reference_batch"]) == (5, True, 2)


@pytest.mark.parametrize("name", TOP)
def test_every_command_composes_and_binds(name: str) -> None:
    config = plain(composed([], name))
    bind_all(name, config)


def test_the_commands_are_there() -> None:
    assert TOP == ["evaluate", "reconstruct", "serve", "train"]


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes_for_training_and_evaluation(experiment: str) -> None:
    config = plain(composed([f"experiment={experiment}"], "train"))
    bind_all(f"experiment/{experiment}", config)


@pytest.mark.parametrize("group", ["model", "mask", "data", "trainer", "callbacks", "logger"])
def test_every_option_of_training_composes_with_the_others(group: str) -> None:
    for option in options(group):
        config = plain(composed([f"{group}={option}"], "train"))
        bind_all(f"{group}/{option}", config)


@pytest.mark.parametrize("command", ["evaluate", "reconstruct"])
def test_every_method_composes_with_the_commands_that_take_one(command: str) -> None:
    for option in options("recon"):
        bind_all(f"recon/{option}", plain(composed([f"recon={option}"], command)))


def test_every_uncertainty_composes_with_the_evaluation() -> None:
    for option in options("uncertainty"):
        bind_all(f"uncertainty/{option}", plain(composed([f"uncertainty={option}"], "evaluate")))


@pytest.mark.parametrize("model", options("model"))
def test_every_model_can_be_made(model: str) -> None:
    module = instantiate(composed([*CHOSEN, f"+model={model}"]).model)
    assert sum(p.numel() for p in module.net.parameters()) > 0
    optimizer = module.make_optimizer(module.parameters())
    assert optimizer.param_groups[0]["lr"] > 0
    assert 0 < module.schedule(0.5) <= 1
    assert isinstance(module, ScoreModule) or module.whole_images or isinstance(module.loss, nn.Module)


@pytest.mark.parametrize("model", [m for m in options("model") if m.startswith("varnet")])
def test_the_cascades_of_a_model_share_no_weights(model: str) -> None:
    net = instantiate(composed([*CHOSEN, f"+model={model}"]).model).net
    owners = [id(p) for cascade in net.regularisers for p in cascade.parameters()]
    assert len(set(owners)) == len(owners)


@pytest.mark.parametrize("mask", [m for m in options("mask") if m not in ("none", "mixed", "file", "learned")])
def test_every_mask_can_be_made_and_is_named_after_its_acceleration(mask: str) -> None:
    made = instantiate(composed([f"+mask={mask}"]).mask)
    rates = [float(rate) for rate in re.findall(r"(\d+)x", mask.rpartition("_")[2])]
    assert rates, f"conf/mask/{mask}.yaml: end the name with the acceleration, such as _4x"
    nominal = rates[0] if len(rates) == 1 else math.nan
    assert getattr(made, "nominal_acceleration", nominal) == pytest.approx(nominal, nan_ok=True)
    if isinstance(made, CenteredMask):
        assert list(made.accelerations) == rates


@pytest.mark.parametrize("family", ["random", "equispaced", "equispaced_literal", "magic", "magic_fraction"])
def test_every_family_of_masks_has_4x_8x_and_a_mix(family: str) -> None:
    assert {f"{family}_{rate}" for rate in ("4x", "8x", "4x8x")} <= set(options("mask"))


def test_what_the_brief_promises_is_there() -> None:
    assert set(options("data")) >= {
        "phantom", "ulf_brain", "images",
        "fastmri_knee_singlecoil", "fastmri_knee_multicoil", "fastmri_brain_multicoil",
    }  # fmt: skip
    assert set(options("model")) >= {"naive_cnn", "unet", "varnet", "varnet_image"}
    assert set(options("experiment")) >= {
        f"fastmri_{organ}_{network}_{size}"
        for organ in ("knee", "brain") for network in ("unet", "varnet") for size in ("demo", "leaderboard")
    }  # fmt: skip
    assert set(options("trainer")) >= {"cpu", "gpu", "ddp", "debug"}
    assert set(options("logger")) >= {"csv", "tensorboard", "wandb", "none"}
    assert set(options("recon")) >= {"zero_filled", "checkpoint", "fastmri_weights"}


def test_only_what_nobody_can_know_is_left_open() -> None:
    missing = {}
    for entry in ENTRIES:
        config = OmegaConf.create({"node": entry_config(entry)})
        if keys := OmegaConf.missing_keys(config):
            missing[entry] = keys
    sources = {f"data/{name}": {"node.source.path"} for name in ("folder", "images", "simulated_heads")}
    assert missing == {**sources, "mask/file": {"node.path"}}


def test_no_model_mask_data_or_method_needs_a_running_job() -> None:
    for entry in ENTRIES:
        if entry.split("/")[0] in ("model", "mask", "data", "recon"):
            assert "${hydra:" not in (CONF / f"{entry}.yaml").read_text(), f"conf/{entry}.yaml fails in a notebook"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_target_: torch.nn.Linear\nin_features: 1\nout_features: 1\nbiased: true\n", "new.yaml.*biased"),
        ("_target_: spinwarp.masks.RandomMask\naccelerations: [4]\n", "center_fractions"),
        ("_target_: spinwarp.masks.RandomMusk\n", "RandomMusk"),
        ("_target_: spinwarp.musks.RandomMask\n", "musks"),
        ("x:\n  - _target_: spinwarp.losses.MixedLoss\n    _partial_: true\n    weight: 1\n", "weight"),
        ("root: ${no.such.node}\n", "no.such.node"),
        ("defaults:\n  - nothing\n", "nothing"),
    ],
)
def test_a_new_entry_is_picked_up_and_its_faults_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mask").mkdir()
    (tmp_path / "mask" / "new.yaml").write_text(text)
    assert entries(tmp_path) == ["mask/new"]
    with pytest.raises((pytest.fail.Exception, Exception), match=message):
        bind_all("mask/new", entry_config("mask/new", tmp_path))


def test_a_new_entry_without_faults_passes(tmp_path: Path) -> None:
    (tmp_path / "mask").mkdir()
    text = "_target_: spinwarp.masks.RandomMask\ncenter_fractions: [0.1]\naccelerations: [4]\n"
    (tmp_path / "mask" / "new.yaml").write_text(text)
    bind_all("mask/new", entry_config("mask/new", tmp_path))


def test_the_trainer_for_8_gb_has_the_cascades_computed_again_in_mixed_precision() -> None:
    config = composed(["model=varnet", "trainer=8gb"], "train")
    assert (config.trainer.accelerator, config.trainer.precision) == ("gpu", "bf16-mixed")
    assert instantiate(config.model).net.checkpoint
    config = composed(["model=varnet", "trainer=8gb", "model.net.checkpoint=false"], "train")
    assert not instantiate(config.model).net.checkpoint
