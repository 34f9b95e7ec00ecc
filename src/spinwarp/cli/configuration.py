"""What the three commands share: the configuration folder, the run folder's stamp, and clear errors.

Hydra is imported here and in its neighbours only, and nothing heavy is, so that ``--help`` answers at once.
"""

import os
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from spinwarp.errors import InputError

_FULL = "HYDRA_FULL_ERROR"
# what a wrong value ends in while it is resolved or built
_WRONG = (InstantiationException, OmegaConfBaseException)
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


def run(name: str, task: Callable[[DictConfig], Any], kinds: Mapping[str, Any]) -> None:
    """Run ``task`` with the configuration ``name``; an :class:`InputError` ends it in one sentence and exit code 1.

    Misspelt groups and keys are told before anything is imported or written, wrong kinds before anything is built.

    Parameters
    ----------
    name : of the configuration.
    task : is given it.
    kinds : what the values must be that stand at its top.
    """
    # any abbreviation of it that argparse takes; a pickle may hold code
    if any(argument.startswith("--e") for argument in sys.argv[1:]):
        print("error: --experimental-rerun reads a pickle, which may hold code; give the overrides", file=sys.stderr)
        raise SystemExit(1)
    OmegaConf.register_new_resolver("stamp", stamp, replace=True)
    before = os.environ.get(_FULL)
    guarded = _guard(task, kinds, before)
    # Hydra names the job after the module of the task
    guarded.__module__ = "__main__"
    # this makes Hydra raise what it would print in several lines; the task takes it back
    os.environ[_FULL] = "1"
    try:
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=name)(guarded)()
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        if before == "1" or guarded.began:  # type: ignore[attr-defined]
            raise
        from spinwarp.cli.sentences import sentence

        print(f"error: {sentence(error, conf_folder(), name, sys.argv[1:])}", file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        _restore(before)


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


def _restore(before: str | None) -> None:
    os.environ.pop(_FULL, None)
    if before is not None:
        os.environ[_FULL] = before


def _guard(
    task: Callable[[DictConfig], Any], kinds: Mapping[str, Any], before: str | None
) -> Callable[[DictConfig], Any]:
    def guarded(config: DictConfig) -> Any:
        _restore(before)
        guarded.began = True  # type: ignore[attr-defined]
        try:
            from spinwarp.cli.kinds import check_kinds

            check_kinds(plain(config), kinds=kinds)
            return task(config)
        except KeyboardInterrupt:
            print("\ninterrupted; what was finished is in the run folder", file=sys.stderr)
            raise SystemExit(130) from None
        except Exception as error:
            cause = _input_error(error)
            if before == "1" or (cause is None and not isinstance(error, _WRONG)):
                raise
            print(f"error: {_said(error, cause)}", file=sys.stderr)
            raise SystemExit(1) from None

    guarded.began = False  # type: ignore[attr-defined]
    return guarded


def _said(error: Exception, cause: BaseException | None) -> str:
    if cause is not None:
        # a worker process puts its traceback before the message
        return str(cause).rpartition("InputError: ")[2].strip()
    from spinwarp.cli.sentences import instantiation, sentence

    if isinstance(error, InstantiationException):
        return instantiation(error)
    return sentence(error, conf_folder(), "", ())


def _input_error(error: BaseException | None) -> BaseException | None:
    """Find the input error behind an exception; Hydra and worker processes wrap it."""
    while error is not None:
        if isinstance(error, InputError):
            return error
        error = error.__cause__ or error.__context__
    return None
