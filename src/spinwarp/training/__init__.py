"""LightningModules, schedules and callbacks."""

from spinwarp.training.supervised import SupervisedModule, UNetModule, VarNetModule

__all__ = ["SupervisedModule", "UNetModule", "VarNetModule"]
