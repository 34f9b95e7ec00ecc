"""Evaluation of every method under one protocol."""

from spinwarp.evaluation.evaluate import UNFINISHED, evaluate
from spinwarp.evaluation.volume import Protocol

__all__ = ["UNFINISHED", "Protocol", "evaluate"]
