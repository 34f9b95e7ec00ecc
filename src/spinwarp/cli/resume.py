"""Finds the checkpoint of ``ckpt_path`` and checks that a run can continue from it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from spinwarp.cli import app

if TYPE_CHECKING:
    from spinwarp.training.base import NetworkModule

#: parts of the configuration that determine a run, and keys in them that do not matter
PARTS = ("model", "data", "mask", "trainer", "callbacks", "seed")
FREE = (
    *("data.num_workers", "trainer.log_every_n_steps", "trainer.max_time", "trainer.enable", "trainer.plugins"),
    *("callbacks.last", "callbacks.panel", "callbacks.samples", "callbacks.progress", "callbacks.learning_rate"),
    # earlier versions had another class, or not this key
    *("callbacks.best.dirpath", "callbacks.best._target_", "callbacks.early_stopping.check_finite"),
    "trainer.strategy._target_",  # a class that was renamed
)
#: what a checkpoint restores, whatever the configuration says
KEPT = ("model.optimizer.", "model.reference_batch", "mask.learning_rate", "callbacks.early_stopping.patience", "seed")
#: keys under which early stopping finds its state in a checkpoint
STOPS_BY = ("callbacks.early_stopping.monitor", "callbacks.early_stopping.mode")


def last_checkpoint(folder: Path) -> Path:
    """Return the path of the last state of a run."""
    return folder / "checkpoints" / "last.ckpt"


def checkpoint_of(path: str | None, folder: Path) -> str | None:
    """Return the file to continue from; ``last`` is that of the run folder, or None if there is none yet."""
    if path != "last":
        return path
    last = last_checkpoint(folder)
    return str(last) if last.is_file() else None


def goes_on_in(folder: Path, checkpoint: str | None) -> bool:
    """Say whether the checkpoint lies in the run folder: then the run of that folder goes on, and no new one begins."""
    return checkpoint is not None and Path(checkpoint).resolve().parent == last_checkpoint(folder).resolve().parent


def check_nothing_is_overwritten(folder: Path, checkpoint: str | None) -> None:
    """Check that a new run does not write over the checkpoints of an earlier one.

    Raises
    ------
    InputError : if it would.
    """
    from spinwarp.errors import InputError

    if goes_on_in(folder, checkpoint):
        return
    for path in (last_checkpoint(folder), last_checkpoint(folder).with_name("best.ckpt")):
        if path.exists():
            raise InputError(
                f"{path} is of an earlier training, which a new one would overwrite; go on with that one by "
                f"ckpt_path=last, give another folder with hydra.run.dir=FOLDER, or remove {path.parent}"
            )


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep a second training out of a run folder: each would overwrite the other's files.

    The lock belongs to this process: processes that load data do not inherit it, and it ends with the process. Without
    locks in the file system nothing is checked.

    Raises
    ------
    InputError : if another process trains there.
    """
    import fcntl

    from spinwarp.errors import InputError

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise InputError(
                    f"another process trains in {folder} now; wait until it ends, or give another folder with "
                    f"hydra.run.dir=FOLDER"
                ) from error
        yield


def check(path: str, module: "NetworkModule", config: DictConfig) -> tuple[list[str], dict[str, Any]]:
    """Check, before anything is written, that a file is a checkpoint from which this model can continue.

    Parameters
    ----------
    path : of the checkpoint.
    module : whose weights it must hold.
    config : of the run that continues.

    Returns
    -------
    sentences : for the user: where training continues, which changed settings take effect, and which do not.
    used : the configuration in effect: values that the checkpoint restores replace those of ``config``.

    Raises
    ------
    InputError : if training cannot continue from the file.
    """
    from spinwarp.errors import InputError
    from spinwarp.models.loading import check_finite, load_plain

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
        raise InputError(f"{path} is not a checkpoint of this model; give model= and its options as that run had them")
    if not {"optimizer_states", "lr_schedulers", "loops", "epoch", "global_step"} <= content.keys():
        raise InputError(f"{path} holds weights alone, without the state of the optimizer; give a last.ckpt")
    check_finite(path, content)
    if getattr(module, "sampling", None) is not None and len(content["optimizer_states"][0]["param_groups"]) < 2:
        raise InputError(f"{path} is of a version in which a learned mask had no learning rate of its own; start anew")
    trained = {"max_epochs": content["epoch"], "max_steps": content["global_step"]}
    for key, done in trained.items():
        most = config.trainer.get(key)
        if most is not None and 0 <= most < done:
            what = key.removeprefix("max_")
            raise InputError(f"{path} has been trained for {done} {what}; set trainer.{key} to more than {most}")
    sentences = [f"going on from step {content['global_step']} (epoch {content['epoch']}) of {path}"]
    now = app.plain(config)
    before = content.get("spinwarp", {}).get("config")
    if before is None:
        return sentences, now
    return [*sentences, *_compare(path, before, now)], now


def _compare(path: str, before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Yield what differs between two configurations; write the values that the checkpoint restores into the new one.

    Raises
    ------
    InputError : if the optimizer is of another class, which cannot use the saved state.
    """
    from spinwarp.errors import InputError

    old, new = (
        {k: v for part in PARTS for k, v in _flat(part, config.get(part)) if not k.startswith(FREE)}
        for config in (before, now)
    )
    # older configurations hold fewer arguments of the trainer
    old = {key: _default(key) for key in new} | old
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if (key := "model.optimizer._target_") in changed:
        raise InputError(
            f"{path} holds the state of {old.get(key)}, which {new.get(key)} cannot use; set {key}={old.get(key)}, or "
            f"start a new run"
        )
    # early stopping by another metric has no state in the checkpoint and starts afresh
    stops_alike = all(key in new and old.get(key) == new[key] for key in STOPS_BY)
    kept = [key for key in changed if key.startswith(KEPT) and (stops_alike or not key.startswith("callbacks"))]
    takes_effect = [f"{key}={new.get(key)} (was {old.get(key)})" for key in changed if key not in kept]
    if takes_effect:
        yield f"the run continues with other settings: {', '.join(takes_effect)}"
    if kept:
        stays = ", ".join(f"{key} stays {old.get(key)} (not {new.get(key)})" for key in kept)
        yield f"the checkpoint restores these settings, so changing them has no effect: {stays}"
    for key in kept:
        _put(now, key, old.get(key))


def _default(key: str) -> Any:
    """Return Lightning's default of a trainer argument, which held if an older configuration does not name it."""
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


def _put(config: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        config = config[parent]
    config[last] = value
