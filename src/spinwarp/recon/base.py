"""The one interface of all methods."""

import hashlib
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Generator, Tensor, nn

from spinwarp.acquisition import Acquisition, Example, Reconstruction


class Reconstructor(ABC):
    """A method: from what was measured to an image in the units of the data.

    Calling it changes neither the acquisition nor the reconstructor. Whatever is random comes from the generator, so
    that two calls with equal generators agree. One that takes long says how far it is by
    :func:`spinwarp.progress.report`.
    """

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


def slice_generator(seed: int, example: Example, device: str) -> torch.Generator:
    """Return the generator of a batch's own randomness: it depends on the seed, the volume and the slice alone."""
    key = f"{seed}/{example.volume[0]}/{example.slice[0]}".encode()
    return torch.Generator(device).manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "big"))
