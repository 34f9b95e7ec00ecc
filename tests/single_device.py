"""A device that has no float64, as Apple's MPS, simulated on the CPU.

Tensors on it are wrappers that say so. Whatever would put a double number there, or mix tensors of
both devices, raises what PyTorch raises on such a device.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("lazy")  # a name that nothing else takes here
_DOUBLE = (torch.float64, torch.complex128)
_ATEN = torch.ops.aten
# what is lazy about conjugates and signs is above the wrappers, which would lose it
_AT_ONCE = {_ATEN._conj.default: _ATEN.conj_physical.default, _ATEN._neg_view.default: _ATEN.neg.default}


class OnDevice(Tensor):
    """A tensor that says it is on :data:`DEVICE`; ``inner`` holds its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnDevice":
        if inner.dtype in _DOUBLE:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        made: OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            dtype=inner.dtype,
            device=DEVICE,
            storage_offset=inner.storage_offset(),
        )
        made.inner = inner
        return made

    def tolist(self) -> Any:
        return self.inner.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"can't convert {DEVICE} tensor to numpy. Use Tensor.cpu() first.")

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


class SingleDevice(TorchDispatchMode):
    """Within this context tensors can be made on :data:`DEVICE` and moved there."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


def run(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU what an operator computes, and say where the result is."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    here = any(isinstance(x, OnDevice) for x in tensors)
    copies = function in (_ATEN._to_copy.default, _ATEN.copy_.default)
    if here and not copies and any(not isinstance(x, OnDevice) and x.ndim > 0 for x in tensors):
        raise RuntimeError(f"{function}: expected all tensors to be on the same device, found {DEVICE} and cpu")
    target = kwargs.get("device")
    if target is not None:
        here = torch.device(target).type == DEVICE.type
        kwargs = {**kwargs, "device": torch.device("cpu")}
    inner = [x.inner if isinstance(x, OnDevice) else x for x in tensors]
    unwrapped = iter(inner)
    args, kwargs = tree_map(lambda x: next(unwrapped) if isinstance(x, Tensor) else x, (tuple(args), kwargs))
    result = _AT_ONCE.get(function, function)(*args, **kwargs)
    # what was changed in place stays the same object
    known = {id(after): before for before, after in zip(tensors, inner, strict=True)}

    def placed(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if id(x) in known:
            return known[id(x)]
        return OnDevice(x) if here else x

    return tree_map(placed, result)
