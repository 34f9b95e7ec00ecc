"""Weights by name: those that come with the package, those of the Hugging Face Hub, and files of safetensors."""

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from spinwarp.errors import InputError
from spinwarp.files import atomic_write, unreadable, user_path

_FOLDER = Path(__file__).parents[1] / "weights"
_PRETRAINED = "pretrained:"
_HUB = "hf://"
_ON_HUB = re.compile(r"hf://([\w.-]+/[\w.-]+)/([^@\n]+?)(?:@([^@\s]+))?")
_RECORD = "spinwarp"  # key of the record of the training, JSON, in the metadata of a file


def local_file(name: str) -> Path:
    """Return the file of weights that a user named.

    Parameters
    ----------
    name : a path; ``pretrained:NAME`` for weights that come with the package; or ``hf://OWNER/REPO/FILE[@REVISION]``
        for a file of the Hugging Face Hub, which is downloaded once.

    Raises
    ------
    InputError : if there are no weights of this name, or they cannot be downloaded.
    """
    if name.startswith(_PRETRAINED):
        path = _FOLDER / f"{name.removeprefix(_PRETRAINED)}.safetensors"
        if path.parent != _FOLDER or not path.is_file():
            there = ", ".join(sorted(f"{_PRETRAINED}{p.stem}" for p in _FOLDER.glob("*.safetensors")))
            raise InputError(f"no weights {name!r} come with spinwarp; it has {there or 'none'}")
        return path
    return _downloaded(name) if name.startswith(_HUB) else user_path(name)


def _downloaded(name: str) -> Path:
    found = _ON_HUB.fullmatch(name)
    if not found:
        raise InputError(f"{name!r} does not name a file of the Hub; write hf://OWNER/REPO/FILE or .../FILE@REVISION")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise InputError(f"{name} needs the package huggingface-hub: pip install 'spinwarp[hub]'") from error
    repository, file, revision = found.groups()
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    # the client raises errors of several libraries: no network, no such file, no permission
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{name} could not be downloaded ({type(error).__name__}: {reason}); check the name and the network, or "
            f"download the file elsewhere and give its path"
        ) from error


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read a file of safetensors as a checkpoint: its tensors as ``state_dict`` and the record as ``spinwarp``.

    The format holds no code.

    Raises
    ------
    InputError : if the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(_RECORD)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
        record = None if text is None else json.loads(text)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise unreadable(path, error, "is no whole file of safetensors ({reason}); get the file again") from error
    return {"state_dict": state} if record is None else {"state_dict": state, _RECORD: record}


def write_safetensors(path: Path, state: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Write the weights of a network, named as in a checkpoint (``net.``), and the record of its training.

    Parameters
    ----------
    path : ``*.safetensors``; replaced as a whole.
    state : weights by name.
    record : plain values, as in a checkpoint of ``train.py``.
    """
    from safetensors.torch import save

    content = save({name: value.contiguous() for name, value in state.items()}, {_RECORD: json.dumps(record)})
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)  # save_file would let only the owner read it
