"""The gradient of the loss by each line of a learned mask, sampled or not, in networks with a data consistency."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition
from spinwarp.fourier import fftc, ifftc
from spinwarp.models.cascades import CascadeNet
from spinwarp.models.data_steps import ADMM, ConjugateGradient, ImageGradient, KSpaceGradient
from spinwarp.models.modl import MoDL
from spinwarp.models.norm_unet import NormUNet, PlainUNet
from spinwarp.models.residual_unet import ComplexResidualUNet
from spinwarp.models.unrolled import UnrolledNet
from spinwarp.models.varnet import VarNet

UNET = partial(NormUNet, channels=2, pools=1)


@pytest.fixture
def scan(make_acquisition: Any) -> tuple[Acquisition, Tensor]:
    """A whole scan, and a mask of two thirds of its lines."""
    whole = make_acquisition(n_coils=3, shape=(6, 16), batch=1, acceleration=1)
    lines = torch.ones(1, 1, 1, 16)
    lines[..., [0, 2, 3, 13, 15]] = 0
    return whole, lines


def precise(whole: Acquisition, lines: Tensor) -> tuple[Acquisition, Tensor]:
    assert whole.maps is not None
    wide = replace(whole, kspace=whole.kspace.to(torch.complex128), maps=whole.maps.to(torch.complex128))
    return wide, lines.double()


def sampled(whole: Acquisition, lines: Tensor) -> Acquisition:
    """The scan by a mask with a gradient, as training makes it."""
    return replace(whole, kspace=whole.kspace * lines, mask=lines.detach() > 0.5, soft_mask=lines)


def gradient(network: nn.Module, whole: Acquisition, lines: Tensor) -> Tensor:
    lines = lines.clone().requires_grad_()
    distance(network(sampled(whole, lines)), whole).backward()
    assert lines.grad is not None
    return lines.grad.flatten()


def distance(image: Tensor, whole: Acquisition) -> Tensor:
    """The squared error, in the units of the image of all lines."""
    target = (ifftc(whole.kspace) * whole.maps.conj()).sum(1)
    return (image - target).abs().square().sum() / target.abs().square().sum()


class Nothing(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return torch.zeros_like(image)


def test_it_is_that_of_weighted_least_squares(scan: tuple[Acquisition, Tensor]) -> None:
    whole, lines = precise(*scan)
    damping = 0.05
    net = MoDL(Nothing, n_unrolls=1, cg_iterations=60, weight=damping).double()
    found = gradient(net, whole, lines)

    weights = lines.flatten().clone().requires_grad_()  # x = (A^H P A + d)^-1 (A^H P y + d z), z = A^H P y, row by row
    dft = fftc(torch.eye(16, dtype=torch.complex128), (-1,)).T
    rows = ifftc(whole.kspace[0], (-2,))
    system = torch.einsum("kw,chw->hckw", dft, whole.maps[0])
    weighted = system.conj() * weights[:, None]
    seen = torch.einsum("hckw,chk->hw", weighted, rows)
    normal = torch.einsum("hckw,hckv->hwv", weighted, system)
    image = torch.linalg.solve(normal + damping * torch.eye(16), (seen + damping * seen)[..., None])[..., 0]
    distance(image[None], whole).backward()
    assert weights.grad is not None
    torch.testing.assert_close(found, weights.grad, rtol=1e-6, atol=1e-9)  # the iterations end at 1e-8
    assert int((found[lines.flatten() == 0] != 0).sum()) == 5


@pytest.mark.parametrize(
    "network",
    [
        *(
            partial(CascadeNet, partial(PlainUNet, channels=2, pools=1), step, n_cascades=2)
            for step in (
                KSpaceGradient, ImageGradient, ConjugateGradient,
                partial(ADMM, iterations=2, channels=2),
            )
        ),
        partial(CascadeNet, partial(PlainUNet, channels=2, pools=1), KSpaceGradient, n_cascades=2, buffer=True),
        partial(VarNet, UNET, 2),
    ],
)  # fmt: skip
def test_it_is_the_slope_of_the_loss(scan: tuple[Acquisition, Tensor], network: Any) -> None:
    torch.manual_seed(0)
    whole, lines = precise(*scan)
    net, step = network().double(), 1e-3
    found = gradient(net, whole, lines)

    def loss(shifted: Tensor) -> float:
        with torch.no_grad():
            return float(distance(net(replace(sampled(whole, shifted), mask=lines > 0.5)), whole))

    for line in range(16):
        shift = torch.zeros_like(lines)
        shift[..., line] = step
        slope = (loss(lines + shift) - loss(lines - shift)) / (2 * step)
        # the networks normalise in float32, and the step is wrong by its square; both are about 1e-5, the slopes .3
        assert float(found[line]) == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize(
    "network",
    [
        partial(VarNet, UNET, 2, update_domain="image"),
        partial(UnrolledNet, partial(ComplexResidualUNet, widths=[4]), n_unrolls=2, cg_iterations=2),
    ],
)
def test_it_reaches_lines_that_are_not_sampled(scan: tuple[Acquisition, Tensor], network: Any) -> None:
    torch.manual_seed(0)
    whole, lines = scan
    found = gradient(network(), whole, lines)
    assert found.isfinite().all()
    assert (found[lines.flatten() == 0] != 0).all()
    # without a gradient it is the image of the plain mask
    net = network()
    with torch.no_grad():
        soft, plain = net(sampled(whole, lines)), net(replace(sampled(whole, lines), soft_mask=None))
    torch.testing.assert_close(soft, plain)
