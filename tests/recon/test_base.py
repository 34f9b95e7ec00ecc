"""The interface of all methods: what moving one to a device moves."""

from torch import nn

from spinwarp.recon import NetworkReconstructor, ZeroFilled
from spinwarp.recon.conformal import Conformal


def test_moving_a_method_moves_its_network_through_every_method_that_holds_it() -> None:
    network = nn.Linear(2, 2)
    method = Conformal(Conformal(NetworkReconstructor(network), 2.0, 0.9), 3.0, 0.9)
    assert method.to("meta") is method
    assert network.weight.device.type == "meta"


def test_a_method_that_holds_nothing_moves_as_it_is() -> None:
    method = ZeroFilled()
    assert method.to("meta") is method
