"""The unrolled network as a whole: published sizes, VarNet as a setting of it, neighbours, and that it learns."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from small_unets import PLAIN, SMALL
from torch import nn

from spinwarp.acquisition import Acquisition, Header, item_acquisition
from spinwarp.cli.app import conf_folder
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc
from spinwarp.models.cascades import CascadeNet
from spinwarp.models.conditioning import ScanCode
from spinwarp.models.data_steps import ADMM, ConjugateGradient, DataStep, ImageGradient, KSpaceGradient
from spinwarp.models.loading import build_network
from spinwarp.models.map_net import MapNet
from spinwarp.models.norm_unet import NormUNet
from spinwarp.models.prompt_unet import PromptUNet
from spinwarp.models.varnet import SensitivityNet, VarNet

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
        ("promptmr_small", {}, 2.74, 1.24),
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
