"""Base class of networks on complex numbers, and their compilation."""

from typing import Any

from torch import Tensor, nn


class ComplexNetwork(nn.Module):
    """A network on complex images or k-space that contains networks on real channels; only the latter are compiled.

    ``torch.compile`` does not generate code for complex numbers, and it would compile every cascade of an unrolled
    network separately. Networks on real channels with the same shapes share one compiled graph. The names of the
    weights do not change, and a copy of the network is not compiled.
    """

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the inner networks at their first call; arguments as for :func:`torch.compile`."""
        for child in self.children():
            for network in child if isinstance(child, nn.ModuleList) else [child]:
                network.compile(*args, **kwargs)


class Layers(nn.Sequential):
    """A sequence that can be compiled: ``torch.compile`` skips torch's own ``Sequential.forward``."""

    def forward(self, x: Tensor) -> Tensor:
        """Call one layer after the other."""
        for layer in self:
            x = layer(x)
        return x
