"""Trained networks from files: our own checkpoints and fastMRI's published weights."""

import importlib
import pickle
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import torch

from spinwarp.errors import InputError
from spinwarp.models.denoiser import Denoiser
from spinwarp.models.fastmri_weights import network_from_fastmri
from spinwarp.models.generator import ImageGenerator
from spinwarp.recon.base import NetworkReconstructor


class Checkpoint(NetworkReconstructor):
    """A network from a checkpoint of ``train.py``, rebuilt from the file alone.

    Parameters
    ----------
    path : the ``.ckpt`` file.
    trusted : packages beside spinwarp from which the file may build its network. A checkpoint names the classes it is
        made of; one from a stranger must not be able to call whatever it likes.

    Raises
    ------
    InputError : if the file is missing, damaged, not one of ours, or its weights do not fit its own description.
    """

    def __init__(self, path: str, trusted: Sequence[str] = ()) -> None:
        network, self.record = load_end_to_end(path, trusted)
        super().__init__(network)


class FastMRIWeights(NetworkReconstructor):
    """A state dict that fastMRI published (U-Net knee and brain, E2E-VarNet knee and brain).

    Parameters
    ----------
    path : the ``.pt`` file.

    Raises
    ------
    InputError : if the file is missing, damaged, or holds the weights of another network.
    """

    def __init__(self, path: str) -> None:
        content = load_plain(path)
        if "spinwarp" in content:
            raise InputError(f"{path} is a checkpoint of spinwarp; use recon=checkpoint")
        state = content.get("state_dict", content)
        if not _is_state(state):
            raise InputError(f"{path} holds no state dict: names and tensors are expected")
        super().__init__(network_from_fastmri(state))


def load_end_to_end(path: str, trusted: Sequence[str] = ()) -> tuple[torch.nn.Module, dict[str, Any]]:
    """As :func:`load_network`, but only a network of an acquisition will do; one that is a prior is refused."""
    network, record = load_network(path, trusted)
    if isinstance(network, Denoiser):
        raise InputError(f"{path} holds a score model; use recon=posterior")
    if isinstance(network, ImageGenerator):
        raise InputError(f"{path} holds a generator of images; use recon=latent")
    return network, record


def load_network(path: str, trusted: Sequence[str] = ()) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Rebuild the network of a checkpoint of ``train.py``; returns it with its weights and the record of its training.

    Parameters
    ----------
    path : the ``.ckpt`` file.
    trusted : packages beside spinwarp from which the file may build its network.

    Raises
    ------
    InputError : if the file is missing, damaged, not one of ours, or its weights do not fit its own description.
    """
    content = load_plain(path)
    record = content.get("spinwarp")
    state = content.get("state_dict")
    if not isinstance(record, dict) or "net" not in record or not _is_state(state):
        raise InputError(
            f"{path} is not a checkpoint of spinwarp's train.py; for weights that fastMRI published use "
            f"recon=fastmri_weights"
        )
    network = build_network(record["net"], ("spinwarp.models", *trusted))
    if not isinstance(network, torch.nn.Module):
        raise InputError(f"{path} does not say of what class its network is; train again with this version")
    # score models are used with the moving average of their weights
    prefix = "average." if any(k.startswith("average.") for k in state) else "net."
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"the weights in {path} are those of another network than it describes: {reason}") from error
    return network, record


def load_plain(path: str) -> dict[str, Any]:
    """Load a file of tensors and plain Python to the CPU; code in it is refused, not run.

    Raises
    ------
    InputError : if the file cannot be read so.
    """
    if not path or not Path(path).is_file():
        raise InputError(f"there is no file {path!r}; give the weights as recon.path=FILE")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    # a damaged file can end in any of these, depending on where the damage is
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be loaded as plain weights ({reason})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; a dictionary of weights is expected")
    return content


def _is_state(state: Any) -> TypeGuard[dict[str, torch.Tensor]]:
    """Whether this is a state dict: names and tensors, at least one."""
    return (
        isinstance(state, dict)
        and bool(state)
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items())
    )


def build_network(config: Any, packages: Sequence[str]) -> Any:
    """Build what a plain description (``_target_``, ``_partial_``, arguments) says, from the named packages only.

    Raises
    ------
    InputError : if the description names anything else or does not fit its class.
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
            f"the checkpoint wants to build {target!r}, which is not in {', '.join(packages)}; if you trust it, name "
            f"its package in recon.trusted"
        )
    try:
        cls = getattr(importlib.import_module(module), name)
        if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
            raise InputError(f"the checkpoint wants to build {target!r}, which is not a network")
        return partial(cls, **arguments) if config.get("_partial_") else cls(**arguments)
    except InputError:
        raise
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"this version of spinwarp cannot build {target} as the checkpoint describes it: {error}"
        ) from error
