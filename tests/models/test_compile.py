"""torch.compile in place: the same numbers and the same names of the weights.

The backend here traces and writes no code (inductor takes minutes); what is traced and shared is the same.
"""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from spinwarp.models.cascades import CascadeNet
from spinwarp.models.data_steps import KSpaceGradient
from spinwarp.models.map_net import MapNet
from spinwarp.models.modl import MoDL
from spinwarp.models.norm_unet import NormUNet
from spinwarp.models.prompt_unet import PromptUNet
from spinwarp.models.residual_cnn import ResidualCNN
from spinwarp.models.varnet import SensitivityNet, VarNet

# dynamo looks at the gradient of what it traces, and says so by itself
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

SMALL = partial(NormUNet, channels=2, pools=1)
PROMPT = partial(PromptUNet, channels=2, pools=1, prompt_size=4)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "varnet": partial(VarNet, SMALL, 3, partial(SensitivityNet, network=SMALL)),
    "varnet, checkpointed": partial(VarNet, SMALL, 3, checkpoint=True),
    "modl": partial(MoDL, partial(ResidualCNN, 4, 2), 2, 2),
    "cascades": partial(CascadeNet, PROMPT, KSpaceGradient, partial(MapNet, network=PROMPT), n_cascades=3),
}


@pytest.fixture(params=NETWORKS)
def pair(request: pytest.FixtureRequest) -> list[nn.Module]:
    """The network as it is and compiled, of the same weights."""
    torch.compiler.reset()
    counters.clear()
    torch.manual_seed(0)
    plain = NETWORKS[request.param]()
    compiled = copy.deepcopy(plain)
    compiled.compile(backend="eager")
    return [plain, compiled]


def test_a_compiled_network_gives_the_same_image_gradients_and_names(pair: list[nn.Module], make_acquisition) -> None:
    acquisition, results = make_acquisition(), []
    for network in pair:
        image = network(acquisition)
        image.abs().square().sum().backward()
        results.append([image.detach(), *(p.grad for p in network.parameters() if p.requires_grad)])
    assert all(map(torch.equal, *results))  # the operations are the same
    assert list(pair[0].state_dict()) == list(pair[1].state_dict())
    # cascades share one graph; another is that of the maps, or of the first cascade, whose input needs no gradient
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]
    assert torch.equal(copy.deepcopy(pair[1])(acquisition), results[0][0])
