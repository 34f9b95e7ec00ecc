"""What ``ckpt_path`` means, and whether a run can go on from it."""

from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from spinwarp.cli import configuration

if TYPE_CHECKING:
    from spinwarp.training import SupervisedModule

#: parts of the configuration that make a run what it is, and what in them changes nothing
PARTS = ("model", "data", "mask", "trainer", "seed")
FREE = ("data.num_workers", "trainer.log_every_n_steps", "trainer.max_time", "trainer.enable", "trainer.plugins")


def last_checkpoint(folder: Path) -> Path:
    """Where a run keeps its last state."""
    return folder / "checkpoints" / "last.ckpt"


def checkpoint_of(path: str | None, folder: Path) -> str | None:
    """Return the file to go on from: ``last`` is that of the run folder, and None where there is none yet."""
    if path != "last":
        return path
    last = last_checkpoint(folder)
    return str(last) if last.is_file() else None


def check(path: str, module: "SupervisedModule", config: DictConfig) -> list[str]:
    """Refuse to go on from a file that is not a checkpoint of this model, before anything is made or written.

    Returns sentences for the user: where training goes on, and what is set otherwise than it was.

    Raises
    ------
    InputError : if training cannot go on from the file.
    """
    from spinwarp.errors import InputError
    from spinwarp.recon.checkpoint import load_plain

    if not Path(path).is_file():
        raise InputError(
            f"there is no checkpoint {path} to go on from; give ckpt_path=FILE of an earlier run, or ckpt_path=last "
            f"with hydra.run.dir=FOLDER of that run"
        )
    content = load_plain(path)
    state, expected = content.get("state_dict"), module.state_dict()
    if not isinstance(state, dict) or {k: getattr(v, "shape", None) for k, v in state.items()} != {
        k: v.shape for k, v in expected.items()
    }:
        raise InputError(
            f"{path} is not a checkpoint of this model; give the model= and its options with which that run was started"
        )
    if not {"optimizer_states", "lr_schedulers", "loops", "epoch", "global_step"} <= content.keys():
        raise InputError(f"{path} holds weights alone, and training needs its optimizer too; give a last.ckpt")
    epoch, most = content["epoch"], config.trainer.get("max_epochs")
    if most is not None and 0 <= most < epoch:
        raise InputError(f"{path} has been trained for {epoch} epochs; set trainer.max_epochs to more than {most}")
    sentences = [f"going on from step {content['global_step']} (epoch {epoch}) of {path}"]
    record = content.get("spinwarp", {})
    changed = list(_changes(record.get("config", {}), configuration.plain(config))) if "config" in record else []
    if changed:
        sentences.append(f"this is not the run continued as it was: {', '.join(changed)}")
    return sentences


def _changes(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What differs between two configurations, as ``key=new (was old)``."""
    old, new = ({k: v for part in PARTS for k, v in _flat(part, config.get(part))} for config in (before, now))
    old = {key: _default(key) for key in new} | old
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key) and not key.startswith(FREE):
            yield f"{key}={new.get(key)} (was {old.get(key)})"


def _default(key: str) -> Any:
    """Return what an argument of the trainer was that an earlier configuration did not name: Lightning's default."""
    from lightning import Trainer

    part, _, name = key.partition(".")
    argument = signature(Trainer).parameters.get(name) if part == "trainer" else None
    return None if argument is None else argument.default


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield key, value
        return
    for name, inner in value.items():
        yield from _flat(f"{key}.{name}", inner)
