"""Start a wide network as a narrow one that is trained: the same images, with room to learn more."""

import torch
from torch import Tensor, nn

from spinwarp.errors import InputError
from spinwarp.models.residual_unet import ResidualUNet


@torch.no_grad()
def widen(narrow: nn.Module, wide: nn.Module) -> str:
    """Let a network compute what one with fewer channels computes.

    The first channels of each layer get the weights of the narrow network. The others keep their random weights, but no
    channel of the narrow network listens to them: these weights are zero, and training changes them. Other parameters
    are copied.

    Parameters
    ----------
    narrow, wide : networks with the same layers. Only a :class:`~spinwarp.models.residual_unet.ResidualUNet` may have
        other widths: it adds the results of layers, and never concatenates them.

    Returns
    -------
    name : of the first weight with more channels; empty if there is none.

    Raises
    ------
    InputError : if the networks differ in anything but those widths, or ``wide`` is narrower somewhere.

    References
    ----------
    Chen, Goodfellow and Shlens, "Net2Net: accelerating learning via knowledge transfer", ICLR 2016, has the idea; there
    the new channels copy old ones.
    """
    weights, state = narrow.state_dict(), wide.state_dict()
    if weights.keys() != state.keys():
        raise InputError(f"the networks differ in more than widths, such as {min(weights.keys() ^ state.keys())}")
    inside = [f"{name}." if name else "" for name, module in wide.named_modules() if isinstance(module, ResidualUNet)]
    wider = [name for name, new in state.items() if new.shape != weights[name].shape]
    for name in wider:
        old, new = weights[name].shape, state[name].shape
        ends = (new[1] != old[1] and name.endswith("first.weight")) or (
            new[0] != old[0] and name.endswith("last.weight")
        )
        if ends or not any(name.startswith(prefix) for prefix in inside):
            raise InputError(f"{name} is {tuple(new)}, not {tuple(old)}: only the widths of a ResidualUNet may differ")
        if old[2:] != new[2:] or any(n < m for n, m in zip(new, old, strict=True)):
            raise InputError(
                f"{name} is {tuple(new)}, which does not hold {tuple(old)}; use the widths of the trained one, or more"
            )
    for name, new in state.items():
        turned = isinstance(wide.get_submodule(name.rpartition(".")[0]), nn.ConvTranspose2d)
        _fill(*((x.transpose(0, 1) if turned and name in wider else x) for x in (new, weights[name])))
    return wider[0] if wider else ""


def _fill(new: Tensor, old: Tensor) -> None:
    """Fill weights (out, in, kernel) in place; others have the same shape."""
    if new.shape == old.shape:
        new.copy_(old)
        return
    n_out, n_in = old.shape[:2]
    new[:n_out, :n_in] = old
    new[:n_out, n_in:] = 0
