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
    wider = ""
    prefixes = [name for name, module in wide.named_modules() if isinstance(module, ResidualUNet)]
    for name, new in state.items():
        old = weights[name]
        if old.shape == new.shape:
            new.copy_(old)
            continue
        if not any(name.startswith(f"{prefix}." if prefix else "") for prefix in prefixes):
            raise InputError(
                f"{name} is {tuple(new.shape)}, not {tuple(old.shape)}: only a ResidualUNet can be widened"
            )
        if old.shape[2:] != new.shape[2:] or any(n < m for n, m in zip(new.shape, old.shape, strict=True)):
            raise InputError(f"{name} is {tuple(new.shape)}, which does not hold {tuple(old.shape)}")
        wider = wider or name
        owner = wide.get_submodule(name.rpartition(".")[0])
        _fill(*((x.transpose(0, 1) for x in (new, old)) if isinstance(owner, nn.ConvTranspose2d) else (new, old)))
    return wider


def _fill(new: Tensor, old: Tensor) -> None:
    """Fill weights (out, in, kernel) in place."""
    n_out, n_in = old.shape[:2]
    new[:n_out, :n_in] = old
    new[:n_out, n_in:] = 0
