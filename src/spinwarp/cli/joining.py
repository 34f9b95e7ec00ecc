"""After a multirun of ``evaluate.py``: one table and one figure a slice of all its methods."""

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from spinwarp.errors import InputError


class JoinResults(Callback):
    """Joins the result folders of a multirun; Hydra calls it when the last job has ended."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Join what the jobs left below the sweep's folder; jobs with an ``out`` of their own are left alone."""
        from spinwarp.figures.join import join
        from spinwarp.results import RESULTS

        sweep = Path(config.hydra.sweep.dir)
        folders = sorted((path.parent for path in sweep.glob(f"*/{RESULTS}")), key=_number)
        if len(folders) < 2:
            return
        try:
            join(folders, sweep / "comparison", by=config.by)
        except InputError as error:
            print(f"the results are whole, but were not joined: {error}", file=sys.stderr)


def _number(folder: Path) -> tuple[int, str]:
    """The job's number, with which Hydra begins the folder's name."""
    number = folder.name.partition("_")[0]
    return (int(number) if number.isdigit() else sys.maxsize, folder.name)
