"""The unrolled network in parts: published sizes, VarNet as a setting of it, and each part alone."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition, Header, acs_columns, item_acquisition
from spinwarp.cli.app import conf_folder
from spinwarp.coils import espirit_maps, low_resolution_images
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.models.cascades import CascadeNet
from spinwarp.models.conditioning import ScanCode
from spinwarp.models.data_steps import ADMM, ConjugateGradient, DataStep, ImageGradient, KSpaceGradient
from spinwarp.models.loading import build_network
from spinwarp.models.map_net import MapNet
from spinwarp.models.norm_unet import NormUNet, PlainUNet
from spinwarp.models.prompt_unet import PromptUNet
from spinwarp.models.varnet import SensitivityNet, VarNet

SMALL = partial(PromptUNet, channels=4, pools=2, prompt_size=4)
PLAIN = partial(PlainUNet, channels=4, pools=2)
STEPS: dict[str, Callable[[int], DataStep]] = {
    "k-space gradient": KSpaceGradient,
    "k-space gradient, weighted": partial(KSpaceGradient, weighted=True),
    "image gradient": partial(ImageGradient, weighted=True),
    "conjugate gradient": partial(ConjugateGradient, iterations=2),
    "admm": partial(ADMM, iterations=2, channels=4),
}


def described(model: str) -> Any:
    """The network of conf/model as plain Python."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        composed = compose(overrides=["+mask=none", "+callbacks=default", f"+model={model}"])
    return OmegaConf.to_container(composed.model.net, resolve=True)


def counts(network: nn.Module) -> tuple[float, float]:
    """Millions of weights that are learned, and of those that are not."""
    learned = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return learned / 1e6, sum(p.numel() for p in network.parameters()) / 1e6 - learned / 1e6


@pytest.mark.parametrize(
    ("model", "changes", "learned", "fixed"),
    [
        # learned and fixed, in millions; PromptMR's authors count 80 M together
        ("promptmr_plus", {}, 82.49, 10.37),
        ("promptmr", {}, 71.17, 10.37),
        ("vsharp", {}, 93.14, 0.0),
        ("vsharp_small", {}, 2.97, 0.0),
        ("promptmr_plus_small", {}, 3.05, 1.24),
    ],
)
def test_the_networks_have_as_many_weights_as_the_published_ones(
    model: str, changes: dict[str, Any], learned: float, fixed: float
) -> None:
    with torch.device("meta"):
        network = build_network(described(model) | changes, ("spinwarp.models",))
    assert counts(network) == (pytest.approx(learned, abs=0.02), pytest.approx(fixed, abs=0.02))


def test_six_cascades_of_24_features_have_ten_million_weights() -> None:
    net = described("promptmr_plus_small")
    net["n_cascades"] = 6
    net["regulariser"] |= {"channels": 24, "history": 5}
    net["sensitivity"]["network"]["channels"] = 12
    with torch.device("meta"):
        assert counts(build_network(net, ("spinwarp.models",)))[0] == pytest.approx(10.16, abs=0.02)


@pytest.mark.parametrize("two_dimensional", [False, True])
def test_with_a_plain_unet_and_gradient_steps_it_is_the_varnet(make_acquisition, two_dimensional: bool) -> None:
    torch.manual_seed(0)
    unet = partial(NormUNet, channels=4, pools=2)
    varnet = VarNet(unet, 3, partial(SensitivityNet, network=unet))
    net = CascadeNet(PLAIN, KSpaceGradient, partial(MapNet, network=PLAIN), n_cascades=3)
    state = {name.replace("steps", "consistency.steps"): value for name, value in varnet.state_dict().items()}
    net.load_state_dict(state)
    acquisition = make_acquisition(two_dimensional=two_dimensional)
    with torch.no_grad():
        one, other = varnet(acquisition), net(acquisition)
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-5 * float(one.abs().max()))  # float32, and another scale


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("coils", "shape", "batch"), [(1, (24, 30), 1), (3, (25, 31), 2)])
def test_every_step_takes_any_size_and_reaches_all_weights(
    make_acquisition, step: str, coils: int, shape: tuple[int, int], batch: int
) -> None:
    torch.manual_seed(0)
    maps = partial(MapNet, network=SMALL, refinement=partial(SMALL, n_prompts=0))
    net = CascadeNet(
        partial(SMALL, history=1), partial(STEPS[step], momentum=True), maps, ScanCode(8, ["FLAIR"]), 3, buffer=True
    )
    acquisition = make_acquisition(n_coils=coils, shape=shape, batch=batch, maps=coils > 1)
    image = net(replace(acquisition, headers=(Header(contrast="FLAIR"),) * batch))
    assert image.shape == (batch, *shape)
    image.abs().sum().backward()
    missing = [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing  # several processes wait for the gradient of every weight


class Fixed(nn.Module):
    """Returns a multiple of the first image that it sees, and keeps what it saw."""

    def __init__(self, n_in: int, n_out: int, n_code: int, factor: float = 0.0) -> None:
        super().__init__()
        self.n_out, self.factor, self.seen = n_out, factor, []

    def forward(self, images: Tensor, history: Any = (), code: Tensor | None = None) -> tuple[Tensor, tuple]:
        self.seen.append(images.detach())
        return self.factor * images[:, :1].expand(-1, self.n_out, -1, -1), ()


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


def transform(x: np.ndarray, inverse: bool = False) -> np.ndarray:
    """The centred Fourier transform, written out."""
    fft = np.fft.ifft2 if inverse else np.fft.fft2
    return np.fft.fftshift(fft(np.fft.ifftshift(x, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))


def arrays(acquisition: Acquisition) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K-space as the network scales it, maps and mask of the first item."""
    kspace, maps, mask = (x[0].numpy() for x in (acquisition.kspace, acquisition.maps, acquisition.mask))
    return kspace / (np.linalg.norm(kspace) / np.sqrt(kspace[0].size)), maps, mask


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


def test_the_images_of_the_cascades_end_with_the_image(make_acquisition) -> None:
    torch.manual_seed(0)
    net = CascadeNet(SMALL, KSpaceGradient, n_cascades=3)
    images = net.cascade_images(make_acquisition())
    assert len(images) == 3
    assert torch.equal(images[-1], net(make_acquisition()))
    assert not torch.allclose(images[0], images[-1], rtol=1e-3)


def test_maps_made_coil_by_coil_are_the_same_and_so_are_their_gradients(make_acquisition) -> None:
    results = []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        maps = partial(MapNet, network=SMALL, refinement=SMALL)
        net = CascadeNet(SMALL, KSpaceGradient, maps, n_cascades=2, n_adjacent=3, checkpoint=checkpoint)
        image = net(with_neighbours(make_acquisition(), 3))
        image.abs().square().sum().backward()
        results.append([image.detach(), *(p.grad for p in net.parameters() if p.requires_grad)])
    for one, other in zip(*results, strict=True):
        # float32: a batch of another size sums in another order
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


def with_neighbours(acquisition: Acquisition, n: int) -> Acquisition:
    """Give a batch neighbours that differ from it."""
    others = (replace(acquisition, kspace=(1 + 0.3j * (i + 1)) * acquisition.kspace.roll(i, -2)) for i in range(n - 1))
    return replace(acquisition, adjacent=tuple(others))


def test_adjacent_slices_are_seen_and_a_batch_equals_its_items(make_acquisition) -> None:
    torch.manual_seed(0)
    net = CascadeNet(
        partial(SMALL, history=1), KSpaceGradient, partial(MapNet, network=SMALL), n_cascades=2, n_adjacent=3
    )
    alone = make_acquisition()
    acquisition = with_neighbours(alone, 3)
    with torch.no_grad():
        image = net(acquisition)
        for i in range(2):
            assert torch.allclose(net(item_acquisition(acquisition, i))[0], image[i], rtol=1e-4, atol=1e-5)
        more = with_neighbours(alone, 5)
        inner = replace(more, adjacent=more.adjacent[1:3])
        assert torch.equal(net(more), net(inner))  # it takes those next to the middle
        silent = replace(acquisition, adjacent=tuple(replace(a, kspace=0 * a.kspace) for a in acquisition.adjacent))
        assert (net(silent) - image).norm() > 1e-3 * image.norm()
    with pytest.raises(
        InputError, match=r"sees 3 adjacent slices together, and the data bring 1; set data.n_adjacent=3"
    ):
        net(alone)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CascadeNet(SMALL, KSpaceGradient, n_cascades=0), "at least one cascade"),
        (lambda: CascadeNet(SMALL, KSpaceGradient, n_adjacent=4), "odd number of slices"),
        (lambda: CascadeNet(PLAIN, KSpaceGradient, conditioning=ScanCode(8)), "takes no conditioning"),
        (lambda: PromptUNet(1, 1, channels=1), "at least two channels"),
        (lambda: PromptUNet(1, 1, pools=4), "one number of blocks for each level"),
        (lambda: ConjugateGradient(2, weight=0.0), "weight > 0"),
        (lambda: ADMM(2, iterations=0), "iterations >= 1"),
    ],
)
def test_impossible_options_end_in_a_sentence(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


TINY = partial(PromptUNet, channels=4, pools=1, down=[1], up=[1], bottom=1, prompt_size=4)
OVERFIT: dict[str, Callable[[], CascadeNet]] = {
    "promptmr_plus": lambda: CascadeNet(
        partial(TINY, channels=16, history=1), KSpaceGradient, partial(MapNet, network=TINY), n_cascades=2, buffer=True
    ),
    "vsharp": lambda: CascadeNet(
        partial(PLAIN, channels=16, pools=1), partial(ADMM, iterations=3, channels=4), n_cascades=3
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OVERFIT)
def test_tiny_networks_overfit_four_slices_to_45_db(make_acquisition, name: str) -> None:
    torch.manual_seed(0)
    network, full = OVERFIT[name](), make_acquisition(batch=4, shape=(16, 18), acceleration=1)
    mask = make_acquisition(batch=4, shape=(16, 18), acceleration=3).mask
    acquisition = replace(full, kspace=full.kspace * mask, mask=mask)
    target = ifftc(full.kspace).abs().square().sum(1).sqrt()
    peak = target.amax((1, 2), keepdim=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    worst = []
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - step / 300)
        error = ((network(acquisition).abs() - target) / peak).square().mean((1, 2))
        worst.append(float(-10 * error.detach().amax().log10()))
        if worst[-1] > 45:
            break
        optimizer.zero_grad()
        error.sqrt().mean().backward()
        optimizer.step()
    assert worst[-1] > 45
    assert worst[0] < 30  # it had to learn
