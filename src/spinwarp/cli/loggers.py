"""The runs at Weights & Biases and TensorBoard of a command: how they begin and end, and the results that they get."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig

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


def publish(config: DictConfig, folder: Path, rows: Sequence[Row]) -> None:
    """Send the table, the figures and the report of a result folder to the loggers of ``evaluate.py``.

    Raises
    ------
    InputError : if Weights & Biases does not know the user.
    """
    from spinwarp.training.loggers import send_results

    loggers = [instantiate(logger) for logger in (config.logger or {}).values() if logger is not None]
    with reported(loggers):
        begin(loggers, ("recon", "mask", "data"))
        send_results(loggers, folder, rows)
