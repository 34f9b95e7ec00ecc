from dataclasses import replace

import pytest
import torch
from numpy.random import RandomState

from spinwarp.acquisition import Acquisition, Example, Header, center_crop
from spinwarp.coils import root_sum_of_squares
from spinwarp.data.augment import FlipsAndPhase
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc


def example(shape: tuple[int, int] = (24, 30), crop: tuple[int, int] = (16, 20), padding: int = 0) -> Example:
    """Three coils; the outer ``padding`` columns of k-space were not acquired (those that mirror one another)."""
    h, w = shape
    kspace = torch.randn(1, 3, h, w, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 1, w, dtype=torch.bool)
    first, last = padding, w - padding
    mask[..., first:last] = True
    kspace = kspace * mask
    header = Header(acquired_columns=(first, last) if padding else None)
    target = center_crop(root_sum_of_squares(ifftc(kspace)), crop)
    return Example(Acquisition(kspace, mask, headers=(header,)), target, target.max()[None], ("a.h5",), (0,))


@pytest.mark.parametrize(
    ("shape", "crop"), [((24, 30), (16, 20)), ((25, 31), (25, 31)), ((24, 31), (24, 31)), ((25, 30), (16, 20))]
)
@pytest.mark.parametrize("seed", range(3))
def test_the_target_stays_the_image_of_the_kspace(shape: tuple[int, int], crop: tuple[int, int], seed: int) -> None:
    changed = FlipsAndPhase(flip=0.7)(example(shape, crop), RandomState(seed))
    assert changed.target is not None
    # two Fourier transforms in float32
    image = root_sum_of_squares(ifftc(changed.acquisition.kspace))
    torch.testing.assert_close(center_crop(image, crop), changed.target, rtol=0, atol=1e-5)


def test_both_directions_are_mirrored_and_the_phase_is_turned() -> None:
    original = example()
    changed = FlipsAndPhase(flip=1.0)(original, RandomState(0))
    assert original.target is not None and changed.target is not None
    assert torch.equal(changed.target, original.target.flip((-2, -1)))
    turned = ifftc(changed.acquisition.kspace) / ifftc(original.acquisition.kspace).flip((-2, -1))
    # one phase for all pixels and coils; the ratio of small pixels amplifies rounding
    torch.testing.assert_close(turned, turned.flatten()[0].expand_as(turned), rtol=0, atol=1e-3)
    assert abs(float(turned.flatten()[0].angle())) > 0.1


def test_coil_maps_that_come_with_the_data_are_mirrored_along() -> None:
    original = example()
    images = ifftc(original.acquisition.kspace)
    maps = images / root_sum_of_squares(images)[:, None]
    changed = FlipsAndPhase(flip=1.0)(
        replace(original, acquisition=replace(original.acquisition, maps=maps)), RandomState(0)
    ).acquisition
    combined = (ifftc(changed.kspace) * changed.maps.conj()).sum(1).abs()
    torch.testing.assert_close(combined, root_sum_of_squares(ifftc(changed.kspace)), rtol=1e-4, atol=1e-4)


def test_the_zero_padding_is_mirrored_along() -> None:
    original = example(padding=0)
    mask = original.acquisition.mask.clone()
    mask[..., :4] = False  # a scan whose first columns were not acquired
    one_sided = replace(
        original,
        target=None,
        acquisition=replace(
            original.acquisition,
            kspace=original.acquisition.kspace * mask,
            mask=mask,
            headers=(Header(acquired_columns=(4, 30)),),
        ),
    )
    acquisition = FlipsAndPhase(flip=1.0)(one_sided, RandomState(0)).acquisition
    sampled = acquisition.mask[0, 0, 0]
    # column k mirrors to 30 - k, so 1 to 26 are acquired, and column 0, the Nyquist one, mirrors to itself
    assert sampled.nonzero().flatten().tolist() == list(range(1, 27))
    assert acquisition.headers[0].acquired_columns == (1, 27)
    measured = acquisition.kspace.abs().sum((0, 1, 2)) > 0
    assert torch.equal(measured, sampled)


def test_missing_rows_and_lines_are_mirrored_along() -> None:
    original = example(shape=(24, 30))
    rows, columns = torch.arange(24) >= 7, torch.arange(30) % 4 != 1  # an asymmetric echo, undersampled
    mask = (rows[:, None] & columns)[None, None]
    header = Header(acquired_columns=(2, 30))
    measured = replace(original.acquisition, kspace=original.acquisition.kspace * mask, mask=mask, headers=(header,))
    changed = FlipsAndPhase(flip=1.0)(replace(original, target=None, acquisition=measured), RandomState(0)).acquisition
    expected = torch.zeros(24, 30, dtype=torch.bool)
    for row, column in mask[0, 0].nonzero().tolist():  # sample (k, l) of even sizes mirrors to (-k, -l)
        expected[-row % 24, -column % 30] = True
    assert torch.equal(changed.mask[0, 0], expected)
    assert torch.equal((changed.kspace.abs().sum((0, 1)) > 0), expected)
    assert changed.headers[0].acquired_columns == (1, 29)  # 2 to 29 mirror to 28 to 1


def test_a_crop_off_the_middle_is_not_mirrored() -> None:
    original = example(shape=(24, 30), crop=(16, 19))  # 30 - 19 is odd: the crop lies half a pixel off
    changed = FlipsAndPhase(flip=1.0)(original, RandomState(0))
    assert original.target is not None and changed.target is not None
    assert torch.equal(changed.target, original.target.flip(-2))


def test_the_same_generator_makes_the_same_change_and_the_input_stays() -> None:
    original, untouched = example(), example()
    first, second = (FlipsAndPhase()(original, RandomState(3)) for _ in range(2))
    assert torch.equal(first.acquisition.kspace, second.acquisition.kspace)
    assert torch.equal(original.acquisition.kspace, untouched.acquisition.kspace)


@pytest.mark.parametrize("flip", [-0.1, 1.1, float("nan")])
def test_a_probability_that_cannot_be_is_refused(flip: float) -> None:
    with pytest.raises(InputError, match="probability"):
        FlipsAndPhase(flip)
