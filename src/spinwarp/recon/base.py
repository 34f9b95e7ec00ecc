"""The one interface of all methods."""

import dataclasses
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn

from spinwarp.acquisition import Acquisition, Reconstruction

log = logging.getLogger("spinwarp")


class Reconstructor(ABC):
    """A method: from what was measured to an image in the units of the data.

    Calling it changes neither the acquisition nor the reconstructor. Whatever is random comes from the generator, so
    that two calls with equal generators agree. One that takes seconds reports how far it is
    (:func:`spinwarp.progress.report`).
    """

    #: what its checkpoint says of the network: ``name``, ``trained_on``; empty without a checkpoint
    record: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        """Reconstruct a batch."""

    def to(self, device: torch.device | str) -> Self:  # noqa: ARG002
        """Move what the method holds to a device; most hold nothing."""
        return self


class NetworkReconstructor(Reconstructor):
    """A trained network as a method.

    Parameters
    ----------
    network : ``Acquisition`` to complex image ``(batch, h, w)``, or to a ``Reconstruction`` if it knows more of it.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:  # noqa: ARG002
        """Run the network."""
        with torch.inference_mode():
            return as_reconstruction(self.network(acquisition))

    def to(self, device: torch.device | str) -> Self:
        """Move the network."""
        self.network.to(device)
        return self


def as_reconstruction(output: Tensor | Reconstruction) -> Reconstruction:
    """Return what a network returned as a reconstruction: most return the complex image alone."""
    return output if isinstance(output, Reconstruction) else Reconstruction(image=output)


def reconstruct_batch(
    method: Reconstructor, acquisition: Acquisition, generator: Generator, names: Sequence[str]
) -> Reconstruction:
    """Run a method on the items of which something was measured; the others have an image of zeros, and a log line.

    A generative prior would invent an image there, of a brightness that nothing determines.

    Parameters
    ----------
    method, acquisition, generator : see :class:`Reconstructor`.
    names : of the items, for the log.

    Returns
    -------
    reconstruction : without deviation if all items are empty, else with one of zero for those that are.
    """
    measured = (acquisition.kspace != 0).flatten(1).any(1)
    if measured.all():
        return method(acquisition, generator=generator)
    for name, has_data in zip(names, measured.tolist(), strict=True):
        if not has_data:
            log.warning("%s holds nothing but zeros, so its image is zero", name)
    b, _, h, w = acquisition.kspace.shape
    if not measured.any():
        return Reconstruction(acquisition.kspace.new_zeros(b, h, w))
    fields = {f.name: getattr(acquisition, f.name) for f in dataclasses.fields(acquisition)}
    part = {name: value[measured] for name, value in fields.items() if isinstance(value, Tensor)}
    headers = tuple(
        header for header, has_data in zip(acquisition.headers, measured.tolist(), strict=False) if has_data
    )
    result = method(dataclasses.replace(acquisition, **part, headers=headers), generator=generator)

    def spread(x: Tensor, dim: int) -> Tensor:
        whole = x.new_zeros(*x.shape[:dim], b, *x.shape[dim + 1 :])
        return whole.index_copy(dim, measured.nonzero()[:, 0], x)

    return Reconstruction(
        spread(result.image, 0),
        None if result.std is None else spread(result.std, 0),
        None if result.samples is None else spread(result.samples, 1),
    )
