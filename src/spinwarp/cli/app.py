"""What the commands share: the configuration folder, the stamp of the run folder, and clear errors.

Only this folder imports Hydra. This file imports nothing heavy, which keeps ``--help`` fast.
"""

import gc
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from spinwarp.cli import arguments, multirun
from spinwarp.errors import InputError
from spinwarp.files import find_home
from spinwarp.parallel import processes
from spinwarp.parallel.processes import stamp as stamp

_FULL = "HYDRA_FULL_ERROR"
# raised by a wrong value when it is resolved or built
_WRONG = (InstantiationException, OmegaConfBaseException)
# exit codes of Ctrl-C and of SIGTERM
_SIGNALS = (130, 143)


def conf_folder() -> Path:
    """Return the folder of the YAML files: beside the package in a wheel, otherwise at the root of the checkout.

    Raises
    ------
    FileNotFoundError : if the installation has neither.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"the configuration folder conf/ is missing beside {package}; install spinwarp again")


def run(name: str, task: Callable[[DictConfig], Any], types: Mapping[str, Any]) -> None:
    """Run ``task`` with the configuration ``name``; an :class:`InputError` prints one sentence and exits with 1.

    Misspelt groups and keys are reported before anything is imported or written, and values of a wrong type before
    anything is built.

    Parameters
    ----------
    name : of the configuration.
    task : receives the configuration.
    types : types of the values at its top level.

    Raises
    ------
    SystemExit : with 1 after an error, also if only one job of a multirun failed; with 130 after Ctrl-C.
    """
    # argparse accepts any abbreviation of it
    if any(argument.startswith("--e") for argument in sys.argv[1:]):
        _fail("--experimental-rerun reads a pickle, which may hold code; give the overrides")
    OmegaConf.register_new_resolver("stamp", stamp, replace=True)
    wanted = os.environ.get(_FULL)
    arguments.prepare()

    def job(config: DictConfig) -> Any:
        with _environment(_FULL, wanted):  # child processes see what the user set
            return _run_job(config, task, types)

    try:
        # with this variable Hydra raises its errors instead of printing several lines
        with multirun.summary(), _environment(_FULL, "1"):
            hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=name)(job)()
    except KeyboardInterrupt:
        _interrupted()
    except BrokenPipeError:  # such as --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        if wanted == "1":
            raise
        from spinwarp.cli.messages import sentence

        _fail(sentence(error, conf_folder(), name, sys.argv[1:]))
    except OSError as error:  # of Hydra, whose errors of configuration are OSErrors too; jobs handle their own
        if wanted == "1":
            raise
        _fail(
            f"the run folder cannot be written ({error.strerror}: {error.filename}); give another one with "
            f"hydra.run.dir=FOLDER, with -m hydra.sweep.dir=FOLDER, or the folder of all runs as SPINWARP_RUNS"
        )


def plain(config: DictConfig) -> Any:
    """Return a resolved configuration as plain dictionaries and lists."""
    return OmegaConf.to_container(config, resolve=True)


def check_device(name: str) -> None:
    """Raise an :class:`InputError` if this machine has no such device."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={name} cannot be used here ({str(error).splitlines()[0]}); try device=cpu") from error


def refuse_parallel_sweep(config: DictConfig, settings: Any) -> None:
    """Refuse a multirun whose jobs would start processes: each would run the sweep again, with other parameters.

    SLURM starts the processes of a job itself, all with the same parameters.

    Parameters
    ----------
    config : of a job.
    settings : of Hydra.
    """
    trainer = config.get("trainer") or {}
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    if settings.mode != RunMode.MULTIRUN or (devices in (1, "1", "auto") and nodes == 1):
        return
    launcher = settings.launcher
    if "Slurm" not in launcher.get("_target_", ""):
        raise InputError(
            f"a multirun with trainer.devices={devices} would start the whole sweep again in every process; use one "
            f"device per job, or hydra/launcher=slurm, which gives each job its own processes"
        )
    if (devices, nodes) != (launcher.tasks_per_node, launcher.nodes):
        raise InputError(
            f"trainer.devices={devices} trainer.num_nodes={nodes} do not fit hydra.launcher.tasks_per_node="
            f"{launcher.tasks_per_node} hydra.launcher.nodes={launcher.nodes}: SLURM must start one process per device"
        )


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable, or remove it, while the block runs."""
    before = os.environ.pop(name, None)
    try:
        if value is not None:
            os.environ[name] = value
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _run_job(config: DictConfig, task: Callable[[DictConfig], Any], types: Mapping[str, Any]) -> Any:
    """Run a single job, or one of a multirun, which continues after an error."""
    one_of_many = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        if one_of_many:
            gc.collect()  # free what the previous job left in memory
            multirun.note(config, error=multirun.UNFINISHED)
        processes.prepare_process()
        find_home()
        from spinwarp.cli.typecheck import check_types

        arguments.expand_home(config)
        check_types(plain(config), types=types)
        from spinwarp.hardware import keep_freed_memory

        keep_freed_memory()
        if one_of_many:
            multirun.check_out(config)
        value = task(config)
        if one_of_many:
            multirun.note(config, value)
        return value
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as stop:
        if not one_of_many or stop.code in _SIGNALS:
            raise
        if stop.code in (0, None):
            multirun.note(config)
        else:
            multirun.fail(config, f"it ended with exit code {stop.code}")
    except Exception as error:
        known = input_error(error) is not None or isinstance(error, _WRONG) or _out_of_memory(error) is not None
        if not known or os.environ.get(_FULL) == "1":
            traceback.print_exc()
        if not one_of_many and not known:
            raise SystemExit(1) from None
        if not one_of_many:
            end(error, config)
        multirun.fail(config, message(error, config))
    return None


def _interrupted() -> NoReturn:
    print("\ninterrupted; what was finished is in the run folder", file=sys.stderr)
    raise SystemExit(130) from None


def end(error: BaseException, config: DictConfig | None = None) -> NoReturn:
    """Print the error in one sentence and exit with code 1."""
    _fail(message(error, config))


def _fail(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    raise SystemExit(1) from None


def message(error: BaseException, config: DictConfig | None = None) -> str:
    """Return an exception in one sentence, with the keys of this command: some have no ``data.`` prefix."""
    sentence = _sentence(error)
    if config is None or "data" in config:
        return sentence
    return re.sub(r"\bdata\.(\w+)", lambda found: found[1] if found[1] in config else found[0], sentence)


def _sentence(error: BaseException) -> str:
    cause = input_error(error)
    if cause is not None:
        # an error from a worker process has its traceback before the message
        return str(cause).rpartition("InputError: ")[2].strip()
    from spinwarp.cli.messages import instantiation, sentence

    if lack := _out_of_memory(error):
        reason = (str(lack).strip() or type(lack).__name__).splitlines()[0][:200]
        return f"memory ran out ({reason}); lower data.batch_size or the size of the model or of the data"
    if isinstance(error, InstantiationException):
        return instantiation(error)
    if isinstance(error, _WRONG):
        return sentence(error, conf_folder(), "", ())
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _out_of_memory(error: BaseException | None) -> BaseException | None:
    """Return the error of CPU or GPU memory that ran out behind an exception; None if it has another cause."""
    while error is not None:
        words = str(error).lower() if isinstance(error, RuntimeError) else ""
        if isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words:
            return error
        error = error.__cause__
    return None


def input_error(error: BaseException | None) -> BaseException | None:
    """Find the input error behind an exception, which Hydra and worker processes wrap."""
    while error is not None:
        if isinstance(error, InputError):
            return error
        error = error.__cause__ or error.__context__
    return None
