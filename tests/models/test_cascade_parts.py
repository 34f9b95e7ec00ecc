"""The parts of the unrolled network, each alone: data steps, features of earlier cascades, prompts, codes, maps."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from small_unets import SMALL
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition, Header, acs_columns
from spinwarp.coils import espirit_maps, low_resolution_images
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.models.cascades import CascadeNet
from spinwarp.models.conditioning import ScanCode
from spinwarp.models.data_steps import ADMM, ConjugateGradient, ImageGradient, KSpaceGradient
from spinwarp.models.map_net import MapNet


class Fixed(nn.Module):
    """Returns a multiple of the first image that it sees, and keeps what it saw."""

    def __init__(self, n_in: int, n_out: int, n_code: int, factor: float = 0.0) -> None:
        super().__init__()
        self.n_out, self.factor, self.seen = n_out, factor, []

    def forward(self, images: Tensor, history: Any = (), code: Tensor | None = None) -> tuple[Tensor, tuple]:
        self.seen.append(images.detach())
        return self.factor * images[:, :1].expand(-1, self.n_out, -1, -1), ()


def transform(x: np.ndarray, inverse: bool = False) -> np.ndarray:
    """The centred Fourier transform, written out."""
    fft = np.fft.ifft2 if inverse else np.fft.fft2
    return np.fft.fftshift(fft(np.fft.ifftshift(x, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))


def arrays(acquisition: Acquisition) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K-space as the network scales it, maps and mask of the first item."""
    kspace, maps, mask = (x[0].numpy() for x in (acquisition.kspace, acquisition.maps, acquisition.mask))
    return kspace / (np.linalg.norm(kspace) / np.sqrt(kspace[0].size)), maps, mask


def test_conjugate_gradients_solve_the_least_squares_of_sense(make_acquisition) -> None:
    acquisition = make_acquisition(n_coils=3, shape=(12, 14), batch=1)
    net = CascadeNet(Fixed, partial(ConjugateGradient, iterations=40, weight=1e-3), n_cascades=8)
    with torch.no_grad():
        image = net(acquisition)[0]
    basis = torch.eye(12 * 14, dtype=torch.complex64).view(-1, 1, 12, 14)
    matrix = (fftc(basis * acquisition.maps) * acquisition.mask).flatten(1).T.to(torch.complex128)
    expected = torch.linalg.lstsq(matrix, acquisition.kspace.flatten().to(torch.complex128)[:, None]).solution
    seen = (matrix @ image.flatten().to(torch.complex128) - acquisition.kspace.flatten()).norm()
    best = (matrix @ expected[:, 0] - acquisition.kspace.flatten()).norm()
    assert seen < 1.02 * best  # lambda never vanishes


def test_admm_steps_are_those_of_the_paper(make_acquisition) -> None:
    torch.manual_seed(0)
    acquisition = make_acquisition(n_coils=3, shape=(16, 18), batch=1)
    net = CascadeNet(partial(Fixed, factor=0.9), partial(ADMM, iterations=2, channels=4), n_cascades=3)
    with torch.no_grad():
        net.consistency.log_steps.copy_(torch.tensor([0.5, 0.7]).log())
        net.consistency.log_rho.copy_(torch.tensor([0.1, 0.2, 0.3]).log())
        net(acquisition)
    kspace, maps, mask = arrays(acquisition)
    x = z = (transform(kspace, inverse=True) * maps.conj()).sum(0)
    real = net.consistency.first(torch.from_numpy(np.stack([x.real, x.imag]))[None].float())[0].detach().numpy()
    u = real[0] + 1j * real[1]
    for cascade, rho in enumerate([0.1, 0.2, 0.3]):
        seen = net.regularisers[cascade].seen[0][0].numpy()
        assert np.allclose(seen, np.stack([x, z, u / rho]), atol=1e-4)  # float32
        z = 0.9 * x
        for eta in (0.5, 0.7):
            gradient = (transform(mask * (transform(x * maps) - kspace), inverse=True) * maps.conj()).sum(0)
            x = x - eta * (gradient + rho * (x - z) + u)
        u = u + rho * (x - z)


def test_the_buffer_holds_what_the_paper_says(make_acquisition) -> None:
    acquisition = make_acquisition(n_coils=2, shape=(16, 18), batch=1)
    net = CascadeNet(partial(Fixed, factor=0.5), ImageGradient, n_cascades=2, buffer=True)
    with torch.no_grad():
        net(acquisition)
    kspace, maps, mask = arrays(acquisition)
    start = (transform(kspace, inverse=True) * maps.conj()).sum(0)
    first = (
        start - (transform(mask * (transform(start * maps) - kspace), inverse=True) * maps.conj()).sum(0) + start / 2
    )
    back = (transform(mask * transform(first * maps), inverse=True) * maps.conj()).sum(0)
    expected = np.stack([first, back, start / 2, start, back - start])  # the latent is the second image returned
    assert np.allclose(net.regularisers[1].seen[0][0].numpy(), expected, atol=1e-4)  # float32


def test_momentum_goes_on_by_a_part_of_the_last_change(make_acquisition) -> None:
    acquisition = make_acquisition(batch=1)
    plain = CascadeNet(Fixed, ImageGradient, n_cascades=2)
    moved = CascadeNet(Fixed, partial(ImageGradient, momentum=True), n_cascades=2)
    with torch.no_grad():
        moved.consistency.momentum.fill_(0.5)
        plain.consistency.steps.fill_(0.3)
        moved.consistency.steps.fill_(0.3)
        plain(acquisition)
        moved(acquisition)
    x0, x1 = (net[0] for net in (plain.regularisers[0].seen, plain.regularisers[1].seen))
    assert torch.allclose(moved.regularisers[1].seen[0], x1 + 0.5 * (x1 - x0), atol=1e-5)  # float32


def test_weights_over_kspace_start_at_one_and_depend_on_the_distance_to_the_centre(make_acquisition) -> None:
    step = KSpaceGradient(1, weighted=True)
    assert step.profile is not None
    mask = torch.ones(1, 1, 1, 33, dtype=torch.bool)
    assert torch.allclose(step.profile(0, mask), torch.ones(33))
    with torch.no_grad():
        step.profile.log_knots[0, 0] = torch.linspace(0, 1, 16).exp().log()  # exp(log_knots) = exp(distance)
    expected = np.interp(np.abs(np.linspace(-1, 1, 33)), np.linspace(0, 1, 16), np.exp(np.linspace(0, 1, 16)))
    assert np.allclose(step.profile(0, mask).detach().numpy().ravel(), expected, atol=1e-5)
    plane = step.profile(0, torch.ones(1, 1, 8, 8, dtype=torch.bool))
    assert torch.allclose(plane, torch.ones(8, 8))  # points have a profile of their own


def test_features_of_earlier_cascades_are_used_and_no_more_than_asked_for() -> None:
    torch.manual_seed(0)
    net = partial(SMALL, history=2)(1, 1)
    image = torch.randn(1, 1, 16, 16, dtype=torch.complex64)
    _, first = net(image)
    _, second = net(2j * image)
    alone, both = net(image)[0], net(image, (first, second))[0]
    assert (both - alone).norm() > 1e-3 * alone.norm()
    strange = tuple(torch.full_like(x, 7.0) for x in first)
    assert torch.equal(net(image, (strange, first, second))[0], both)
    # a cascade without history sees zeros in its place
    nothing = tuple(torch.zeros_like(x) for x in first)
    assert torch.allclose(net(image, (nothing, nothing))[0], alone, atol=1e-6)


def test_prompts_are_fixed_and_differ_between_images() -> None:
    torch.manual_seed(0)
    net = SMALL(1, 1)
    prompt = net.unet.up[0].prompt
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == [
        "unet.up.0.prompt.maps",
        "unet.up.1.prompt.maps",
    ]
    x = torch.randn(2, 8, 6, 7)
    weights = torch.softmax(x.mean((2, 3)) @ prompt.choose.weight.T + prompt.choose.bias, 1)
    mixture = torch.stack([(w[:, None, None, None] * prompt.maps).sum(0) for w in weights])
    resized = nn.functional.interpolate(mixture, (6, 7), mode="bilinear")
    assert torch.allclose(prompt(x), prompt.conv(resized), atol=1e-6)
    assert not torch.allclose(prompt(x)[0], prompt(x)[1], atol=1e-5)


def test_the_code_tells_scans_apart_and_changes_nothing_before_training(make_acquisition) -> None:
    torch.manual_seed(0)
    code = ScanCode(8, ["T1", "T2"])
    acquisition = make_acquisition(batch=1)
    scale = torch.ones(1)

    def of(contrast: str | None = "T1", noise: float = 0.02, **changes: Any) -> Tensor:
        header = (Header(contrast=contrast),)
        return code(replace(acquisition, headers=header, noise_std=torch.tensor([noise]), **changes), scale)

    first = of()
    everything = torch.ones_like(acquisition.mask)
    for other in (of("T2"), of("T3"), of(noise=0.2), of(mask=everything)):
        assert (other - first).norm() > 1e-3 * first.norm()
    assert torch.equal(of("T3"), of(None))  # unknown contrasts share one vector
    torch.manual_seed(1)
    with_code = CascadeNet(SMALL, KSpaceGradient, conditioning=code, n_cascades=2)
    without = CascadeNet(SMALL, KSpaceGradient, n_cascades=2)
    without.load_state_dict({k: v for k, v in with_code.state_dict().items() if k in without.state_dict()})
    assert torch.equal(with_code(acquisition), without(acquisition))


def test_refined_maps_keep_a_sum_of_squares_of_one(make_acquisition) -> None:
    torch.manual_seed(0)
    maps = MapNet(1, 2, network=None, refinement=SMALL)
    acquisition = make_acquisition(batch=1)
    refined = maps.refined(1, acquisition.maps, ifftc(acquisition.kspace))
    assert torch.allclose(refined.abs().square().sum(1), torch.ones(1, 37, 29), atol=1e-4)
    assert not torch.allclose(refined, acquisition.maps, atol=1e-3)
    assert maps.refined(0, acquisition.maps, ifftc(acquisition.kspace)) is acquisition.maps


def test_espirit_maps_take_the_place_of_those_of_the_data_where_there_is_a_centre(make_acquisition) -> None:
    acquisition = make_acquisition(batch=1)
    seen: list[Tensor] = []

    class Step(ImageGradient):
        def start(self, measured: Any, maps: Tensor) -> Any:
            seen.append(maps)
            return super().start(measured, maps)

    net = CascadeNet(Fixed, Step, partial(MapNet, espirit=True), n_cascades=1)
    net(acquisition)
    off_centre = (torch.arange(29) % 3 == 1).view(1, 1, 1, 29)
    net(replace(acquisition, kspace=acquisition.kspace * off_centre, mask=off_centre))
    maps, _ = espirit_maps(acquisition.kspace, acquisition.mask)
    assert torch.equal(seen[0].abs() > 0, maps.abs() > 0)
    # and the smooth phase of the image, so that an image combined with them has none
    centre = low_resolution_images(acquisition.kspace, acs_columns(acquisition.mask))
    combined = (centre * seen[0].conj()).sum(1)
    assert torch.allclose(combined, (centre * maps.conj()).sum(1).abs().to(combined), atol=1e-5)
    assert torch.equal(seen[1], acquisition.maps)
    net(replace(acquisition, n_acs=torch.zeros(1, dtype=torch.long)))  # a mask that draws no centre, and samples it
    assert torch.equal(seen[2], seen[0])
    with pytest.raises(InputError, match="from a network or from ESPIRiT"):
        MapNet(1, 1, network=SMALL, espirit=True)
