"""The interface of all methods."""

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
    """A method: from measured data to an image in the units of the data.

    A call changes neither the acquisition nor the reconstructor. All random numbers come from the generator, so two
    calls with equal generators agree. A method that takes seconds reports its progress
    (:func:`spinwarp.progress.report`).
    """

    #: what the checkpoint says about the network: ``name``, ``trained_on``; empty without a checkpoint
    record: Mapping[str, Any] = MappingProxyType({})
    #: slices that it sees at once, an odd number; the data have to bring them
    n_adjacent: int = 1

    @abstractmethod
    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        """Reconstruct a batch."""

    def to(self, device: torch.device | str) -> Self:
        """Move the networks and methods that this method holds to a device; most hold none."""
        for name, held in list(vars(self).items()):
            if isinstance(held, nn.Module | Reconstructor):
                setattr(self, name, held.to(device))
        return self


class NetworkReconstructor(Reconstructor):
    """A trained network as a method.

    Parameters
    ----------
    network : ``Acquisition`` to complex image ``(batch, h, w)``, or to a ``Reconstruction``.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)
        self.n_adjacent = int(getattr(network, "n_adjacent", 1))

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:  # noqa: ARG002
        """Run the network."""
        with torch.inference_mode():
            return as_reconstruction(self.network(acquisition))


def as_reconstruction(output: Tensor | Reconstruction) -> Reconstruction:
    """Return the output of a network as a reconstruction; most networks return only the complex image."""
    return output if isinstance(output, Reconstruction) else Reconstruction(image=output)


def reconstruct_batch(
    method: Reconstructor, acquisition: Acquisition, generator: Generator, names: Sequence[str]
) -> Reconstruction:
    """Run a method on the items that have data; the others get an image of zeros, and a log line.

    A generative prior would invent an image for them, of arbitrary brightness.

    Parameters
    ----------
    method, acquisition, generator : see :class:`Reconstructor`.
    names : of the items, for the log.

    Returns
    -------
    reconstruction : empty items have a standard deviation of zero; if all are empty there is none.
    """
    measured = (acquisition.kspace != 0).flatten(1).any(1)
    if measured.all():
        return method(acquisition, generator=generator)
    for name, has_data in zip(names, measured.tolist(), strict=True):
        if not has_data:
            log.warning("%s has only zeros in k-space, so its image is zero", name)
    b, _, h, w = acquisition.kspace.shape
    if not measured.any():
        return Reconstruction(acquisition.kspace.new_zeros(b, h, w))
    result = method(_those(acquisition, measured), generator=generator)

    def spread(x: Tensor, dim: int) -> Tensor:
        whole = x.new_zeros(*x.shape[:dim], b, *x.shape[dim + 1 :])
        return whole.index_copy(dim, measured.nonzero()[:, 0], x)

    return Reconstruction(
        spread(result.image, 0),
        None if result.std is None else spread(result.std, 0),
        None if result.samples is None else spread(result.samples, 1),
    )


def _those(acquisition: Acquisition, chosen: Tensor) -> Acquisition:
    """Return the items of a batch where ``chosen``, bool ``(batch,)``."""
    fields = {f.name: getattr(acquisition, f.name) for f in dataclasses.fields(acquisition)}
    part = {name: value[chosen] for name, value in fields.items() if isinstance(value, Tensor)}
    headers = tuple(
        header for header, is_chosen in zip(acquisition.headers, chosen.tolist(), strict=False) if is_chosen
    )
    adjacent = tuple(_those(one, chosen) for one in acquisition.adjacent)
    return dataclasses.replace(acquisition, **part, headers=headers, adjacent=adjacent)
