"""What networks of complex numbers have in common."""

from typing import Any

from torch import Tensor, nn


class ComplexNetwork(nn.Module):
    """A network of complex images or k-space around networks of real channels, of which the latter are compiled.

    ``torch.compile`` writes no code for complex numbers, and unrolled it would compile every cascade by itself; the
    networks inside are of real numbers, and cascades of one shape share one compiled graph. The names of the weights
    stay as they are, and a copy of the network is not compiled.
    """

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the networks inside, at their first call; arguments as for :func:`torch.compile`."""
        for child in self.children():
            for network in child if isinstance(child, nn.ModuleList) else [child]:
                network.compile(*args, **kwargs)


class Layers(nn.Sequential):
    """A sequence that can be compiled: ``torch.compile`` passes over functions of torch itself, such as its own's."""

    def forward(self, x: Tensor) -> Tensor:
        """Call one layer after the other."""
        for layer in self:
            x = layer(x)
        return x
