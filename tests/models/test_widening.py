"""Widening: the same function at first, and all weights can learn."""

from functools import partial

import pytest
import torch
from torch import nn

from spinwarp.errors import InputError
from spinwarp.models.residual_unet import ComplexResidualUNet
from spinwarp.models.unet import MagnitudeUNet
from spinwarp.models.unrolled import UnrolledNet
from spinwarp.models.widening import widen


def residual(*widths: int, blocks: int = 1, seed: int = 0) -> ComplexResidualUNet:
    torch.manual_seed(seed)
    return ComplexResidualUNet(widths, blocks, periodic=True)


@pytest.mark.parametrize("widths", [(4, 8, 8), (4, 8, 12), (8, 8, 8), (4, 12, 24), (6, 12, 24)])
def test_a_widened_network_computes_the_same_and_each_weight_gets_a_gradient(widths: tuple[int, ...]) -> None:
    narrow, wide = residual(4, 8, 8, blocks=2), residual(*widths, blocks=2, seed=1)
    assert (widen(narrow, wide) == "") == (widths == (4, 8, 8))
    image, level = torch.randn(2, 1, 21, 27, dtype=torch.complex64), torch.tensor([0.1, 0.5])
    expected = narrow(image, level)
    # rounding: float32 sums of at most 24 * 9 terms, in another order
    torch.testing.assert_close(wide(image, level), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    wide(image, level).abs().square().sum().backward()
    narrow(image, level).abs().square().sum().backward()
    assert wide.unet.last.weight.grad is not None
    # the new channels are not listened to, but what would listen has a gradient: they are not lost
    assert (wide.unet.last.weight.grad[:, : widths[0]].flatten(1).abs().amax(1) > 0).all()
    assert wide.unet.last.weight.grad.abs().amax((0, 2, 3)).min() > 0


def test_what_belongs_to_the_network_around_it_is_copied() -> None:
    narrow = UnrolledNet(partial(residual, 4, 8), n_unrolls=3)
    with torch.no_grad():
        narrow.momentum.fill_(0.25)
    wide = UnrolledNet(partial(residual, 4, 16, seed=1), n_unrolls=3)
    widen(narrow, wide)
    assert torch.equal(wide.momentum, narrow.momentum)


@pytest.mark.parametrize(
    ("narrow", "wide", "message"),
    [
        (partial(residual, 4, 8), partial(residual, 4, 6), "does not hold"),
        (partial(residual, 4, 8), partial(residual, 4, 8, blocks=2), "more than widths"),
        (
            partial(MagnitudeUNet, channels=2, pools=1),
            partial(MagnitudeUNet, channels=4, pools=1),
            "only the widths of a ResidualUNet",
        ),
    ],
)
def test_networks_that_differ_otherwise_are_refused(narrow: partial, wide: partial, message: str) -> None:
    there: nn.Module = narrow()
    with pytest.raises(InputError, match=message):
        widen(there, wide())
