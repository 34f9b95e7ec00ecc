"""Raw k-space of brains at 0.055 T."""

from spinwarp.data.ulf.source import MANIFEST, UltraLowFieldBrains

__all__ = ["MANIFEST", "UltraLowFieldBrains"]
