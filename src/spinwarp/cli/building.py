"""What ``train.py`` trains: the module of a configuration, in the precision and form that are asked for."""

import logging
from inspect import signature
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from spinwarp.errors import InputError

if TYPE_CHECKING:
    from spinwarp.training import SupervisedModule

log = logging.getLogger("spinwarp")

#: of ``trainer.precision``; networks alone change theirs, so that the ones of Lightning which convert data are not here
PRECISIONS = ("32", "32-true", "bf16-mixed", "16-mixed", "auto")


def training_precision(config: DictConfig) -> str:
    """Return the precision that Lightning trains in: ``auto`` is bf16-mixed where the device has bf16 natively.

    Raises
    ------
    InputError : if the precision is none of :data:`PRECISIONS`, or float16 on a CPU.
    """
    import torch

    from spinwarp.channels import auto_is_bf16
    from spinwarp.hardware import has_bf16

    precision, accelerator = str(config.trainer.get("precision", "32")), config.trainer.get("accelerator", "auto")
    if precision not in PRECISIONS:
        raise InputError(f"trainer.precision={precision} is not one of 32, bf16-mixed, 16-mixed, auto")
    gpu = torch.accelerator.current_accelerator()
    device = "cpu" if accelerator == "cpu" or gpu is None else gpu.type
    if precision == "16-mixed" and accelerator in ("cpu", "auto") and device == "cpu":
        raise InputError("trainer.precision=16-mixed needs a GPU; on a CPU use trainer.precision=auto")
    if precision == "bf16-mixed" and not has_bf16(device):
        log.warning(
            "trainer.precision=bf16-mixed is slow: this %s has no native bf16; try trainer.precision=auto", device
        )
    if precision == "auto":
        return "bf16-mixed" if auto_is_bf16(device) else "32-true"
    return precision


def build_module(config: DictConfig) -> "SupervisedModule":
    """Build the module of a training configuration; with ``compile=true`` its network compiles at its first step.

    Raises
    ------
    InputError : if ``net.checkpoint`` is asked of a network that has no such option.
    """
    from hydra.utils import get_class, instantiate

    net = config.model.net
    if net.get("checkpoint") and "checkpoint" not in signature(get_class(net._target_)).parameters:
        raise InputError(
            f"{net._target_.rpartition('.')[2]} has no cascades to compute again (net.checkpoint), which trainer=8gb "
            f"asks for; train it with trainer=gpu trainer.precision=bf16-mixed"
        )
    module: Any = instantiate(config.model)
    if config.get("compile"):
        module.net.compile()
    return module
