"""spinwarp: train, compare and trust machine-learning MRI reconstruction."""

__version__ = "0.1.0"
