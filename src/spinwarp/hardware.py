"""Features of the processor or GPU."""

import ctypes
import os
import platform
from functools import lru_cache
from pathlib import Path

import torch

#: values of oneDNN's instruction limit that exclude bf16
_WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"}


@lru_cache
def has_bf16(device: str) -> bool:
    """Whether a type of device, such as ``cpu`` or ``cuda``, computes in bfloat16 natively.

    Without native instructions bf16 is emulated, and a step can take ten times as long as in float32. The answer is no
    if ``ONEDNN_MAX_CPU_ISA`` or ``ATEN_CPU_CAPABILITY`` excludes these instructions, and for processors on systems
    other than Linux, which do not list them.
    """
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu" or not Path("/proc/cpuinfo").is_file():
        return False
    features = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    if platform.machine() in ("aarch64", "arm64"):
        return "bf16" in features
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    vectors = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return vectors and limit not in _WITHOUT_BF16 and bool({"avx512_bf16", "amx_bf16"} & features)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tensor instead of giving it back to the system each time.

    The pages of a block of some megabytes that is new take longer to set up than most things done with it: loading
    slices of 15x640x368 spent a third of its time on them. The process keeps up to 2 GB at the end of its heap, and
    gives blocks of more than 1 GB back at once. Processes that are forked later do the same. Without glibc this does
    nothing, and the variables MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ of a user come first.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for number, name, size in ((-3, "MALLOC_MMAP_THRESHOLD_", 2**30), (-1, "MALLOC_TRIM_THRESHOLD_", 2**31 - 1)):
        if name not in os.environ:
            libc.mallopt(number, size)
