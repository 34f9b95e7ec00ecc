from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spinwarp.errors import InputError
from spinwarp.models.conv_decoder import ConvDecoder, Pointwise, decoder_sizes
from spinwarp.models.deep_decoder import DeepDecoder
from spinwarp.models.skip_net import SkipNet

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "conv_decoder": ConvDecoder,
    "deep_decoder": DeepDecoder,
    "dip": SkipNet,
}


@pytest.fixture(params=NETWORKS)
def make(request: pytest.FixtureRequest) -> Callable[..., nn.Module]:
    def made(size: tuple[int, int], out_channels: int = 2, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return NETWORKS[request.param](size, out_channels, channels=6)

    return made


def test_the_sizes_of_a_decoder_are_those_of_the_authors() -> None:
    sizes = [(15, 8), (28, 15), (53, 28), (98, 53), (183, 102), (343, 193), (640, 368)]
    assert decoder_sizes((8, 4), (640, 368), 7) == sizes


@pytest.mark.parametrize("size", [(32, 36), (33, 29), (17, 64), (18, 17)])
@pytest.mark.parametrize("out_channels", [1, 6])
def test_the_output_has_exactly_the_size_that_was_asked_for(make, size: tuple[int, int], out_channels: int) -> None:
    assert make(size, out_channels)().shape == (1, out_channels, *size)


@pytest.mark.parametrize("last", [(7, 5), (8, 4), (1000, 11)])
def test_the_sizes_end_at_the_output_whatever_it_is(last: tuple[int, int]) -> None:
    for steps in (1, 2, 9):
        assert len(decoder_sizes((8, 4), last, steps)) == steps
        assert decoder_sizes((8, 4), last, steps)[-1] == last


def test_the_same_seed_makes_the_same_picture_and_another_one_another(make) -> None:
    picture = make((20, 24))()
    assert torch.equal(make((20, 24))(), picture)
    assert not torch.allclose(make((20, 24), seed=1)(), picture)


def test_a_picture_has_no_memory_and_no_mode(make) -> None:
    network = make((20, 24))
    first = network()
    assert torch.equal(network(), first)
    assert torch.equal(network.eval()(), first)


def test_every_weight_takes_part_and_the_input_is_fixed(make) -> None:
    network = make((20, 24))
    network().square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in network.named_parameters() if "bias" not in n)
    assert [name for name, _ in network.named_buffers()] == ["z"]
    assert not network.z.requires_grad


def test_the_layers_of_the_conv_decoder_are_those_of_the_paper() -> None:
    network = ConvDecoder((64, 48), 30, channels=160, layers=8)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    # seven blocks that upsample and one that does not, then the outputs
    assert [m.kernel_size for m in convolutions] == [(3, 3)] * 8
    assert sum(p.numel() for p in network.parameters()) == 8 * (9 * 160**2 + 2 * 160) + 160 * 30
    assert network.z.shape == (1, 160, 8, 4)
    assert 0 <= network.z.min() < network.z.max() <= 1


def test_the_deep_decoder_couples_pixels_by_upsampling_alone() -> None:
    network = DeepDecoder((20, 24), 2, channels=7, layers=3)
    assert sum(p.numel() for p in network.parameters()) == 3 * (7 * 7 + 2 * 7) + 7 * 2
    assert not any(isinstance(m, nn.Conv2d) for m in network.modules())


def test_the_pointwise_convolution_is_torch_s_own() -> None:
    torch.manual_seed(0)
    layer, x = Pointwise(5, 3), torch.randn(2, 5, 6, 7)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight[..., None, None], layer.bias))


def test_the_skip_net_at_the_size_of_the_mri_comparison_has_its_number_of_parameters() -> None:
    with torch.device("meta"):
        network = SkipNet((640, 368), 30, channels=256, levels=8, kernel_down=5, input_channels=256)
    # 31.5 M as the authors state; what z was they do not
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(31.5e6, rel=0.005)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConvDecoder((32, 32), 2, layers=1), "layers=1"),
        (lambda: ConvDecoder((32, 32), 2, channels=0), "channels=0"),
        (lambda: DeepDecoder((32, 32), 2, layers=0), "layers=0"),
        (lambda: DeepDecoder((32, 32), 2, channels=0), "channels=0"),
        (lambda: SkipNet((32, 32), 2, skip_channels=0), "skip_channels=0"),
        (lambda: SkipNet((32, 32), 2, levels=0), "levels=0"),
        (lambda: SkipNet((32, 32), 2, kernel_down=4), "kernel_down=4"),
        (lambda: SkipNet((32, 16), 2, levels=5), "32x16 is too small"),
    ],
)
def test_what_cannot_be_built_is_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()
