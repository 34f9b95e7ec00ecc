import pytest
import torch

from spinwarp.fourier import fftc, ifftc
from spinwarp.operators.measured import in_samples, sampling_operator


@pytest.mark.parametrize("shape", [(32, 36), (33, 29)])
@pytest.mark.parametrize("rows", ["line", "plane"])
def test_the_distance_of_samples_is_that_of_measured_k_space(shape: tuple[int, int], rows: str) -> None:
    torch.manual_seed(0)
    mask = torch.rand(1, 1, 1 if rows == "line" else shape[0], shape[1]) < 0.4
    images = torch.randn(1, 3, *shape, dtype=torch.complex64)
    kspace = torch.randn(1, 3, *shape, dtype=torch.complex64) * mask
    sample = sampling_operator(mask)
    difference = sample(images) - sample(ifftc(kspace))
    expected = fftc(images) * mask - kspace
    # float32 sums of some thousand terms
    torch.testing.assert_close(
        torch.linalg.vector_norm(difference), torch.linalg.vector_norm(expected), rtol=1e-5, atol=0
    )
    some = mask & (torch.rand(mask.shape) < 0.5)
    chosen = difference * in_samples(some, mask)
    torch.testing.assert_close(
        torch.linalg.vector_norm(chosen), torch.linalg.vector_norm(expected * some), rtol=1e-5, atol=0
    )


def test_nothing_but_what_was_measured_is_kept() -> None:
    mask = torch.zeros(1, 1, 1, 36, dtype=torch.bool)
    mask[..., 10:19] = True
    assert sampling_operator(mask)(torch.zeros(1, 3, 32, 36, dtype=torch.complex64)).shape == (1, 3, 32, 9)
    assert in_samples(mask, mask).all()
    plane = torch.rand(1, 1, 32, 36) < 0.3
    images = torch.zeros(1, 3, 32, 36, dtype=torch.complex64)
    assert sampling_operator(plane)(images).shape == (1, 3, int(plane.sum()))
