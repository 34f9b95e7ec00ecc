from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spinwarp.acquisition import Acquisition, Header, center_crop
from spinwarp.coils import combine
from spinwarp.fourier import ifftc
from spinwarp.models.fastmri_weights import _our_name
from spinwarp.models.unet import InstanceNorm, MagnitudeUNet, UNet, _halve, reconstruction_size, statistics


def test_the_output_is_that_of_the_fastmri_reference(shared: Path) -> None:
    golden = torch.load(shared / "golden" / "fastmri_varnet.pt", weights_only=True)
    network = UNet(2, 2, channels=8, pools=3).eval()
    network.load_state_dict({_our_name(k).removeprefix("unet."): v for k, v in golden["unet_state"].items()})
    with torch.no_grad():
        output = network(golden["unet_in"])
    torch.testing.assert_close(output, golden["unet_out"], rtol=0, atol=1e-5)  # float32, values up to 3


@pytest.mark.parametrize("shape", [(16, 16), (19, 22), (17, 29)])
def test_odd_sizes_are_padded_by_reflection_as_the_reference_does(shape: tuple[int, int]) -> None:
    """``fastmri.models.Unet.forward``, on our layers."""
    torch.manual_seed(0)
    network, image = UNet(1, 1, channels=3, pools=3).eval(), torch.randn(2, 1, *shape)
    with torch.no_grad():
        stack, output = [], image
        for layer in network.down:
            output = layer(output)
            stack.append(output)
            output = F.avg_pool2d(output, kernel_size=2, stride=2, padding=0)
        output = network.bottom(output)
        for transpose_conv, conv in zip(network.up, network.merge, strict=True):
            downsample_layer = stack.pop()
            output = transpose_conv(output)
            padding = [0, 0, 0, 0]
            if output.shape[-1] != downsample_layer.shape[-1]:
                padding[1] = 1
            if output.shape[-2] != downsample_layer.shape[-2]:
                padding[3] = 1
            if sum(padding) != 0:
                output = F.pad(output, padding, "reflect")
            output = conv(torch.cat([output, downsample_layer], dim=1))
        # the four pixels of a pooling are added in another order: the last bit of numbers of about one, over 14 layers
        torch.testing.assert_close(network(image), network.head(output), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_normalised_features_have_mean_zero_and_variance_one_in_each_channel_of_each_item(dtype: torch.dtype) -> None:
    x = (3 + 2 * torch.randn(2, 5, 9, 7, dtype=torch.float64)).to(dtype)
    values = x.double().numpy()
    mean, variance = (f(values, axis=(-2, -1), keepdims=True) for f in (np.mean, np.var))
    expected = (values - mean) / np.sqrt(variance + 1e-5)
    digits = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.05}[dtype]  # bf16 has eight bits
    np.testing.assert_allclose(InstanceNorm(5)(x).double().numpy(), expected, atol=digits)
    assert InstanceNorm(5)(x).dtype == dtype


def test_pooling_has_the_means_of_four_pixels_with_and_without_a_gradient() -> None:
    x = torch.randn(2, 3, 9, 12)
    expected = x.numpy()[..., :8, :].reshape(2, 3, 4, 2, 6, 2).mean((3, 5))
    for image in (x, x.clone().requires_grad_()):
        np.testing.assert_allclose(_halve(image).detach().numpy(), expected, atol=1e-6)


class Same(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_a_network_that_changes_nothing_gives_the_zero_filled_image(make_acquisition) -> None:
    acquisition = make_acquisition()
    network = MagnitudeUNet(4, 2)
    network.unet = Same()
    zero_filled = combine(ifftc(acquisition.kspace), acquisition.maps)
    # nothing of this image is brighter than six deviations, where the input is clamped
    torch.testing.assert_close(network(acquisition), zero_filled, rtol=1e-5, atol=1e-5)


def test_only_the_reconstruction_size_is_restored_and_the_phase_is_kept(make_acquisition) -> None:
    acquisition = replace(make_acquisition(), headers=(Header(reconstruction_size=(16, 12)),) * 2)
    torch.manual_seed(0)
    with torch.no_grad():
        image = MagnitudeUNet(4, 2).eval()(acquisition)
    zero_filled = combine(ifftc(acquisition.kspace), acquisition.maps)
    outside = torch.ones(image.shape, dtype=torch.bool)
    center_crop(outside, (16, 12))[:] = False
    assert torch.equal(image[outside], zero_filled[outside])
    inside, before = center_crop(image, (16, 12)), center_crop(zero_filled, (16, 12))
    assert not torch.allclose(inside, before)
    # the same line through the origin: the network may return a negative magnitude
    torch.testing.assert_close((inside * before.conj()).imag, torch.zeros(2, 16, 12), rtol=0, atol=1e-5)


def test_the_network_sees_zero_mean_unit_deviation_and_no_more_than_six_of_them(make_acquisition) -> None:
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x

    network = MagnitudeUNet(4, 2)
    network.unet = Spy()
    acquisition = make_acquisition()
    network(acquisition)
    assert seen[0].shape == (2, 1, 37, 29)
    torch.testing.assert_close(seen[0].mean((-2, -1)), torch.zeros(2, 1), rtol=0, atol=1e-5)
    torch.testing.assert_close(seen[0].std((-2, -1)), torch.ones(2, 1))
    bright = torch.zeros(1, 1, 40, 40, dtype=torch.complex64)
    bright[..., 20, 20] = 1  # a single bright line of k-space is a flat image; a bright pixel is the point here
    spike = Acquisition(torch.fft.fft2(bright), torch.ones(1, 1, 1, 40, dtype=torch.bool))
    network(spike)
    assert seen[1].max() == 6


def test_the_statistics_are_each_image_s_own_and_never_zero() -> None:
    images = torch.stack([torch.rand(5, 5), 10 * torch.rand(5, 5), torch.zeros(5, 5)])
    mean, std = statistics(images)
    assert mean.shape == std.shape == (3, 1, 1)
    torch.testing.assert_close(mean[1, 0, 0], images[1].mean())
    torch.testing.assert_close(std[1, 0, 0], images[1].std())
    assert std[2] > 0


def test_the_reconstruction_size_is_the_header_s_but_never_larger_than_k_space(make_acquisition) -> None:
    acquisition = make_acquisition(shape=(37, 29))
    assert reconstruction_size(acquisition) == (37, 29)
    for asked, given in (((20, 20), (20, 20)), ((50, 20), (37, 20)), (None, (37, 29))):
        headers = (Header(reconstruction_size=asked),) * 2
        assert reconstruction_size(replace(acquisition, headers=headers)) == given
