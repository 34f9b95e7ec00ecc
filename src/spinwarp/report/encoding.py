"""Images as text within the page: 8 bits a pixel, on a scale of the volume."""

import base64
import io
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Encoding:
    """How pixels are stored.

    Parameters
    ----------
    quality : of WebP, from 0 to 100; None: PNG, without loss.
    """

    quality: int | None

    @property
    def gamma(self) -> float:
        """The power of the value that is stored. A root keeps the dark tissue apart, but spends bits on noise."""
        return 0.5 if self.quality is None else 1.0

    def __str__(self) -> str:
        if self.quality is None:
            return "8 bits of the square root of each value, without loss (PNG)"
        return f"8 bits, with loss (WebP, quality {self.quality}): look at the files of the results for exact values"

    def text(self, values: np.ndarray, top: float) -> str:
        """Return ``(h, w)`` values as a data URI: from 0 to ``top``, larger ones as ``top``, NaN and infinity as 0."""
        share = np.clip(np.where(np.isfinite(values), values, 0) / top, 0, 1) ** self.gamma
        return _uri(np.rint(255 * share).astype(np.uint8), self.quality)


#: from the best to the smallest
ENCODINGS = tuple(Encoding(quality) for quality in (None, 90, 80, 65, 50))


def bits(values: np.ndarray) -> str:
    """Return ``(h, w)`` bool as a data URI, without loss."""
    return _uri(values, None)


def _uri(values: np.ndarray, quality: int | None) -> str:
    from PIL import Image

    content = io.BytesIO()
    if quality is None:
        Image.fromarray(values).save(content, "PNG", optimize=True)
    else:
        Image.fromarray(values).save(content, "WEBP", quality=quality, method=4)
    kind = "png" if quality is None else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
