"""Blocks of rows are smaller scans of the same kind."""

import numpy as np
import pytest
import torch
from numpy.random import RandomState

from spinwarp.acquisition import Acquisition, Example
from spinwarp.coils import noise_level
from spinwarp.data.row_block import RowBlock
from spinwarp.errors import InputError


def example(h: int = 40, w: int = 24, coils: int = 2, empty: int = 0) -> Example:
    rng = np.random.RandomState(0)
    images = rng.randn(1, coils, h, w) + 1j * rng.randn(1, coils, h, w)
    images[:, :, :empty] = 0
    shifted = np.fft.ifftshift(images, (-2, -1))
    kspace = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), (-2, -1))
    mask = torch.ones(1, 1, 1, w, dtype=torch.bool)
    target = torch.from_numpy(np.sqrt((np.abs(images) ** 2).sum(1))).float()
    acquisition = Acquisition(kspace=torch.from_numpy(kspace).to(torch.complex64), mask=mask)
    return Example(acquisition, target, target.max()[None], ("v",), (0,))


@pytest.mark.parametrize("h", [40, 41])
def test_the_images_of_the_block_are_rows_of_the_whole(h: int) -> None:
    whole = example(h)
    block = RowBlock(16)(whole, RandomState(3))
    kspace = block.acquisition.kspace.numpy()
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, (-2, -1)), norm="ortho"), (-2, -1))
    magnitude = np.sqrt((np.abs(images) ** 2).sum(1))
    assert block.target is not None and whole.target is not None
    assert magnitude.shape == (1, 16, 24)
    assert np.allclose(magnitude, block.target.numpy(), atol=1e-4)  # float32 transforms
    firsts = [i for i in range(h - 15) if torch.equal(whole.target[:, i : i + 16], block.target)]
    assert len(firsts) == 1
    assert block.data_range == whole.data_range


def test_the_noise_level_is_that_of_the_whole() -> None:
    whole = example()
    block = RowBlock(16)(whole, RandomState(0))
    expected = noise_level(whole.acquisition.kspace, whole.acquisition.mask)
    assert torch.equal(block.acquisition.noise_std, expected)


def test_blocks_lie_where_the_signal_is() -> None:
    whole = example(empty=30)
    blocks = [RowBlock(8)(whole, RandomState(seed)) for seed in range(10)]
    assert all(block.target is not None and block.target.any() for block in blocks)


def test_a_small_image_stays_whole() -> None:
    whole = example(12)
    assert RowBlock(16)(whole, RandomState(0)) is whole


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(InputError, match="at least 8"):
        RowBlock(4)


def test_a_point_mask_is_refused() -> None:
    whole = example()
    mask = torch.ones(1, 1, 40, 24, dtype=torch.bool)
    acquisition = Acquisition(kspace=whole.acquisition.kspace, mask=mask)
    with pytest.raises(InputError, match="line mask"):
        RowBlock(16)(Example(acquisition, whole.target, whole.data_range, ("v",), (0,)), RandomState(0))


def test_a_scan_without_a_target_is_cut_too() -> None:
    whole = example()
    block = RowBlock(16)(Example(whole.acquisition, None, whole.data_range, ("v",), (0,)), RandomState(0))
    assert block.target is None
    assert block.acquisition.kspace.shape[-2] == 16
