"""The unrolled network for any scan, and the bias-free network inside it."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spinwarp.acquisition import Acquisition
from spinwarp.coils import espirit_maps
from spinwarp.errors import InputError
from spinwarp.files import warn_once
from spinwarp.fourier import fftc, ifftc
from spinwarp.models.residual_unet import BiasFreeDenoiser, ComplexResidualUNet, ResidualUNet
from spinwarp.models.unrolled import UnrolledNet

SMALL = partial(ComplexResidualUNet, (4, 8))


def scan(coils: int = 3, h: int = 24, w: int = 30, noise: float = 0.01) -> Acquisition:
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    image = torch.where((x / 0.7) ** 2 + (y / 0.7) ** 2 < 1, 1.0, 0.0) * torch.polar(torch.ones(h, w), x + y)
    angle = torch.arange(coils) * 2 * torch.pi / coils
    maps = torch.exp(-((x - angle.cos()[:, None, None]) ** 2 + (y - angle.sin()[:, None, None]) ** 2) / 3)
    kspace = fftc(maps * image)[None]
    kspace = kspace + noise * torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)
    mask = torch.zeros(1, 1, 1, w, dtype=torch.bool)
    mask[..., ::2] = True
    mask[..., w // 2 - 4 : w // 2 + 4] = True
    return Acquisition(kspace=kspace * mask, mask=mask)


class Nothing(nn.Module):
    def forward(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(image)


def test_without_a_network_it_solves_sense() -> None:
    acquisition = scan(noise=1e-4)
    net = UnrolledNet(Nothing, n_unrolls=12, cg_iterations=20)
    maps, _ = espirit_maps(acquisition.kspace, acquisition.mask)
    with torch.no_grad():
        image = net(acquisition)[0]
    # least squares, written out: one column of the matrix for each pixel inside the support
    inside = (maps[0] != 0).any(0)
    pixels = inside.nonzero()
    columns = torch.zeros(len(pixels), *acquisition.kspace.shape[1:], dtype=torch.complex64)
    for k, (i, j) in enumerate(pixels):
        columns[k, :, i, j] = maps[0, :, i, j]
    matrix = (fftc(columns) * acquisition.mask[0]).flatten(1).T.to(torch.complex128)
    solution = torch.linalg.lstsq(matrix, acquisition.kspace.flatten().to(torch.complex128)[:, None]).solution[:, 0]
    expected = torch.zeros(inside.shape, dtype=torch.float64)
    expected[inside] = solution.abs()
    error = (image.abs() - expected).norm() / expected.norm()
    assert error < 0.02  # the weight of the start never vanishes: lambda is about 1e-4 at the last step
    # the phase of the maps is a convention: without a network the coil images do not depend on it
    other = UnrolledNet(Nothing, n_unrolls=12, cg_iterations=20, smooth_phase=True)
    with torch.no_grad():
        torch.testing.assert_close(other(acquisition)[0], image, rtol=0, atol=1e-4 * float(image.abs().max()))


def test_with_the_smooth_phase_the_network_sees_nearly_real_images() -> None:
    seen: list[torch.Tensor] = []

    class Watching(Nothing):
        def forward(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
            seen.append(image)
            return super().forward(image, level)

    for smooth_phase in (False, True):
        with torch.no_grad():
            UnrolledNet(Watching, n_unrolls=2, smooth_phase=smooth_phase)(scan(noise=1e-4))
    assert len(seen) == 4
    plain, smooth = (float(image.imag.norm() / image.norm()) for image in (seen[1], seen[3]))
    assert smooth < 0.5 * plain


@pytest.mark.parametrize(("coils", "given"), [(1, False), (3, True)])
def test_without_central_lines_the_image_keeps_its_phase_and_the_log_says_so(
    coils: int, given: bool, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    whole = scan(coils)
    mask = whole.mask.clone()
    mask[..., 10:20] = False
    maps = torch.full((1, coils, 24, 30), coils**-0.5, dtype=torch.complex64) if given else None
    acquisition = Acquisition(kspace=whole.kspace * mask, mask=mask, maps=maps)
    torch.manual_seed(0)
    plain = UnrolledNet(SMALL, n_unrolls=2)
    smooth = UnrolledNet(SMALL, n_unrolls=2, smooth_phase=True)
    smooth.load_state_dict(plain.state_dict())
    with torch.no_grad():
        expected = plain(acquisition)
        assert not caplog.messages
        torch.testing.assert_close(smooth(acquisition), expected)
    assert "leaves out the centre" in caplog.text


@pytest.mark.parametrize("factor", [1e-3, 1e4])
def test_it_commutes_with_a_change_of_scale(factor: float) -> None:
    torch.manual_seed(0)
    net, acquisition = UnrolledNet(SMALL, 3, 2), scan()
    scaled = Acquisition(kspace=factor * acquisition.kspace, mask=acquisition.mask)
    with torch.no_grad():
        one, two = net(acquisition), net(scaled)
    # sums in float32, on which an iterative solve depends
    assert torch.allclose(two / factor, one, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


@pytest.mark.parametrize(("coils", "h", "w"), [(1, 24, 30), (3, 25, 31), (8, 17, 40)])
def test_any_number_of_coils_and_any_size(coils: int, h: int, w: int) -> None:
    torch.manual_seed(0)
    image = UnrolledNet(SMALL, 2, 1)(scan(coils, h, w))
    assert image.shape == (1, h, w)
    assert image.isfinite().all()


def test_a_noisy_scan_trusts_the_network_more(monkeypatch: pytest.MonkeyPatch) -> None:
    acquisition = scan()
    net = UnrolledNet(Nothing, 3, 2)
    found: list[float] = []
    solve = net._consistent

    def consistent(normal: Any, rhs: torch.Tensor, start: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        found.append(float(weight))
        return solve(normal, rhs, start, weight)

    monkeypatch.setattr(net, "_consistent", consistent)
    maps, _ = espirit_maps(acquisition.kspace, acquisition.mask)
    images = ifftc(acquisition.kspace)[0].numpy()
    combined = (images * maps[0].numpy().conj()).sum(0)
    size = np.sqrt((np.abs(combined) ** 2).mean())
    for noise in (0.01, 0.1):
        found.clear()
        with torch.no_grad():
            net(Acquisition(kspace=acquisition.kspace, mask=acquisition.mask, noise_std=torch.tensor([noise])))
        sigma = noise / size
        last = max(sigma, 0.02)
        levels = np.array([0.7, np.sqrt(0.7 * last), last])
        assert found == pytest.approx(0.1 * (sigma**2 + 0.02**2) / levels**2, rel=1e-4)  # float32


def test_the_network_has_no_bias_and_restores_its_size() -> None:
    torch.manual_seed(0)
    net = ResidualUNet(3, 2, (4, 8, 8))
    x = torch.randn(2, 3, 21, 30)
    assert all(p.ndim == 4 for p in net.parameters())
    out = net(x)
    assert out.shape == (2, 2, 21, 30)
    assert torch.allclose(net(5 * x), 5 * out, rtol=1e-4, atol=1e-4)  # float32


def test_what_it_does_in_one_place_does_not_depend_on_the_rest() -> None:
    torch.manual_seed(0)
    net = ResidualUNet(1, 1, (4, 8))
    x = torch.randn(1, 1, 160, 64)
    with torch.no_grad():
        whole, part = net(x), net(x[..., :96, :])
    # away from the cut: a block has a receptive field of 4 convolutions on each of two levels
    assert torch.allclose(whole[..., :48, :], part[..., :48, :], atol=1e-5)


def test_a_periodic_network_moves_with_the_phase_direction() -> None:
    torch.manual_seed(0)
    net = ResidualUNet(1, 1, (4, 8, 8), periodic=True)
    plain = ResidualUNet(1, 1, (4, 8, 8))
    plain.load_state_dict(net.state_dict())
    x = torch.randn(1, 1, 21, 40)
    with torch.no_grad():
        # 8 columns are one pixel of the coarsest level
        assert torch.allclose(net(x.roll(16, -1)), net(x).roll(16, -1), atol=1e-5)  # float32
        assert not torch.allclose(plain(x.roll(16, -1)), plain(x).roll(16, -1), atol=1e-1)
        assert not torch.allclose(net(x.roll(8, -2)), net(x).roll(8, -2), atol=1e-1)  # the readout ends


@pytest.mark.parametrize("w", [34, 37, 39, 40, 113])
def test_a_periodic_network_is_nearly_that_of_endless_copies_at_any_width(w: int) -> None:
    torch.manual_seed(0)
    net, plain = ResidualUNet(1, 1, (4, 8, 8), periodic=True), ResidualUNet(1, 1, (4, 8, 8))
    plain.load_state_dict(net.state_dict())
    x = torch.randn(1, 1, 16, w)
    left = 0 if w % 8 == 0 else (8 + -w % 8) // 2  # where the image begins on the grid of the coarsest level
    with torch.no_grad():
        # a pixel sees less than 64 columns to either side
        copies = plain(x[..., torch.arange(-64 - left, w + 64) % w])
        wanted, found = copies[..., 64 + left : 64 + left + w], net(x)
    error = float((found - wanted).norm() / wanted.norm())
    # exact in float32 where the levels divide the width; else the copied columns end after a few pixels. A crop that
    # is wrong by one column gives errors above one.
    assert error < (1e-5 if w % 8 == 0 else 0.2)


@pytest.mark.parametrize("w", [1, 3])
def test_a_periodic_network_takes_widths_below_its_levels(w: int) -> None:
    x = torch.randn(2, 1, 5, w)
    assert ResidualUNet(1, 1, (4, 8, 8), periodic=True)(x).shape == x.shape


def test_the_denoiser_is_a_prior_of_complex_images() -> None:
    torch.manual_seed(0)
    net = BiasFreeDenoiser((4, 8))
    x = torch.randn(2, 20, 22, dtype=torch.complex64)
    out = net(x, torch.tensor(0.1))
    assert out.shape == x.shape
    assert torch.allclose(net(3 * x, torch.tensor(0.3)), 3 * out, rtol=1e-4, atol=1e-4)  # float32


@pytest.mark.parametrize("options", [{"n_unrolls": 1}, {"cg_iterations": 0}])
def test_impossible_numbers_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least"):
        UnrolledNet(SMALL, **options)


@pytest.mark.parametrize(("widths", "blocks"), [((), 1), ((4,), 0)])
def test_a_network_without_levels_or_blocks_is_refused(widths: tuple[int, ...], blocks: int) -> None:
    with pytest.raises(InputError, match="at least one"):
        ResidualUNet(1, 1, widths, blocks)


def test_it_overfits_a_slice() -> None:
    torch.manual_seed(0)
    acquisition = scan(noise=0.03)
    net = UnrolledNet(partial(ComplexResidualUNet, (8, 16)), 3, 2)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 30), indexing="ij")
    angle = torch.arange(3) * 2 * torch.pi / 3
    maps = torch.exp(-((x - angle.cos()[:, None, None]) ** 2 + (y - angle.sin()[:, None, None]) ** 2) / 3)
    truth = torch.where((x / 0.7) ** 2 + (y / 0.7) ** 2 < 1, 1.0, 0.0) * maps.square().sum(0).sqrt()
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    errors = []
    for _ in range(40):
        error = (net(acquisition)[0].abs() - truth).square().mean().sqrt()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < errors[0] / 3
