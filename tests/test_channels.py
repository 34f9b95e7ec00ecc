import pytest
import torch

from spinwarp.channels import to_channels, to_complex


@pytest.mark.parametrize("n_coils", [1, 3])
def test_channels_hold_all_real_parts_and_then_all_imaginary_ones(n_coils: int) -> None:
    x = torch.randn(2, n_coils, 5, 4, dtype=torch.complex64)
    channels = to_channels(x)
    assert channels.shape == (2, 2 * n_coils, 5, 4)
    assert channels.dtype == torch.float32
    assert torch.equal(channels[:, :n_coils], x.real)
    assert torch.equal(channels[:, n_coils:], x.imag)


@pytest.mark.parametrize("n_coils", [1, 3])
def test_to_complex_undoes_to_channels(n_coils: int) -> None:
    x = torch.randn(2, n_coils, 5, 4, dtype=torch.complex64)
    assert torch.equal(to_complex(to_channels(x)), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_whatever_the_precision_of_a_network_complex64_comes_back(dtype: torch.dtype) -> None:
    x = torch.randn(2, 4, 5, 4).to(dtype)
    out = to_complex(x)
    assert out.dtype == torch.complex64
    assert torch.equal(torch.cat([out.real, out.imag], 1), x.float())


def test_strided_features_are_taken_as_they_are() -> None:
    x = torch.randn(2, 4, 6, 7).to(memory_format=torch.channels_last)[..., 1:6, 2:]
    assert torch.equal(to_channels(to_complex(x)), x)


def test_gradients_flow_both_ways() -> None:
    x = torch.randn(1, 2, 3, 3, requires_grad=True)
    to_channels(to_complex(x)).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())
