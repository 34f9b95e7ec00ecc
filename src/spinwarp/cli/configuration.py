"""What the three commands share: the configuration folder, the run folder's stamp, and clear errors.

Hydra is imported here and in its neighbours only, and nothing heavy is, so that ``--help`` answers at once.
"""

import os
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from spinwarp.cli import processes
from spinwarp.errors import InputError
from spinwarp.files import find_home

_FULL = "HYDRA_FULL_ERROR"
# what a wrong value ends in while it is resolved or built
_WRONG = (InstantiationException, OmegaConfBaseException)


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
    """Return the date and time at which the run began; all processes of a job agree on it, and so on its folder."""
    if processes.STAMP not in os.environ:
        now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S") + f"_{os.getpid() % 10000:04d}"
        os.environ[processes.STAMP] = processes.agreed(now)
    return os.environ[processes.STAMP]


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
    except BrokenPipeError:  # whoever reads --help has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
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


def refuse_parallel_sweep(config: DictConfig, settings: Any) -> None:
    """Refuse a multirun whose jobs would start processes of their own: those re-run the sweep, with other parameters.

    SLURM starts the processes of a job by itself and gives all of them the same parameters.

    Parameters
    ----------
    config : of a job.
    settings : those of Hydra.
    """
    trainer = config.get("trainer") or {}
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    if settings.mode != RunMode.MULTIRUN or (devices in (1, "1", "auto") and nodes == 1):
        return
    launcher = settings.launcher
    if "Slurm" not in launcher.get("_target_", ""):
        raise InputError(
            f"a multirun with trainer.devices={devices} would start the whole sweep again in every process; use one "
            f"device a job, or hydra/launcher=slurm, which gives each job its own processes"
        )
    if (devices, nodes) != (launcher.tasks_per_node, launcher.nodes):
        raise InputError(
            f"trainer.devices={devices} trainer.num_nodes={nodes} do not fit hydra.launcher.tasks_per_node="
            f"{launcher.tasks_per_node} hydra.launcher.nodes={launcher.nodes}: SLURM has to start a process a device"
        )


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
            processes.prepare_process()
            find_home()
            from spinwarp.cli.kinds import check_kinds

            check_kinds(plain(config), kinds=kinds)
            return task(config)
        except KeyboardInterrupt:
            print("\ninterrupted; what was finished is in the run folder", file=sys.stderr)
            raise SystemExit(130) from None
        except Exception as error:
            if before == "1" or (input_error(error) is None and not isinstance(error, _WRONG)):
                raise
            if _is_awaited():
                # without what wraps it: the way home from another machine leaves causes behind
                raise InputError(said(error)) from error
            end(error)

    guarded.began = False  # type: ignore[attr-defined]
    return guarded


def end(error: BaseException) -> NoReturn:
    """Say in one sentence what the user can mend, and leave with exit code 1."""
    print(f"error: {said(error)}", file=sys.stderr)
    raise SystemExit(1) from None


def said(error: BaseException) -> str:
    """Return the sentence behind an exception."""
    cause = input_error(error)
    if cause is not None:
        # a worker process puts its traceback before the message
        return str(cause).rpartition("InputError: ")[2].strip()
    from spinwarp.cli.sentences import instantiation, sentence

    if isinstance(error, InstantiationException):
        return instantiation(error)
    return sentence(error, conf_folder(), "", ())


def input_error(error: BaseException | None) -> BaseException | None:
    """Find the input error behind an exception; Hydra and worker processes wrap it."""
    while error is not None:
        if isinstance(error, InputError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _is_awaited() -> bool:
    """Whether the job is one of a sweep that goes on without it, or that has to hear of it from another machine."""
    hydra_config = HydraConfig.get()
    plugins = hydra_config.sweeper._target_, hydra_config.launcher._target_
    return hydra_config.mode == RunMode.MULTIRUN and not all("Basic" in name for name in plugins)
