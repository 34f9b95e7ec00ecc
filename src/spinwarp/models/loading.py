"""Load trained networks safely from files that may be damaged or malicious.

A file is read as plain data, and its network is built from our own classes and may not be larger than its weights.
"""

import importlib
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import nn

from spinwarp.errors import InputError
from spinwarp.files import unreadable
from spinwarp.models.denoiser import Denoiser
from spinwarp.models.generator import ImageGenerator
from spinwarp.models.weights import local_file, read_safetensors

_DEPTH = 32  # nested lists and dictionaries in the description of a network
_LARGEST = 10_000  # integer in a description, unless a weight has a longer side


def load_end_to_end(path: str, trusted: Sequence[str] = ()) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Load a network that reconstructs an acquisition; refuse one that is a prior. Else like :func:`load_network`."""
    network, record = load_network(path, trusted)
    if isinstance(network, Denoiser):
        raise InputError(f"{path} holds a score model; use recon=posterior")
    if isinstance(network, ImageGenerator):
        raise InputError(f"{path} holds a generator of images; use recon=latent")
    return network, record


def load_network(path: str, trusted: Sequence[str] = ()) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Rebuild the network of a checkpoint of ``train.py``; return it with its weights, and the record of its training.

    Parameters
    ----------
    path : the ``.ckpt`` or ``.safetensors`` file, or a name; see :func:`spinwarp.models.weights.local_file`.
    trusted : packages, besides spinwarp, whose classes the file may use.

    Raises
    ------
    InputError : if the file is missing, damaged or not one of ours, or if its weights do not fit its network.
    """
    content = load_plain(path)
    record = content.get("spinwarp")
    state = content.get("state_dict")
    if not isinstance(record, dict) or "net" not in record or not is_state(state):
        raise InputError(
            f"{path} is not a checkpoint of spinwarp's train.py; for weights that fastMRI published use "
            f"recon=fastmri_weights"
        )
    # score models use the moving average of their weights
    prefix = "average." if any(k.startswith("average.") for k in state) else "net."
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    check_finite(path, {"state_dict": weights})
    _check_numbers(path, record["net"], max((n for value in weights.values() for n in value.shape), default=0))
    try:
        with allowance(sum(value.numel() for value in weights.values())):
            network = build_network(record["net"], ("spinwarp.models", *trusted))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(network, torch.nn.Module):
        raise InputError(f"{path} does not name the class of its network; train again with this version")
    try:
        network.load_state_dict(weights)
        if any(weights[name].is_complex() and not own.is_complex() for name, own in network.state_dict().items()):
            raise RuntimeError("they are complex, but the network is real")  # torch would drop the imaginary parts
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"the weights in {path} do not fit the network that it describes: {reason}") from error
    return network, _checked(path, record)


def load_plain(path: str) -> dict[str, Any]:
    """Load a file of tensors and plain Python values to the CPU; a file with code is refused, and the code is not run.

    Parameters
    ----------
    path : the file, or a name; see :func:`spinwarp.models.weights.local_file`.

    Raises
    ------
    InputError : if the file cannot be loaded this way.
    """
    file = local_file(path)
    if not path or not (file.is_file() or file.is_dir() or file.is_symlink()):
        raise InputError(f"there is no file {path!r}; give the weights as recon.path=FILE")
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    try:
        # torch.save does not compress: an archive that unpacks to much more than its size is meant to fill the memory
        if zipfile.is_zipfile(file) and _unpacked_size(file) > 2 * file.stat().st_size:
            raise InputError(f"{path} is compressed, which torch.save does not do; get the file again")
        content = torch.load(file, map_location="cpu", weights_only=True)
    except InputError:
        raise
    # the unpickler raises different errors, depending on where the damage is
    except Exception as error:
        raise unreadable(file, error, "cannot be loaded as plain weights ({reason}); get the file again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; a dictionary of weights is expected")
    return content


def _unpacked_size(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return sum(member.file_size for member in archive.infolist())


def is_state(state: Any) -> TypeGuard[dict[str, torch.Tensor]]:
    """Whether this is a state dict: at least one name with a dense tensor whose numbers are all in the file."""
    return (
        isinstance(state, dict)
        and bool(state)
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) and _is_held(v) for k, v in state.items())
    )


def _is_held(tensor: torch.Tensor) -> bool:
    """Whether every number is in memory: a single number expanded to a huge shape takes no memory until it is used."""
    dense = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return dense and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def not_finite(checkpoint: Mapping[str, Any]) -> str | None:
    """Return the name of the first weight or optimizer value that is NaN or infinite, or None.

    Parameters
    ----------
    checkpoint : holds ``state_dict``, and ``optimizer_states`` if training can be resumed from it.
    """
    states = [state for optimizer in checkpoint.get("optimizer_states", ()) for state in optimizer["state"].values()]
    moments = [(f"{name} of the optimizer", value) for state in states for name, value in state.items()]
    for name, value in [*checkpoint["state_dict"].items(), *moments]:
        if isinstance(value, torch.Tensor) and not value.isfinite().all():
            return str(name)
    return None


def check_finite(path: str, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of a diverged training.

    Raises
    ------
    InputError : if :func:`not_finite` finds a value.
    """
    if (name := not_finite(checkpoint)) is not None:
        raise InputError(
            f"{path} has NaN or infinite weights ({name[:80]}): its training failed; take another checkpoint"
        )


def _check_numbers(path: str, description: Any, largest: int) -> None:
    """Refuse integers that are too large for a network with weights of this size, such as a billion levels."""
    level = [description]
    for _ in range(_DEPTH):
        for value in level:
            if isinstance(value, int) and abs(value) > max(largest, _LARGEST):
                raise InputError(f"{path} describes a network with {value:.3g} of something; get the file again")
        level = [v for value in level if isinstance(value, dict | list) for v in _values(value)]
    if level:
        raise InputError(f"{path} describes a network nested without end; get the file again")


def _values(value: dict[Any, Any] | list[Any]) -> Collection[Any]:
    return value.values() if isinstance(value, dict) else value


def _checked(path: str, record: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a training; refuse it if the entries that others read have the wrong type."""
    trained_on = record.get("trained_on", {})
    listed = [trained_on.get(key, []) for key in ("volumes", "patients")] if isinstance(trained_on, dict) else [None]
    plain = all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in listed)
    name = record.get("name", "")
    if not (plain and isinstance(name, str) and not set(name) & set("/\\\n") and len(name) < 200):
        raise InputError(f"{path} has a training record that train.py did not write; get the file again")
    return record


def build_network(config: Any, packages: Sequence[str]) -> Any:
    """Build the network of a plain description (``_target_``, ``_partial_``, arguments), from the given packages only.

    Raises
    ------
    InputError : if the description names another package or its arguments do not fit the class.
    """
    if isinstance(config, list):
        return [build_network(value, packages) for value in config]
    if not isinstance(config, dict):
        return config
    arguments = {
        k: build_network(v, packages) for k, v in config.items() if k not in ("_target_", "_partial_", "_convert_")
    }
    target = config.get("_target_")
    if target is None:
        return arguments
    module, _, name = str(target).rpartition(".")
    if not any(module == package or module.startswith(f"{package}.") for package in packages):
        raise InputError(
            f"the checkpoint wants to build {str(target)[:80]!r}, which is not in {', '.join(packages)}; if you "
            f"trust it, name its package in recon.trusted"
        )
    try:
        cls = getattr(importlib.import_module(module), name)
        if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
            raise InputError(f"the checkpoint wants to build {target!r}, which is not a network")
        return partial(cls, **arguments) if config.get("_partial_") else cls(**arguments)
    except InputError:
        raise
    # the arguments come from the file, and wrong ones can make a constructor raise anything
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        if isinstance(error, ModuleNotFoundError) and not module.startswith("spinwarp."):
            reason += "; put the folder that holds the module on PYTHONPATH"
        raise InputError(
            f"this version of spinwarp cannot build {target} as the checkpoint describes it: {reason}"
        ) from error


@contextmanager
def allowance(n_elements: int) -> Iterator[None]:
    """Stop building a network as soon as it has more parameters than there are weights for it.

    A description of a few bytes can ask for more memory than the machine has. A parameter is counted when it is
    registered. That is before its memory is used, because ``torch.empty`` only reserves it.

    Parameters
    ----------
    n_elements : numbers in the weights; twice as many parameters are allowed, since a constructor may replace some.

    Raises
    ------
    InputError : if the network has more.
    """
    built = 0

    def count(_: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal built
        built += 0 if parameter is None else parameter.numel()
        if built > 2 * n_elements:
            raise InputError(
                f"the weights do not fit the network that it describes: it needs more than their {n_elements} numbers "
                f"(parameter {name!r})"
            )

    handle = nn.modules.module.register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
