"""What both users of :func:`hold_out` rely on is in tests/recon/test_weight_and_scale.py; here, what it spreads."""

import pytest
import torch

from spinwarp.acquisition import Acquisition
from spinwarp.masks import hold_out


def lines(width: int = 128, n_center: int = 10, every: int = 4) -> Acquisition:
    mask = torch.zeros(1, 1, 1, width, dtype=torch.bool)
    mask[..., ::every] = True
    mask[..., (width - n_center + 1) // 2 :][..., :n_center] = True
    return Acquisition(torch.zeros(1, 1, 8, width, dtype=torch.complex64), mask)


@pytest.mark.parametrize("holdout_every", [2, 5, 10])
def test_one_in_so_many_lines_outside_the_centre_is_held_out(holdout_every: int) -> None:
    acquisition = lines()
    outside = int(acquisition.mask.sum()) - 10
    assert abs(int(hold_out(acquisition, holdout_every).sum()) - outside / holdout_every) <= 0.5


def test_near_and_far_lines_on_both_sides_are_among_them() -> None:
    positions = hold_out(lines()).flatten().nonzero()[:, 0] - 64
    assert len(positions) >= 5
    for side in (positions[positions < 0].abs(), positions[positions > 0]):
        assert side.min() < 24 < 40 < side.max()  # of 5 to 64


def test_points_of_a_plane_mask_are_held_out_by_themselves() -> None:
    mask = torch.rand(1, 1, 64, 48, generator=torch.Generator().manual_seed(0)) < 0.3
    mask[..., 28:36, 20:28] = True
    held = hold_out(Acquisition(torch.zeros(1, 1, 64, 48, dtype=torch.complex64), mask, n_acs=torch.tensor([8])))
    assert not held[..., 28:36, 20:28].any()
    # a fifth of 30 % of 48; the nearest fifths of neighbouring rows leave no row out and fill none
    assert ((held.sum(-1) >= 1) & (held.sum(-1) <= 5)).all()
