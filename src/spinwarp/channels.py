"""Complex images as real numbers, and the only precision boundary of the project.

Networks may run in bf16 or fp16 under autocast; Fourier transforms and data consistency stay complex64. Outputs of
networks are converted back to float32 here and nowhere else. :func:`double` converts to float64.
"""

import logging
from functools import lru_cache

import torch
from torch import Tensor

from spinwarp.hardware import has_bf16

log = logging.getLogger("spinwarp")

#: of the network inside a method that offers the choice; auto: bf16 if the device supports it natively
PRECISIONS = ("32", "bf16", "auto")


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which a network runs in one of :data:`PRECISIONS`."""
    in_bf16 = precision == "bf16" or (precision == "auto" and auto_is_bf16(device.type))
    return torch.autocast(device.type, torch.bfloat16, enabled=in_bf16)


@lru_cache
def auto_is_bf16(device: str) -> bool:
    """Whether precision ``auto`` means bf16 on a type of device; the choice is logged once."""
    found = has_bf16(device)
    means = "bf16, which the {} supports natively" if found else "float32, because the {} has no native bf16"
    log.info("precision auto: %s", means.format({"cpu": "processor", "cuda": "GPU"}.get(device, device)))
    return found


def to_channels(x: Tensor) -> Tensor:
    """Complex ``(batch, coil, h, w)`` to real ``(batch, 2 * coil, h, w)``: all real parts, then all imaginary ones."""
    return torch.cat([x.real, x.imag], dim=1)


def to_complex(x: Tensor) -> Tensor:
    """Undo :func:`to_channels`; the result is complex64 for any precision of ``x``."""
    real, imag = x.float().chunk(2, dim=1)
    return torch.complex(real.contiguous(), imag.contiguous())


def double(x: Tensor) -> Tensor:
    """Return ``x`` in double precision, on the CPU if its device does not support it (Apple's MPS)."""
    dtype = torch.complex128 if x.is_complex() else torch.float64
    try:
        return x.to(dtype)
    except (TypeError, RuntimeError):  # MPS raises the first, other devices the second
        return x.cpu().to(dtype)


def root_sum_of_squares(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """Euclidean norm over one dimension of complex numbers; its gradient is finite at zero.

    ``torch.linalg.vector_norm`` of complex numbers takes thirty times as long on a CPU (torch 2.13).
    """
    power = (x.real.square() + x.imag.square()).sum(dim, keepdim) if x.is_complex() else x.square().sum(dim, keepdim)
    if power.requires_grad:  # the root's gradient at zero is infinite
        return power.clamp_min(torch.finfo(power.dtype).tiny).sqrt()
    return power.sqrt()
