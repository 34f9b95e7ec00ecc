import numpy as np
import pytest
import torch
from torch import Tensor

from spinwarp.coils import calibration_blocks, calibration_region
from spinwarp.coils.calibration import principal_coils


def lines(width: int, first: int, n: int, rows: int = 30) -> Tensor:
    """Mask ``(rows, width)`` of ``n`` columns from ``first``, and single ones further out."""
    columns = torch.zeros(width, dtype=torch.bool)
    columns[first : first + n] = True
    columns[[0, width - 1]] = True
    return columns.expand(rows, -1)


@pytest.mark.parametrize(
    ("width", "first", "n"),
    [(40, 16, 8), (41, 17, 8), (41, 16, 8), (41, 17, 7), (40, 17, 7), (40, 19, 4), (40, 20, 1)],
)
def test_the_block_of_a_line_mask_is_where_the_mask_has_its_centre(width: int, first: int, n: int) -> None:
    rows, columns = calibration_region(lines(width, first, n))
    assert columns == slice(first, first + n)
    assert rows == slice(3, 27)  # 24 of 30 about row 15


def test_the_protocol_s_number_of_columns_and_the_limit_are_upper_bounds() -> None:
    mask = lines(64, 22, 20)
    assert calibration_region(mask, 12)[1] == slice(26, 38)
    assert calibration_region(mask, 30)[1] == slice(22, 42)
    assert calibration_region(mask, limit=10) == (slice(10, 20), slice(27, 37))


@pytest.mark.parametrize(("n_rows", "n_columns"), [(9, 14), (16, 16), (24, 8), (5, 21)])
def test_the_block_of_a_plane_mask_is_the_largest_that_is_full(n_rows: int, n_columns: int) -> None:
    generator = torch.Generator().manual_seed(n_rows)
    mask = torch.rand(50, 45, generator=generator) < 0.2
    top, left = 25 - n_rows // 2, 22 - n_columns // 2
    mask[top : top + n_rows, left : left + n_columns] = True
    mask[[top - 1, top + n_rows], 22] = False
    mask[25, [left - 1, left + n_columns]] = False
    assert calibration_region(mask) == (slice(top, top + n_rows), slice(left, left + n_columns))


def test_a_centre_that_reaches_further_on_one_side_is_used_whole() -> None:
    _, columns = calibration_region(lines(64, 30, 15))  # partial Fourier: two columns before the centre
    assert columns == slice(30, 45)


def test_the_rows_of_an_asymmetric_echo_reach_further_on_one_side() -> None:
    mask = lines(64, 30, 7, rows=48).clone()
    mask[:21] = False  # three rows above the central one, and 23 below
    assert calibration_region(mask, limit=20) == (slice(21, 41), slice(30, 37))


@pytest.mark.parametrize("fraction", [0.5, 0.9, 0.97])
def test_every_sample_of_the_block_was_measured(fraction: float) -> None:
    rng = np.random.RandomState(0)
    for _ in range(20):
        h, w = rng.randint(4, 40, 2)
        mask = torch.from_numpy(rng.rand(h, w) < fraction)
        mask[h // 2, w // 2] = True
        rows, columns = calibration_region(mask)
        assert mask[rows, columns].all()
        assert rows.start <= h // 2 < rows.stop
        assert columns.start <= w // 2 < columns.stop
        assert mask[rows, columns].shape == (rows.stop - rows.start, columns.stop - columns.start)


def test_there_is_no_block_where_the_centre_was_not_sampled() -> None:
    mask = lines(40, 16, 8).clone()
    mask[:, 20] = False
    assert mask[calibration_region(mask)].numel() == 0


def test_each_item_has_a_block_of_its_own_for_lines_and_planes_alike() -> None:
    kspace = torch.randn(2, 3, 30, 40, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    mask = torch.stack([lines(40, 16, 8)[:1], lines(40, 14, 12)[:1]])[:, None]
    blocks = calibration_blocks(kspace, mask)
    assert [b.shape for b in blocks] == [(3, 24, 8), (3, 24, 12)]
    assert torch.equal(blocks[0], kspace[0, :, 3:27, 16:24])
    for line, plane in zip(blocks, calibration_blocks(kspace, mask.expand(-1, -1, 30, -1)), strict=True):
        assert torch.equal(line, plane)
    assert [b.shape[2] for b in calibration_blocks(kspace, mask, torch.tensor([6, 10]))] == [6, 10]


def test_the_principal_coils_are_the_left_singular_vectors() -> None:
    block = torch.randn(5, 8, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    weights = principal_coils(block, 3)
    left, values, _ = torch.linalg.svd(block.flatten(1), full_matrices=False)
    overlap = (weights @ left[:, :3]).abs()
    # 1e-4: float32 through a Gram matrix, whose neighbouring eigenvalues here differ by some per cent
    torch.testing.assert_close(overlap, torch.eye(3), rtol=0, atol=1e-4)
    energy = (weights @ block.flatten(1)).abs().square().sum(1)
    torch.testing.assert_close(energy, values[:3] ** 2, rtol=1e-4, atol=0)
    largest = weights.gather(1, weights.abs().argmax(1, keepdim=True))
    torch.testing.assert_close(largest.imag, torch.zeros(3, 1), rtol=0, atol=1e-6)
    assert (largest.real > 0).all()
