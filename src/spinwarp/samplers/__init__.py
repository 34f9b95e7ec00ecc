"""Posterior samplers: plain functions of a problem and of noise, of any image shape; none knows a network.

Each takes ``(problem, noise, *, options, advance)`` and returns samples ``(chain, *shape)``. Chains are independent:
what one does depends on its own generator alone. Samplers of the posterior, up to the size of their steps, are ``pula``
and ``annealed_langevin`` with the likelihood exact or annealed. The others are other ways to a good image: the spread
of what they return is not that of the posterior, and each says what was measured.
"""

from spinwarp.samplers.annealed_langevin import annealed_langevin
from spinwarp.samplers.daps import daps
from spinwarp.samplers.ddnm import ddnm
from spinwarp.samplers.dds import dds
from spinwarp.samplers.diffpir import diffpir
from spinwarp.samplers.dps import dps
from spinwarp.samplers.noise import ChainNoise, chain_generators
from spinwarp.samplers.predictor_corrector import predictor_corrector
from spinwarp.samplers.problem import Advance, Denoiser, Problem
from spinwarp.samplers.pula import pula
from spinwarp.samplers.schedules import Schedule, geometric, jalal, karras
from spinwarp.samplers.unconditional import unconditional

__all__ = [
    "Advance",
    "ChainNoise",
    "Denoiser",
    "Problem",
    "Schedule",
    "annealed_langevin",
    "chain_generators",
    "daps",
    "ddnm",
    "dds",
    "diffpir",
    "dps",
    "geometric",
    "jalal",
    "karras",
    "predictor_corrector",
    "pula",
    "unconditional",
]
