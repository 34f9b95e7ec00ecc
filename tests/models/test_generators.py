"""Generators: shapes, sizes, and what makes a flow a flow."""

import pytest
import torch
from torch import Tensor, nn

from spinwarp.errors import InputError
from spinwarp.models.flow import Flow, Step
from spinwarp.models.gan import GAN, Discriminator
from spinwarp.models.generator import ImageGenerator
from spinwarp.models.vae import VAE

SIZES = [(16, 24), (13, 17), (16, 9)]


def flow(levels: int = 2, depth: int = 3, size: tuple[int, int] = (16, 24), strength: float = 0.05) -> Flow:
    """A flow that is no longer the identity, as a trained one is."""
    torch.manual_seed(0)
    net = Flow(size, levels=levels, depth=depth, channels=8)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += strength * torch.randn_like(parameter)
    return net.eval()


def images(size: tuple[int, int], batch: int = 2) -> Tensor:
    return torch.randn(batch, *size, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_flow_gives_an_image_back_to_1e_5(size: tuple[int, int], levels: int) -> None:
    net, x = flow(levels), images(size)
    z, _ = net.encode(x)
    assert z.shape == (2, *net.latent_shape(size))
    assert (net.generate(z, size) - x).abs().max() < 1e-5


@torch.no_grad()
def test_a_flow_gives_a_latent_back_where_the_size_fits() -> None:
    net = flow()
    z = torch.randn(2, *net.latent_shape(), generator=torch.Generator().manual_seed(2))
    # latents pass both ways through scales of up to e^2 a step, and so does their rounding
    assert (net.encode(net.generate(z))[0] - z).abs().max() < 1e-4


@pytest.mark.parametrize(("size", "levels"), [((4, 4), 1), ((4, 8), 2), ((8, 8), 3)])
def test_the_log_determinant_of_a_flow_is_that_of_its_jacobian(size: tuple[int, int], levels: int) -> None:
    net = flow(levels, depth=2, strength=0.2).double()
    x = torch.view_as_real(images(size, batch=1)[0].to(torch.complex128))
    jacobian = torch.autograd.functional.jacobian(lambda v: net.encode(torch.view_as_complex(v)[None])[0][0], x)
    _, expected = torch.linalg.slogdet(jacobian.reshape(x.numel(), x.numel()))
    assert expected.abs() > 1  # it is not the identity
    torch.testing.assert_close(net.encode(torch.view_as_complex(x)[None])[1], expected.detach()[None])


def test_a_flow_has_as_many_latents_as_the_image_has_numbers() -> None:
    net = Flow((16, 24), levels=2, depth=1, channels=4)
    assert net.invertible
    assert net.latent_shape() == (2 * 16 * 24,)
    assert net.latent_shape((13, 17)) == (2 * 16 * 20,)  # of the next larger image, which is then cropped


def test_an_actnorm_whitens_the_first_batch_it_trains_on_and_no_other() -> None:
    step = Step(8, 4)
    x = 3 + 5 * torch.randn(4, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    step.eval().encode(x)
    assert not step.initialised
    step.train()
    out, _ = step.encode(x)
    # the rotation and the couplings at their start leave a white batch white, but for the sampling of its covariance
    assert out.mean((0, 2, 3)).abs().max() < 1e-4
    torch.testing.assert_close(out.std((0, 2, 3)), torch.ones(8), rtol=0, atol=0.1)
    bias = step.bias.clone()
    step.encode(100 * x)
    assert torch.equal(step.bias, bias)


@pytest.mark.parametrize("kind", ["vae", "flow"])
def test_under_autocast_what_has_to_be_exact_stays_in_full_precision(kind: str) -> None:
    net: VAE | Flow = VAE((16, 24), channels=4, levels=2) if kind == "vae" else flow()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        z, _ = net.encode(images((16, 24)))
        back = net.generate(z)
    assert z.dtype == torch.float32
    assert back.dtype == torch.complex64
    if kind == "flow":  # couplings are rounded alike both ways, to half precision, and undone in full
        assert (back - images((16, 24))).abs().max() < 1e-2


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_vae_makes_images_of_any_size_from_few_latents(size: tuple[int, int]) -> None:
    net = VAE((16, 24), channels=4, levels=2, latent_channels=3)
    mean, log_variance = net.encode(images(size))
    assert mean.shape == log_variance.shape == (2, *net.latent_shape(size))
    assert net.generate(mean, size).shape == (2, *size)
    assert mean[0].numel() < 2 * size[0] * size[1] / 5


@torch.no_grad()
def test_a_gan_makes_images_of_its_own_size_alone() -> None:
    net = GAN((13, 18), n_latents=5, channels=4, levels=2)
    made = net.generate(torch.randn(2, *net.latent_shape()))
    assert made.shape == (2, 13, 18)
    assert made.dtype == torch.complex64
    assert net.latent_shape((13, 18)) == (5,)
    with pytest.raises(InputError, match=r"makes images of 13x18, but 16x16 are needed.*model\.net\.size=\[16,16\]"):
        net.latent_shape((16, 16))


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_discriminator_gives_one_number_for_each_image(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net, x = Discriminator(channels=4, levels=2), images(size, batch=3)
    scores = net(x)
    assert scores.shape == (3,)
    torch.testing.assert_close(net(x[1:2]), scores[1:2])  # an image is judged by itself


@pytest.mark.parametrize("net", [VAE((16, 24), 4, 2), GAN((16, 24), 5, 4, 2), flow()], ids=lambda n: type(n).__name__)
def test_a_generator_is_smooth_at_zero(net: ImageGenerator) -> None:
    # where every feature map is constant, a normalisation would have no finite derivative
    z = torch.zeros(1, *net.latent_shape(), requires_grad=True)
    net.generate(z).abs().square().sum().backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    assert z.grad.abs().max() < 1e3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VAE((16,)), r"\(h, w\), two positive numbers; got \[16\]"),
        (lambda: VAE((16, 0)), "two positive numbers"),
        (lambda: VAE((16, 16), channels=0), "at least 1; got 0, 4 and 128"),
        (lambda: VAE((16, 16), latent_channels=0), "at least one latent channel"),
        (lambda: GAN((16, 16), n_latents=0), "at least one latent"),
        (lambda: Discriminator(levels=0), "at least 1"),
        (lambda: Flow((16, 16), depth=0), "at least one level, step and channel"),
    ],
)
def test_numbers_that_cannot_be_are_refused(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_the_networks_are_plain_modules_whose_state_restores_them() -> None:
    first, second = flow(), Flow((16, 24), levels=2, depth=3, channels=8)
    assert isinstance(second, nn.Module)
    second.load_state_dict(first.state_dict())
    z = torch.randn(1, *first.latent_shape())
    assert torch.equal(first.generate(z), second.eval().generate(z))
