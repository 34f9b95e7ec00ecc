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
        """Join the results of the jobs that succeeded; those of jobs with an ``out`` of their own are left alone."""
        from spinwarp.cli import multirun
        from spinwarp.figures.join import join
        from spinwarp.results import RESULTS

        sweep = Path(config.hydra.sweep.dir)
        folders = [folder for folder in multirun.finished(config) if (folder / RESULTS).is_file()]
        if len(folders) < 2:
            return
        try:
            join(folders, sweep / "comparison", by=config.by)
        except InputError as error:
            print(f"the results are whole, but were not joined: {error}", file=sys.stderr)
