"""Part six: torch.compile. The same image and gradients, unchanged names of weights, and what it brings."""

import copy
from functools import partial

import torch
from torch import Tensor, nn

from gpu.problems import acquisition
from gpu.same_numbers import difference
from gpu.setting import FailedError, Rows, Setting, Values, tensor_cores
from gpu.speed_networks import network, training_step
from gpu.timing import measure


def rows(setting: Setting) -> Rows:
    """A small network first, which shows whether it can be done at all."""
    torch.backends.cudnn.benchmark = True
    return {
        "compiled: numbers and names": partial(same, setting),
        "VarNet step, bf16, compiled": partial(speed, setting, bf16=True),
        "VarNet step, TF32, compiled": partial(speed, setting),
    }


def backend(setting: Setting) -> str:
    """Return inductor; of it a dry run would take minutes, and there the graphs are traced and run as they are."""
    return "inductor" if setting.cuda else "eager"


def same(setting: Setting) -> Values:
    """Hold a compiled VarNet of two cascades against itself."""
    tensor_cores(False)
    small = ("net.n_cascades=2", "net.regulariser.channels=4", "net.regulariser.pools=2")
    plain = network(setting, "varnet", *small)
    compiled = copy.deepcopy(plain)
    compiled.compile(backend=backend(setting))
    if list(plain.state_dict()) != list(compiled.state_dict()):
        raise FailedError("the compiled network has other names of weights")
    image, gradient = _results(plain, setting)
    image_compiled, gradient_compiled = _results(compiled, setting)
    apart = max(difference(image_compiled, image), difference(gradient_compiled, gradient))
    # fused kernels sum in another order; kinks of LeakyReLU make of that more in the gradient
    if not apart <= 1e-2:
        raise FailedError(f"image or gradient differ by {apart:.1e} of their norm, and 1e-2 is allowed")
    return {"difference": float(f"{apart:.2g}"), "allowed": 1e-2, "backend": backend(setting)}


def _results(net: nn.Module, setting: Setting) -> tuple[Tensor, Tensor]:
    image = net(acquisition(4, 64, 48, device=setting.device))
    image.abs().square().sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    return image.detach().cpu(), gradient.cpu()


def speed(setting: Setting, bf16: bool = False) -> Values:
    """A training step of the published size; the first call compiles."""
    tensor_cores(True)
    net = network(setting, "varnet")
    net.compile(backend=backend(setting))
    return measure(training_step(net, list(net.parameters()), setting, bf16), setting)
