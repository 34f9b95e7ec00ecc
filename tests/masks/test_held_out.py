import pytest
import torch
from torch import Tensor

from spinwarp.masks import hold_out


def lines(width: int = 128, n_center: int = 10, every: int = 4) -> Tensor:
    mask = torch.zeros(1, 1, 1, width, dtype=torch.bool)
    mask[..., ::every] = True
    mask[..., (width - n_center + 1) // 2 :][..., :n_center] = True
    return mask


def test_a_tenth_of_the_lines_outside_the_centre_is_held_out() -> None:
    mask = lines()
    held = hold_out(mask)
    outside = int(mask.sum()) - 10
    assert held.shape == mask.shape
    assert int(held.sum()) == round(0.1 * outside)
    assert not (held & ~mask).any()
    assert not held[..., 59:69].any()
    # one of the nearer half of the columns outside, one of the farther half
    distances = (held.flatten().nonzero()[:, 0] - 64).abs().sort().values.tolist()
    assert len(distances) == 3 and distances[0] < 25 < 35 < distances[-1]


def test_the_choice_is_the_same_for_the_same_mask_alone_or_in_a_batch() -> None:
    masks = torch.cat([lines(), lines(every=3), lines(n_center=20)])
    together = hold_out(masks)
    for i in range(3):
        assert torch.equal(hold_out(masks[i : i + 1])[0], together[i])


def test_points_of_a_plane_mask_are_held_out_outside_its_central_block() -> None:
    torch.manual_seed(0)
    mask = torch.rand(1, 1, 64, 48) < 0.3
    mask[..., 28:36, 20:28] = True
    before = torch.get_rng_state()
    held = hold_out(mask, 0.1, n_acs=torch.tensor([8]))
    assert torch.equal(torch.get_rng_state(), before)
    assert int(held.sum()) == round(0.1 * (int(mask.sum()) - 64))
    assert not (held & ~mask).any()
    assert not held[..., 28:36, 20:28].any()
    assert (held.sum(-1) <= 5).all()  # points, not lines


@pytest.mark.parametrize(
    "mask", [torch.ones(1, 1, 1, 32, dtype=torch.bool), torch.zeros(1, 1, 1, 32, dtype=torch.bool), lines(32, 10, 50)]
)
def test_where_there_is_nothing_to_spare_nothing_is_held_out(mask: Tensor) -> None:
    assert not hold_out(mask).any()


def test_few_lines_still_give_one_and_a_share_of_zero_gives_none() -> None:
    assert int(hold_out(lines(32, 8, 8)).sum()) == 1
    assert not hold_out(lines(), share=0).any()
