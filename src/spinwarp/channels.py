"""Complex images as real channels, and the only precision boundary of the project.

Networks may run in bf16 or fp16 under autocast; Fourier transforms and data consistency stay complex64. Whatever
leaves a network comes back to float32 here and nowhere else.
"""

import torch
from torch import Tensor


def to_channels(x: Tensor) -> Tensor:
    """Complex ``(batch, coil, h, w)`` to real ``(batch, 2 * coil, h, w)``: all real parts, then all imaginary ones."""
    return torch.cat([x.real, x.imag], dim=1)


def to_complex(x: Tensor) -> Tensor:
    """Undo :func:`to_channels`, back in full precision whatever the precision of ``x``."""
    real, imag = x.float().chunk(2, dim=1)
    return torch.complex(real.contiguous(), imag.contiguous())
