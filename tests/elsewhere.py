"""A device that is not the CPU, for machines that have no other: finds tensors that were made or left on the wrong one.

Its tensors compute on the CPU but say that they are on ``meta``. To use them beside a tensor or a generator of the CPU
is an error, as it is on a GPU. Torch's autograd works with ``meta`` on every machine.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest import mock

import torch
import torch._dynamo  # reads the class of generators, which is replaced below
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
_MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
# take their indices from the CPU too
_INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_")
# a view that is not computed before it is needed, by what lies above this device
_AT_ONCE = {torch.ops.aten._conj.default: torch.conj_physical, torch.ops.aten._neg_view.default: torch.neg}
_CPU_GENERATOR = torch.Generator


class Elsewhere(Tensor):
    """A tensor of the device; ``inner`` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=DEVICE,
        )  # fmt: skip
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(operation, args, kwargs or {})


class _Device(TorchDispatchMode):
    """Makes new tensors there that are asked for there."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(operation, args, kwargs or {})


def _compute(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = tree_leaves((args, kwargs))
    there = any(isinstance(x, Elsewhere) for x in leaves)
    name = operation.overloadpacket.__name__
    # single numbers of the CPU may be used with tensors of a GPU, but not joined to them
    least = 0 if name in ("cat", "stack") else 1
    strangers = [x for x in leaves if isinstance(x, Tensor) and not isinstance(x, Elsewhere) and x.ndim >= least]
    assert not any(x.is_meta for x in strangers), f"{operation} was given a tensor without numbers"
    asked = kwargs.get("device")
    if there and strangers and operation not in _MOVES and name not in _INDEXED:
        raise RuntimeError(f"{operation} was given tensors of both devices, as of {tuple(strangers[0].shape)}")
    stays = torch.device(asked).type == DEVICE.type if asked is not None else there
    if operation is torch.ops.aten.copy_.default:
        stays = isinstance(args[0], Elsewhere)
    for generator in leaves:
        if isinstance(generator, _CPU_GENERATOR) and (id(generator) in Generator.seen) != stays:
            raise RuntimeError(f"{operation} was given a generator of the other device")
    if operation is torch.ops.aten._local_scalar_dense.default:
        stays = False
    if there and operation in _AT_ONCE:
        return Elsewhere(_AT_ONCE[operation](args[0].inner))
    inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
    if asked is not None:
        inner_kwargs["device"] = torch.device("cpu")
    out = operation(*inner_args, **inner_kwargs)
    if not stays:
        return out
    wrapped = tree_map(lambda x: Elsewhere(x) if isinstance(x, Tensor) and not isinstance(x, Elsewhere) else x, out)
    return return_and_correct_aliasing(operation, args, kwargs, wrapped) if there else wrapped


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, Elsewhere) else x


class Generator(_CPU_GENERATOR):
    """A generator of the device. Torch hands operations another Python object for it, always the same; it is kept."""

    device = DEVICE
    seen: ClassVar[dict[int, tuple[torch.Generator, torch.Generator]]] = {}


class _Seen(TorchDispatchMode):
    """Notes the object that an operation is given for a generator."""

    generator: torch.Generator

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.generator = (kwargs or {}).get("generator")
        return operation(*args, **(kwargs or {}))


class _AnyGenerator(_CPU_GENERATOR):
    """What stands for ``torch.Generator``: makes one of either device."""

    def __new__(cls, device: Any = "cpu") -> torch.Generator:
        if torch.device(device).type != DEVICE.type:
            return _CPU_GENERATOR()
        made = Generator()
        state, x = made.get_state(), torch.empty(1)
        with _Seen() as seen:
            Tensor.normal_(x, generator=made)
        made.set_state(state)
        Generator.seen[id(seen.generator)] = (seen.generator, made)
        return made


class _FromNumbers(TorchFunctionMode):
    """Makes tensors of plain numbers, which torch moves without telling anybody."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            del kwargs["device"]
            return function(*args, **kwargs).to(DEVICE)
        if function in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[1], list):
            args = (args[0], torch.tensor(args[1]), *args[2:])
        return function(*args, **kwargs)


_AUTOCAST = torch.autocast
_INFERENCE_MODE = torch.inference_mode


def _autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
    return _AUTOCAST("cpu" if device_type == DEVICE.type else device_type, *args, **kwargs)


def _inference_mode(mode: bool = True) -> Any:
    return torch.no_grad() if mode else _INFERENCE_MODE(False)


_ADAM = torch.optim.Adam


def _adam(*args: Any, fused: bool = False, **kwargs: Any) -> torch.optim.Adam:
    return _ADAM(*args, **kwargs)


@contextmanager
def elsewhere() -> Iterator[str]:
    """Within the block there is a device of the name that is given.

    Inference mode is no more than ``no_grad`` there, for torch cannot wrap its tensors, and Adam is not fused.
    """
    tolist = Tensor.tolist  # torch refuses it for classes such as this one, and does it for a GPU
    with (
        mock.patch("torch.Generator", _AnyGenerator),
        mock.patch("torch.autocast", _autocast),
        mock.patch("torch.inference_mode", _inference_mode),
        mock.patch("torch.optim.Adam", _adam),
        mock.patch.object(Tensor, "tolist", lambda x: tolist(_inner(x))),
        _FromNumbers(),
        _Device(),
    ):
        yield DEVICE.type
