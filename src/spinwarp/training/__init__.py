"""LightningModules, schedules and callbacks."""

from spinwarp.training.consistency import ConsistencyModule
from spinwarp.training.gan import GANModule
from spinwarp.training.generator import FlowModule, GeneratorModule, VAEModule
from spinwarp.training.score import ScoreModule
from spinwarp.training.self_supervised import SelfSupervisedModule
from spinwarp.training.supervised import (
    EveryCascadeModule,
    HeteroscedasticModule,
    SupervisedModule,
    UNetModule,
    VarNetModule,
)

__all__ = [
    "ConsistencyModule",
    "EveryCascadeModule",
    "FlowModule",
    "GANModule",
    "GeneratorModule",
    "HeteroscedasticModule",
    "ScoreModule",
    "SelfSupervisedModule",
    "SupervisedModule",
    "UNetModule",
    "VAEModule",
    "VarNetModule",
]
