"""Partial Fourier with POCS, on images whose missing half is known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.recon.zero_filled import ZeroFilled, pocs


def head(h: int, w: int) -> Tensor:
    """Positive, with edges: an ellipse with two holes."""
    y, x = torch.linspace(-1, 1, h)[:, None], torch.linspace(-1, 1, w)
    inside = ((x / 0.7) ** 2 + (y / 0.8) ** 2 < 1).float()
    return inside * (
        1 - 0.6 * (((x - 0.2) ** 2 + y**2) < 0.05).float() - 0.5 * (((x + 0.3) ** 2 + y**2) < 0.02).float()
    )


def partial(n: int, first: int, last: int) -> Tensor:
    sampled = torch.zeros(n, dtype=torch.bool)
    sampled[first:last] = True
    return sampled


@pytest.mark.parametrize(("h", "w"), [(32, 48), (31, 47), (32, 47)])
@pytest.mark.parametrize("axis", ["columns", "rows", "the other end"])
def test_an_image_of_one_phase_has_the_conjugate_of_what_was_measured(h: int, w: int, axis: str) -> None:
    """Of a real image times exp(0.7 i), the missing samples are known: exp(1.4 i) times the conjugates of theirs."""
    kspace = fftc(head(h, w) * torch.exp(torch.tensor(0.7j)))[None]
    mask = {
        "columns": partial(w, w // 3, w).expand(h, w),
        "rows": partial(h, h // 3, h)[:, None].expand(h, w),
        "the other end": partial(w, 0, w - w // 3).expand(h, w),
    }[axis]
    opposite = [(2 * (n // 2) - np.arange(n)) % n for n in (h, w)]
    answer = torch.exp(torch.tensor(1.4j)) * kspace[:, opposite[0]][:, :, opposite[1]].conj()
    found = pocs(kspace * mask, mask, 200)
    known = torch.from_numpy(mask.numpy()[np.ix_(*opposite)]) & ~mask
    assert known.sum() > 100
    # the window of the low-resolution image has weak negative lobes, which turn the phase where the image is dark
    error = (found - answer)[:, known].norm() / answer[:, known].norm()
    assert error < 0.05  # zeros would make it 1
    torch.testing.assert_close(found[:, mask], (kspace * mask)[:, mask], rtol=0, atol=0)


@pytest.mark.parametrize("coils", [1, 3])
def test_an_image_of_smooth_phase_is_far_nearer_than_the_zero_filled_one(coils: int) -> None:
    h, w = 64, 64
    y, x = torch.linspace(-1, 1, h)[:, None], torch.linspace(-1, 1, w)
    phases = torch.stack([0.8 * x - 0.5 * y + 0.6 * c * x * y for c in range(coils)])
    weights = torch.stack([1 + 0.3 * torch.cos(c + x + 0 * y) for c in range(coils)])
    images = head(h, w) * weights * torch.exp(1j * phases)
    mask = partial(w, w * 3 // 8, w)[None]  # 5/8 of the lines
    acquisition = Acquisition(fftc(images)[None] * mask, mask[None, None])
    truth = images.abs().square().sum(0).sqrt()
    errors = [(ZeroFilled(n)(acquisition).image[0].abs() - truth).norm() / truth.norm() for n in (0, 15)]
    assert errors[1] < 0.35 * errors[0]


def test_more_iterations_never_touch_a_scan_that_misses_nothing_on_one_side_only() -> None:
    kspace = fftc(head(32, 48) + 0j)[None]
    for mask in (torch.ones(1, 48, dtype=torch.bool), partial(48, 8, 41)[None], partial(48, 8, 40)[None]):
        torch.testing.assert_close(pocs(kspace * mask, mask, 5)[..., 1:8], kspace[..., 1:8] * mask[..., 1:8])


def test_each_item_of_a_batch_has_its_own_mask() -> None:
    kspace = fftc(head(32, 48) + 0j).expand(2, 1, 32, 48)
    masks = torch.stack([partial(48, 16, 48)[None, None], partial(48, 0, 34)[None, None]])
    both = ZeroFilled(10)(Acquisition(kspace * masks, masks)).image
    for i in range(2):
        alone = ZeroFilled(10)(Acquisition((kspace * masks)[i : i + 1], masks[i : i + 1])).image
        torch.testing.assert_close(both[i : i + 1], alone, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.arange(48)[None] % 3 > 0, "single lines or points are missing too"),
        (partial(48, 30, 48)[None], "single lines or points are missing too"),  # the centre itself
        (partial(48, 23, 48)[None], "columns of k-space on both sides of its centre, of which 1 lie on one side"),
        (torch.zeros(1, 48, dtype=torch.bool), "missing too"),
    ],
)
def test_what_pocs_cannot_fill_is_told(mask: Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        pocs(fftc(head(32, 48) + 0j)[None] * mask, mask, 5)
    with pytest.raises(InputError, match=r"recon\.pocs=-1"):
        ZeroFilled(-1)


def test_the_image_is_the_same_as_before_without_it() -> None:
    kspace = fftc(head(32, 48) * torch.exp(torch.tensor(0.3j)))[None, None]
    mask = partial(48, 16, 48)[None, None, None]
    torch.testing.assert_close(ZeroFilled()(Acquisition(kspace * mask, mask)).image, ifftc(kspace * mask)[:, 0])
