"""Hydra looks for sweepers in this namespace only."""

from spinwarp.cli.sweep import sweeper


class OptunaSweeper(sweeper.OptunaSweeper):
    """The sweeper of ``hydra/sweeper=optuna``, under the name by which Hydra may find it."""
