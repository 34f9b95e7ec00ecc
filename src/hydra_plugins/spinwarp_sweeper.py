"""Hydra looks for sweepers in this namespace only."""

from spinwarp.cli import optuna_sweeper


class OptunaSweeper(optuna_sweeper.OptunaSweeper):
    """The sweeper of ``hydra/sweeper=optuna``, under the name by which Hydra may find it."""
