"""The runs at Weights & Biases and TensorBoard of a command: how they begin and end, and the results that they get."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig

from spinwarp.errors import InputError
from spinwarp.parallel import processes
from spinwarp.results import Row


def begin(loggers: Sequence[Any], groups: Sequence[str], goes_on: bool = False) -> None:
    """Start the runs at Weights & Biases; a sweep forms a group.

    Parameters
    ----------
    loggers : of the command.
    groups : whose choices make the name of a run, such as ``model``, unless it has one.
    goes_on : whether the run of the folder goes on.
    """
    from spinwarp.training.loggers import WandbRun

    settings = HydraConfig.get()
    group = Path(settings.sweep.dir).name if settings.mode == RunMode.MULTIRUN else None
    name = " ".join(settings.runtime.choices[choice] for choice in groups)
    for logger in loggers:
        if isinstance(logger, WandbRun):
            logger.begin(goes_on, group, name)


@contextmanager
def reported(loggers: Sequence[Any]) -> Iterator[None]:
    """Report to Weights & Biases how the block ended."""
    from spinwarp.training.loggers import finish

    code = 1
    try:
        yield
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
        raise
    except KeyboardInterrupt:
        code = 130
        raise
    finally:
        finish(loggers, code)


def result_loggers(config: DictConfig) -> list[Any]:
    """Return the loggers of ``evaluate.py``, before its work begins.

    Raises
    ------
    InputError : under torchrun or srun, where no process is sure to have all results and the run to send them to.
    """
    loggers = [instantiate(logger) for logger in (config.logger or {}).values() if logger is not None]
    if loggers and processes.place().world > 1:
        raise InputError(
            "the loggers of evaluate.py do not work under torchrun and srun; take processes=N instead, or logger=none"
        )
    return loggers


def publish(loggers: Sequence[Any], folder: Path, rows: Sequence[Row]) -> None:
    """Send the table, the figures and the report of a result folder to the loggers of ``evaluate.py``.

    Raises
    ------
    InputError : if Weights & Biases does not know the user.
    """
    from spinwarp.training.loggers import send_results

    with reported(loggers):
        begin(loggers, ("recon", "mask", "data"))
        send_results(loggers, folder, rows)
