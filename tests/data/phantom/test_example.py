import numpy as np
import pytest
import torch

from spinwarp.data.phantom import head_example
from spinwarp.errors import InputError


def test_a_simulated_slice_is_what_its_seed_says_and_its_target_is_its_own_image() -> None:
    example = head_example(3, (48, 40), n_coils=4)
    again, other = head_example(3, (48, 40), n_coils=4), head_example(4, (48, 40), n_coils=4)
    kspace = example.acquisition.kspace
    assert kspace.shape == (1, 4, 48, 40) and example.target.shape == (1, 48, 40)
    assert torch.equal(kspace, again.acquisition.kspace) and not torch.equal(kspace, other.acquisition.kspace)
    shifted = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace.numpy(), (-2, -1)), norm="ortho"), (-2, -1))
    expected = np.sqrt((np.abs(shifted) ** 2).sum(1))
    assert np.allclose(example.target.numpy(), expected, atol=1e-5)  # single against double precision
    assert example.data_range.item() == pytest.approx(expected.max(), abs=1e-5)
    assert example.acquisition.headers[0].provenance == "phantom"


def test_the_noise_is_as_strong_as_the_snr_says() -> None:
    weak, strong = (head_example(5, (64, 64), n_coils=1, snr=snr) for snr in (1e6, 10.0))
    # the same draws with another factor: their difference is the noise alone
    noise = (strong.acquisition.kspace - weak.acquisition.kspace).abs().square().mean().sqrt()
    head = weak.target[weak.target > 0.1].mean()
    assert float(head / noise) == pytest.approx(10, rel=0.05)  # 4096 samples: 1.6 % of deviation


@pytest.mark.parametrize("wrong", [{"shape": (31, 64)}, {"n_coils": 0}, {"snr": 0.0}], ids=lambda w: next(iter(w)))
def test_numbers_out_of_range_end_in_a_sentence(wrong: dict) -> None:
    with pytest.raises(InputError, match="a head needs a shape"):
        head_example(0, **wrong)
