"""Coil maps that are corrected by an image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.operators import sense
from spinwarp.recon.map_refinement import with_refined_maps

H, W, COILS = 12, 15, 3


def scan(points: bool = False, batch: int = 2) -> tuple[Acquisition, Tensor]:
    """K-space without noise of smooth maps with a sum of squares of one, and the image."""
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, H), torch.linspace(-1, 1, W), indexing="ij")
    angles = 2 * torch.pi * torch.arange(COILS)[:, None, None] / COILS
    maps = torch.polar(torch.exp(-((x - angles.cos()) ** 2 + (y - angles.sin()) ** 2) / 2), angles + x * angles.sin())
    maps = (maps / maps.abs().square().sum(0).sqrt()).expand(batch, -1, -1, -1)
    image = torch.randn(batch, H, W, dtype=torch.complex64)
    mask = torch.rand(batch, 1, H if points else 1, W) < 0.6
    made = Acquisition(torch.zeros(batch, COILS, H, W, dtype=torch.complex64), mask, maps=maps)
    return replace(made, kspace=sense(made)(image)), image


def with_error(acquisition: Acquisition, hidden: int = 3) -> Acquisition:
    """Wrong maps: each coil has a harmonic of one period added, and they are zero in a corner of ``hidden`` pixels."""
    assert acquisition.maps is not None
    y = torch.arange(H)[:, None] / H
    wrong = acquisition.maps + 0.2 * torch.polar(
        torch.ones(COILS, H, W), 2 * torch.pi * y + torch.arange(COILS)[:, None, None]
    )
    wrong = wrong / wrong.abs().square().sum(1, keepdim=True).sqrt()
    wrong[:, :, :hidden, :hidden] = 0
    return replace(acquisition, maps=wrong)


def dense(acquisition: Acquisition, image: Tensor, width: int, error: float) -> np.ndarray:
    """The corrected maps of the first item by numpy's least squares, written out sample by sample."""
    assert acquisition.maps is not None
    maps = acquisition.maps[0].numpy().astype(complex)
    mask = acquisition.mask[0, 0].expand(H, W).numpy()
    x = image[0].numpy().astype(complex)

    def fourier(n: int) -> np.ndarray:
        centred = np.arange(n) - n // 2
        return np.exp(-2j * np.pi * np.outer(centred, centred) / n) / np.sqrt(n)

    to_kspace = np.kron(fourier(H), fourier(W))[mask.ravel()]
    periods = np.arange(width) - width // 2
    rows, columns = (np.arange(n) - n // 2 for n in (H, W))
    harmonics = np.stack(
        [np.exp(2j * np.pi * (p * rows[:, None] / H + q * columns / W)).ravel() for p in periods for q in periods],
        1,
    )
    weight = np.array([(1 + p**2 + q**2) ** 2 for p in periods for q in periods], float)
    data = acquisition.kspace[0].numpy().astype(complex)
    residuals = [data[c][mask] - to_kspace @ (x * maps[c]).ravel() for c in range(COILS)]
    power = np.mean(np.abs(np.stack(residuals)) ** 2)
    penalty = power * COILS / error**2 * (1 / weight).sum() * weight
    matrix = to_kspace @ (x.ravel()[:, None] * harmonics)
    system = np.concatenate([matrix, np.diag(np.sqrt(penalty))])
    refined = np.stack(
        [
            maps[c] + (harmonics @ np.linalg.lstsq(system, np.concatenate([r, np.zeros(width**2)]))[0]).reshape(H, W)
            for c, r in enumerate(residuals)
        ]
    )
    refined *= np.abs(maps).sum(0) > 0
    size = np.sqrt((np.abs(refined) ** 2).sum(0))
    refined = np.divide(refined, size, out=np.zeros_like(refined), where=size > 0)
    turn = (refined.conj() * maps).sum(0)
    return refined * np.divide(turn, np.abs(turn), out=np.zeros_like(turn), where=np.abs(turn) > 0)


@pytest.mark.parametrize("points", [False, True], ids=["lines", "points"])
def test_the_correction_is_that_of_dense_least_squares(points: bool) -> None:
    made, image = scan(points)
    wrong = with_error(made)
    refined = with_refined_maps(wrong, image, width=3, error=0.1, iterations=30).maps
    assert refined is not None
    # 9 unknowns a coil, so that 30 conjugate gradients are exact but for float32
    np.testing.assert_allclose(refined[0].numpy(), dense(wrong, image, 3, 0.1), atol=2e-4)


def test_wrong_maps_become_nearly_right_where_the_image_is_known() -> None:
    made, image = scan()
    wrong = with_error(made, hidden=0)
    refined = with_refined_maps(wrong, image, iterations=30)

    def distance(acquisition: Acquisition) -> float:
        assert made.maps is not None
        assert acquisition.maps is not None
        turn = torch.sgn((acquisition.maps.conj() * made.maps).sum(1, keepdim=True))
        return float((acquisition.maps * turn - made.maps).norm())

    # the added harmonic is one of those that a correction has; what is left is the pull towards no correction
    assert distance(refined) < 0.7 * distance(wrong)
    assert distance(with_refined_maps(refined, image, iterations=30)) < 0.35 * distance(wrong)


def test_what_cannot_be_refined_stays() -> None:
    made, image = scan()
    assert made.maps is not None
    one = replace(made, kspace=made.kspace[:, :1], maps=made.maps[:, :1])
    assert with_refined_maps(one, image) is one
    for kspace in (made.kspace, torch.zeros_like(made.kspace)):
        maps = with_refined_maps(replace(made, kspace=kspace), torch.zeros_like(image)).maps
        assert maps is not None
        torch.testing.assert_close(maps, made.maps)


def test_refined_maps_have_one_sum_of_squares_and_no_other_phase() -> None:
    made, image = scan()
    wrong = with_error(made)
    maps = with_refined_maps(wrong, image).maps
    assert maps is not None
    assert wrong.maps is not None
    seen = (wrong.maps != 0).any(1)
    torch.testing.assert_close(maps.abs().square().sum(1), seen.float())
    turn = (maps.conj() * wrong.maps).sum(1)
    assert float(turn.imag.abs().max()) < 1e-6
    assert bool((turn.real >= 0).all())


def test_a_batch_equals_its_items() -> None:
    made, image = scan()
    wrong = with_error(made)
    assert wrong.maps is not None
    together = with_refined_maps(wrong, image).maps
    assert together is not None
    for i in range(2):
        item = Acquisition(wrong.kspace[i : i + 1], wrong.mask[i : i + 1], maps=wrong.maps[i : i + 1])
        torch.testing.assert_close(with_refined_maps(item, image[i : i + 1]).maps, together[i : i + 1])
