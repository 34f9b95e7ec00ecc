"""Whether bf16 is native is read off the processor, within the limits that the user sets."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from spinwarp import hardware
from spinwarp.channels import autocast


class Processor:
    """Stands for a machine whose /proc/cpuinfo names some instructions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.patch, self.file = monkeypatch, folder / "cpuinfo"
        monkeypatch.setattr(hardware, "Path", lambda _: self.file)
        for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
            monkeypatch.delenv(name, raising=False)
        self.has("", "x86_64", "AVX2")

    def has(self, flags: str, machine: str = "x86_64", vectors: str = "AVX512") -> None:
        self.file.write_text(f"processor : 0\nflags\t\t: fpu {flags} sse\n\n")
        self.patch.setattr(hardware.platform, "machine", lambda: machine)
        self.patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
        hardware.has_bf16.cache_clear()


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Processor]:
    yield Processor(monkeypatch, tmp_path)
    hardware.has_bf16.cache_clear()


@pytest.mark.parametrize(
    ("flags", "machine", "vectors", "native"),
    [
        ("avx2 fma", "x86_64", "AVX2", False),
        ("avx2 avx512f avx512_vnni", "x86_64", "AVX512", False),
        ("avx2 avx512f avx512_bf16", "x86_64", "AVX512", True),
        ("avx512f amx_tile amx_bf16", "x86_64", "AVX512", True),
        ("avx512f avx512_bf16", "x86_64", "AVX2", False),  # ATEN_CPU_CAPABILITY=avx2
        ("asimd bf16 sve", "aarch64", "DEFAULT", True),
        ("asimd sve", "aarch64", "DEFAULT", False),
    ],
)
def test_the_flags_of_the_processor_decide(
    processor: Processor, flags: str, machine: str, vectors: str, native: bool
) -> None:
    processor.has(flags, machine, vectors)
    assert hardware.has_bf16("cpu") is native


@pytest.mark.parametrize(
    ("limit", "native"), [("AVX2", False), ("avx512_core", False), ("AVX512_CORE_BF16", True), ("DEFAULT", True)]
)
def test_the_limit_of_onednn_is_kept(
    processor: Processor, monkeypatch: pytest.MonkeyPatch, limit: str, native: bool
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    processor.has("avx512_bf16")
    assert hardware.has_bf16("cpu") is native


def test_a_machine_that_says_nothing_of_its_processor_has_none(processor: Processor) -> None:
    processor.file.unlink()
    hardware.has_bf16.cache_clear()
    assert hardware.has_bf16("cpu") is False
    assert hardware.has_bf16("mps") is False


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_has_it_only_without_emulation(
    processor: Processor, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: True, is_bf16_supported=supported))
    assert hardware.has_bf16("cuda") is native


@pytest.mark.parametrize(
    ("precision", "native", "expected"),
    [("32", True, False), ("bf16", False, True), ("auto", True, True), ("auto", False, False)],
)
def test_a_network_runs_in_bf16_where_it_is_asked_for_or_native(
    monkeypatch: pytest.MonkeyPatch, precision: str, native: bool, expected: bool
) -> None:
    monkeypatch.setattr("spinwarp.channels.auto_is_bf16", lambda _: native)
    layer = torch.nn.Linear(2, 2)
    with autocast(precision, torch.device("cpu")):
        found = layer(torch.ones(1, 2)).dtype
    assert found == (torch.bfloat16 if expected else torch.float32)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told what to do")
@pytest.mark.parametrize(("variable", "keeps"), [({}, True), ({"MALLOC_MMAP_THRESHOLD_": "1000000"}, False)])
def test_freed_memory_is_used_again_unless_the_user_says_otherwise(variable: dict[str, str], keeps: bool) -> None:
    """Counted in a process of its own: pages that the system sets up for blocks of 40 MB, 4 kB each."""
    script = """
import resource, sys, types
sys.modules["torch"] = types.ModuleType("torch")  # takes long, and is not needed here
import numpy as np
from spinwarp.hardware import keep_freed_memory
keep_freed_memory()
np.ones(5_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(5_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | variable
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    # all five blocks are new without it; huge pages of 2 MB would still be 100
    assert (int(done.stdout) < 50) is keeps
