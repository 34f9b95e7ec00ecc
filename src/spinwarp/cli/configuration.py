"""What the three commands share: the configuration folder, the run folder's stamp, and clear errors.

Hydra is imported here and in its neighbours only, and nothing heavy is, so that ``--help`` answers at once.
"""

import os
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from spinwarp.errors import InputError

STAMP = "SPINWARP_STAMP"


def conf_folder() -> Path:
    """Return the folder of the YAML files: beside the package in a wheel, at the root of a checkout otherwise.

    Raises
    ------
    FileNotFoundError : if the installation has neither.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"the configuration folder conf/ is missing beside {package}; install spinwarp again")


def stamp() -> str:
    """Return the date and time at which the run began; the child processes of a job inherit it, and so its folder."""
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S") + f"_{os.getpid() % 10000:04d}"
    return os.environ.setdefault(STAMP, now)


def run(name: str, task: Callable[[DictConfig], Any]) -> None:
    """Run ``task`` with the configuration ``name``; an :class:`InputError` ends it in one sentence and exit code 1.

    Hydra tells of misspelt groups and keys itself, before anything is imported or written.
    """
    OmegaConf.register_new_resolver("stamp", stamp, replace=True)
    guarded = _guard(task)
    # Hydra names the job after the module of the task
    guarded.__module__ = "__main__"
    hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=name)(guarded)()


def plain(config: DictConfig) -> Any:
    """Return a resolved configuration as plain dictionaries and lists."""
    return OmegaConf.to_container(config, resolve=True)


def check_device(name: str) -> None:
    """Raise an :class:`InputError` if this machine cannot compute on the device of that name."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={name} cannot be used here ({str(error).splitlines()[0]}); try device=cpu") from error


def _guard(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    def guarded(config: DictConfig) -> Any:
        try:
            return task(config)
        except KeyboardInterrupt:
            print("\ninterrupted; what was finished is in the run folder", file=sys.stderr)
            raise SystemExit(130) from None
        except Exception as error:
            cause = _input_error(error)
            if cause is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            # a worker process puts its traceback before the message
            print(f"error: {str(cause).rpartition('InputError: ')[2].strip()}", file=sys.stderr)
            raise SystemExit(1) from None

    return guarded


def _input_error(error: BaseException | None) -> BaseException | None:
    """Find the input error behind an exception; Hydra and worker processes wrap it."""
    while error is not None:
        if isinstance(error, InputError):
            return error
        error = error.__cause__ or error.__context__
    return None
