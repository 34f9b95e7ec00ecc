"""The score network at the published size."""

import pytest
import torch
from torch import nn

from spinwarp.errors import InputError
from spinwarp.models.adm_unet import ADMUNet
from spinwarp.models.denoiser import Denoiser


def small(**options: object) -> ADMUNet:
    """Return a small network with weights that are nowhere zero."""
    torch.manual_seed(0)
    net = ADMUNet(**{"width": 32, "multipliers": (1, 2, 2), **options})  # type: ignore[arg-type]
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.05)
    return net


def test_the_defaults_have_as_many_parameters_as_the_published_network() -> None:
    assert sum(p.numel() for p in ADMUNet().parameters()) == 26_002_050


@pytest.mark.parametrize("shape", [(32, 32), (21, 34), (3, 5), (1, 8)])
def test_any_size_comes_back(shape: tuple[int, int]) -> None:
    x = torch.randn(2, 2, *shape)
    with torch.no_grad():
        out = small(attention=(1,))(x, torch.tensor([-3.0, 1.0]))
    assert out.shape == x.shape
    assert out.isfinite().all()


def test_an_image_does_not_depend_on_its_neighbours_in_the_batch() -> None:
    net, x, log_sigma = small(attention=(0, 1)), torch.randn(3, 2, 16, 24), torch.tensor([-4.0, 0.0, 2.0])
    with torch.no_grad():
        together = net(x, log_sigma)
        torch.testing.assert_close(net(x[1:2], log_sigma[1:2]), together[1:2], atol=1e-5, rtol=1e-4)


def test_the_noise_level_changes_the_output() -> None:
    net, x = small(), torch.randn(1, 2, 16, 16).expand(2, -1, -1, -1)
    with torch.no_grad():
        low, high = net(x, torch.tensor([-4.0, 2.0]))
    assert (low - high).norm() > 1e-3 * low.norm()


def test_the_middle_sees_the_whole_image() -> None:
    # by convolutions alone, of one level, a pixel reaches some ten pixels far
    net, x = small(multipliers=(1,), channels=1), torch.zeros(1, 1, 1, 64)
    x.requires_grad_()
    net(x, torch.zeros(1))[..., 0].sum().backward()
    assert x.grad is not None
    assert (x.grad[..., -8:] != 0).all()


def test_every_parameter_gets_a_gradient() -> None:
    net = small(attention=(1,), blocks=2)
    net(torch.randn(1, 2, 8, 8), torch.zeros(1)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_untrained_it_denoises_as_if_images_were_white_noise() -> None:
    x, sigma = torch.randn(2, 12, 20, dtype=torch.complex64), torch.tensor([0.5, 2.0])
    denoised = Denoiser(ADMUNet(width=32, multipliers=(1, 1)))(x, sigma)
    torch.testing.assert_close(denoised, x / (1 + sigma.square()).view(-1, 1, 1))


def test_attention_heads_divide_any_width() -> None:
    net = small(width=32, multipliers=(7,))  # 224 features, three heads of 64 would not do
    with torch.no_grad():
        assert net(torch.randn(1, 2, 8, 8), torch.zeros(1)).shape == (1, 2, 8, 8)


@pytest.mark.parametrize(
    "options", [{"width": 48}, {"width": 0}, {"multipliers": ()}, {"multipliers": (1, 0)}, {"blocks": 0}]
)
def test_impossible_sizes_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="multiple of 32"):
        ADMUNet(**options)  # type: ignore[arg-type]
