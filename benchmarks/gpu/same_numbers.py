"""Hold a device against the CPU: the same random numbers on both, and how far results may lie apart."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from gpu.setting import FailedError, Values

#: relative change of the data by which the sensitivity of a computation is found; rounding is some 1e-7
PERTURBATION = 1e-6


class DrawnOnCPU(TorchDispatchMode):
    """Draws every random number on the CPU and moves it, for the generators of two devices give different ones.

    A generator of the device stands for one of the CPU with the same seed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._twins: dict[int, tuple[torch.Generator, torch.Generator]] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operation is torch.ops.aten.native_dropout.default and args[2] is not False:
            x, p = args[0], args[1]
            kept = torch.empty_like(x, device="cpu").bernoulli_(1 - p).to(x.device)  # as dropout on the CPU does
            return x * (kept / (1 - p)), kept.bool()
        # attention has the tag for the dropout that it could do
        if torch.Tag.nondeterministic_seeded not in operation.tags or "attention" in operation.__name__:
            return operation(*args, **kwargs)
        device = kwargs.get("device") or next((a.device for a in args if isinstance(a, Tensor)), torch.device("cpu"))
        drawn = operation(*tree_map(self._on_cpu, args), **{k: self._on_cpu(v) for k, v in kwargs.items()})
        if operation._schema.is_mutable:
            return args[0].copy_(drawn)
        return tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, drawn)

    def _on_cpu(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.cpu()
        if isinstance(value, torch.device):
            return torch.device("cpu")
        if isinstance(value, torch.Generator) and value.device.type != "cpu":
            # kept beside its twin, so that no other generator takes over its id
            return self._twins.setdefault(id(value), (value, torch.Generator().manual_seed(value.initial_seed())))[1]
        return value


def same_numbers(device: torch.device | str) -> AbstractContextManager:
    """Return a context in which the device draws what the CPU draws."""
    return nullcontext() if torch.device(device).type == "cpu" else DrawnOnCPU()


def agree(compute: Callable[[str, float], Iterable[Tensor]], device: str, floor: float) -> Values:
    """Compute on the CPU and on the device, and fail unless both agree.

    Some computations amplify rounding, and by how much cannot be told beforehand: iterations that stop by a tolerance,
    first steps of Adam, maxima. So the CPU computes a second time, from data that are changed by a millionth, and the
    device may differ by ten times the effect of that, or by ``floor``.

    Parameters
    ----------
    compute : takes a device and the relative change of its data; gives tensors.
    floor : relative difference, in the Euclidean norm, that is allowed in any case.
    """
    with torch.random.fork_rng(devices=[]):
        reference = _results(compute, "cpu", 0.0)
        results = _results(compute, device, 0.0)
        # the CPU against itself needs no allowance
        nearby = reference if device == "cpu" or not PERTURBATION else _results(compute, "cpu", PERTURBATION)
    sensitivity = max(difference(a, b) for a, b in zip(nearby, reference, strict=True))
    allowed = max(floor, 10 * sensitivity)
    worst = max(difference(a, b) for a, b in zip(results, reference, strict=True))
    if not worst <= allowed:
        raise FailedError(f"differs from the CPU by {worst:.1e} of its norm, and {allowed:.1e} is allowed")
    return {"difference": float(f"{worst:.2g}"), "allowed": float(f"{allowed:.2g}")}


def _results(compute: Callable[[str, float], Iterable[Tensor]], device: str, change: float) -> list[Tensor]:
    torch.manual_seed(0)
    with same_numbers(device):
        results = list(compute(device, change))
    for result in results:
        if result.device.type != torch.device(device).type:
            raise FailedError(f"a result lies on {result.device}, not on {device}")
        if not result.isfinite().all():
            raise FailedError(f"a result on {device} is not finite")
    return [result.detach().cpu() for result in results]


def difference(result: Tensor, reference: Tensor) -> float:
    """Norm of the difference over the norm of the reference."""
    if result.shape != reference.shape or result.dtype != reference.dtype:
        return float("inf")
    wide = torch.complex128 if reference.is_complex() else torch.float64
    x, y = result.to(wide), reference.to(wide)
    return float((x - y).norm() / y.norm().clamp_min(1e-30))


def perturbed(x: Tensor, change: float) -> Tensor:
    """Multiply every number by one plus a little noise, always the same."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x.device)
    return x * (1 + change * noise) if change else x
