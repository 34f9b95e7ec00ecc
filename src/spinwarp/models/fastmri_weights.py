"""Load fastMRI's published state dicts: rename the weights and infer the architecture from the tensors' shapes."""

import re
from functools import partial

from torch import Tensor, nn

from spinwarp.errors import InputError
from spinwarp.models.loading import allowance
from spinwarp.models.norm_unet import NormUNet
from spinwarp.models.unet import MagnitudeUNet
from spinwarp.models.varnet import SensitivityNet, VarNet

State = dict[str, Tensor]


def network_from_fastmri(state: State) -> nn.Module:
    """Build the network that a fastMRI state dict belongs to, with its weights.

    Accepts state dicts of ``fastmri.models`` (``Unet``, ``VarNet``) and of Lightning checkpoints, whose names begin
    with ``unet.`` or ``varnet.``.

    Raises
    ------
    InputError : if the names or shapes fit neither network.
    """
    state = {re.sub(r"^(varnet|unet)\.", "", name): value for name, value in state.items()}
    # Lightning checkpoints also hold the window of the SSIM loss
    state = {name: value for name, value in state.items() if not name.startswith("loss.")}
    if empty := [name for name, value in state.items() if not value.numel()]:
        raise InputError(f"the weights {empty[0][:80]} are empty; get the file again")
    try:
        with allowance(sum(value.numel() for value in state.values())):
            network = _varnet(state) if any(name.startswith("cascades.") for name in state) else _magnitude_unet(state)
        network.load_state_dict({_our_name(name): value for name, value in _stack_steps(state).items()})
    except InputError:
        raise
    except (LookupError, RuntimeError, TypeError, ValueError, ArithmeticError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"these weights are neither fastMRI's U-Net nor its VarNet ({first}); for a checkpoint of spinwarp use "
            f"recon=checkpoint"
        ) from error
    return network


def _magnitude_unet(state: State) -> nn.Module:
    first = state["down_sample_layers.0.layers.0.weight"]
    if first.shape[1] != 1:
        raise InputError(f"fastMRI's U-Net baseline has one input channel; these weights have {first.shape[1]}")
    return MagnitudeUNet(channels=first.shape[0], pools=_count(state, r"down_sample_layers\.(\d+)\."))


def _varnet(state: State) -> nn.Module:
    def norm_unet(prefix: str) -> partial[NormUNet]:
        first = state[f"{prefix}unet.down_sample_layers.0.layers.0.weight"]
        pools = _count(state, rf"{re.escape(prefix)}unet\.down_sample_layers\.(\d+)\.")
        return partial(NormUNet, channels=first.shape[0], pools=pools)

    return VarNet(
        regulariser=norm_unet("cascades.0.model."),
        n_cascades=_count(state, r"cascades\.(\d+)\."),
        sensitivity=partial(SensitivityNet, network=norm_unet("sens_net.norm_unet.")),
    )


def _count(state: State, pattern: str) -> int:
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def _stack_steps(state: State) -> State:
    """Stack the reference's step sizes, one per cascade, into our single vector."""
    steps = sorted((int(name.split(".")[1]), name) for name in state if name.endswith("dc_weight"))
    if not steps:
        return state
    joined = {name: value for name, value in state.items() if not name.endswith("dc_weight")}
    return {**joined, "steps": next(iter(state.values())).new_tensor([float(state[name]) for _, name in steps])}


_RENAMES = (
    (r"^sens_net\.norm_unet\.", "sensitivity.network."),
    (r"^cascades\.(\d+)\.model\.", r"regularisers.\1."),
    (r"down_sample_layers\.(\d+)\.layers\.", r"down.\1."),
    (r"up_transpose_conv\.(\d+)\.layers\.", r"up.\1."),
    (r"up_conv\.(\d+)\.0\.layers\.", r"merge.\1."),
    (r"up_conv\.(\d+)\.layers\.", r"merge.\1."),
    (r"up_conv\.\d+\.1\.", "head."),
    (r"(^|\.)conv\.layers\.", r"\1bottom."),
)


def _our_name(name: str) -> str:
    is_plain_unet = name.startswith(("down_sample_layers.", "up_conv.", "up_transpose_conv.", "conv."))
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return f"unet.{name}" if is_plain_unet else name
