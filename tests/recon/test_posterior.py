"""Reconstruction by draws from the posterior of a score model."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition, acs_columns
from spinwarp.coils import noise_level
from spinwarp.data.undersample import MAPS
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.models.denoiser import Denoiser
from spinwarp.models.score_unet import ScoreUNet
from spinwarp.operators import sense
from spinwarp.preparation import prior_scale, with_image_phase, with_maps, with_white_noise
from spinwarp.progress import listen
from spinwarp.recon.posterior import Posterior
from spinwarp.recon.samples import from_samples
from spinwarp.samplers import ChainNoise, Problem, geometric, pula

SAMPLER = partial(pula, schedule=geometric(4.0, 0.02, 12))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Write a score model that has learned nothing: the exact denoiser of white Gaussian images of variance one."""
    folder = tmp_path_factory.mktemp("score")

    def write(channels: str = "complex", **record: bool) -> str:
        n = {"complex": 2, "magnitude": 1}[channels]
        network = ScoreUNet(n, widths=(8, 16))
        description = {
            "_target_": "spinwarp.models.denoiser.Denoiser",
            "network": {"_target_": "spinwarp.models.score_unet.ScoreUNet", "channels": n, "widths": [8, 16]},
            "channels": channels,
        }
        state = {f"average.{k}": v for k, v in Denoiser(network, channels).state_dict().items()}
        path = folder / f"{channels}{''.join(map(str, record.values()))}.ckpt"
        torch.save({"state_dict": state, "spinwarp": {"net": description, "name": "score", **record}}, path)
        return str(path)

    return write


@pytest.fixture
def acquisition(make_acquisition: Callable[..., Acquisition]) -> Acquisition:
    made = make_acquisition(shape=(32, 36))
    return replace(made, noise_std=torch.full((len(made.kspace),), 0.02) * prior_scale(made))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mean_and_spread_are_those_of_a_gaussian_posterior(
    checkpoints: Callable[..., str], make_acquisition: Callable[..., Acquisition]
) -> None:
    made = make_acquisition(n_coils=1, maps=False, shape=(16, 18))
    acquisition = replace(made, kspace=made.kspace[:1], mask=made.mask[:1], noise_std=0.3 * prior_scale(made)[:1])
    sampler = partial(pula, schedule=geometric(10.0, 0.02, 50))
    result = Posterior(checkpoints(), sampler, n_samples=200, chains_at_once=200)(acquisition, generator=seeded())
    assert result.samples is not None
    scale = float(prior_scale(acquisition))
    spread = sense(replace(acquisition, mask=torch.ones_like(acquisition.mask)))(
        (result.samples[:, 0] - result.image[0]) / scale
    )
    power = spread.abs().square().sum(0)[0] / (len(result.samples) - 1)
    mask = acquisition.mask[0, 0].expand(16, -1)
    measured, missing = float(power[mask].mean()), float(power[~mask].mean())
    # prior variance 1, noise variance .09: closed form, 1/(1/1 + 1/.09) where measured, 1 where not; the Monte-Carlo
    # error of 200 chains averaged over a hundred positions is below 1 %, the sampler's own some 4 %
    assert measured == pytest.approx(0.09 / 1.09, rel=0.08)
    assert missing == pytest.approx(1.0, rel=0.08)
    expected = acquisition.kspace[0, 0] / 1.09
    mean = sense(acquisition)(result.image)[0, 0]
    assert (mean - expected)[mask].abs().mean() < 0.05 * scale


def test_a_prior_of_nearly_real_images_gets_such_and_the_phase_is_given_back(checkpoints: Callable[..., str]) -> None:
    y, x = torch.meshgrid(torch.linspace(-2, 2, 32), torch.linspace(-2, 2, 36), indexing="ij")
    image = torch.exp(-(x**2) - y**2) * torch.polar(torch.ones_like(x), 0.7 * x - 0.5 * y + 2)
    mask = torch.ones(1, 1, 1, 36, dtype=torch.bool)
    scan = Acquisition(fftc(image)[None, None], mask, noise_std=torch.tensor([1e-3]))
    bright = image.abs() > 0.1
    for nearly_real in (True, False):
        seen: list[Tensor] = []
        posterior = Posterior(checkpoints(nearly_real=nearly_real), partial(noted, seen=seen), n_samples=2)
        drawn = posterior(scan, generator=seeded()).image[0]
        real = float((seen[0].real[bright] / seen[0].abs()[bright]).min())
        assert (real > 0.95) is nearly_real  # within 18 degrees: 12 lines do not resolve the phase fully
        assert torch.allclose(drawn, image, atol=1e-5)


def noted(problem: Problem, noise: ChainNoise, seen: list[Tensor]) -> Tensor:
    """Note the image that the data alone make, and return it as the draws."""
    seen.append(problem.backprojection[0])
    return problem.backprojection.expand(len(noise), -1, -1)


@pytest.mark.parametrize("options", [{}, {"virtual_coils": 2}, {"whiten": True}])
def test_the_phase_of_maps_that_come_with_the_data_does_not_change_what_the_prior_sees(
    checkpoints: Callable[..., str], make_acquisition: Callable[..., Acquisition], options: dict[str, Any]
) -> None:
    scan = replace(make_acquisition(shape=(32, 36)), maps=None)
    scan = replace(scan, noise_std=torch.full((len(scan.kspace),), 0.02) * prior_scale(scan))
    with_phase = replace(scan, maps=MAPS["low_resolution"](scan.kspace, acs_columns(scan.mask)))
    seen: list[Tensor] = []
    posterior = Posterior(checkpoints(nearly_real=False), partial(noted, seen=seen), n_samples=2, **options)
    without, image = (posterior(one, generator=seeded()).image for one in (scan, with_phase))
    half = len(seen) // 2
    assert torch.equal(torch.stack(seen[:half]), torch.stack(seen[half:]))
    assert torch.allclose(without.abs(), image.abs(), atol=1e-5 * float(image.abs().max()))
    # the image has the phase that the given maps leave, as those of all methods
    combined = (ifftc(with_phase.kspace) * with_phase.maps.conj()).sum(1)
    if not options:  # compressed coils see nearly the same image
        own = (ifftc(with_phase.kspace) * with_maps(scan, "espirit").maps.conj()).sum(1)
        turn = torch.sgn(combined * own.conj())
        bright = image.abs() > 0.2 * image.abs().max()
        assert float((image * (without * turn).conj()).real[bright].mean() / image.abs().square()[bright].mean()) > 0.95


def test_memory_may_be_bounded_without_another_result(
    checkpoints: Callable[..., str], acquisition: Acquisition
) -> None:
    together = Posterior(checkpoints(), SAMPLER, n_samples=3, chains_at_once=3)(acquisition, generator=seeded())
    apart = Posterior(checkpoints(), SAMPLER, n_samples=3, chains_at_once=1)(acquisition, generator=seeded())
    assert together.samples is not None
    assert apart.samples is not None
    # sums over other batch sizes are in another order, which conjugate gradients amplify
    assert (together.samples - apart.samples).norm() < 1e-3 * together.samples.norm()


def test_draws_differ_and_their_mean_is_the_image(checkpoints: Callable[..., str], acquisition: Acquisition) -> None:
    result = Posterior(checkpoints(), SAMPLER, n_samples=3)(acquisition, generator=seeded())
    assert result.samples is not None
    assert result.std is not None
    assert result.samples.shape[0] == 3
    assert (result.samples[0] - result.samples[1]).abs().mean() > 0.1 * result.image.abs().mean()
    assert torch.allclose(result.samples.mean(0), result.image)
    # the mean of three draws errs too: 1 + 1/3 times their variance
    assert torch.allclose(result.samples.abs().std(0) * (4 / 3) ** 0.5, result.std)
    other = Posterior(checkpoints(), SAMPLER, n_samples=3)(acquisition, generator=seeded(1))
    assert (other.image - result.image).norm() > 1e-2 * result.image.norm()


def test_one_draw_has_no_spread(checkpoints: Callable[..., str], acquisition: Acquisition) -> None:
    assert Posterior(checkpoints(), SAMPLER, n_samples=1)(acquisition, generator=seeded()).std is None


def test_drawing_ends_when_the_mean_is_known_well_enough(
    checkpoints: Callable[..., str], acquisition: Acquisition
) -> None:
    def drawn(tolerance: float) -> Tensor:
        posterior = Posterior(checkpoints(), SAMPLER, n_samples=12, chains_at_once=2, tolerance=tolerance)
        samples = posterior(acquisition, generator=seeded()).samples
        assert samples is not None
        return samples

    assert len(drawn(0.0)) == 12
    early = drawn(0.5)
    assert 2 <= len(early) < 12


def test_the_items_of_a_batch_end_by_themselves() -> None:
    torch.manual_seed(0)
    long, short = torch.randn(6, 4, 5, dtype=torch.complex64), torch.randn(2, 4, 5, dtype=torch.complex64)
    both = from_samples([long, short])
    assert both.samples is not None
    assert both.std is not None
    assert both.samples.shape == (2, 2, 4, 5)
    assert torch.equal(both.image[0], long.mean(0))
    assert torch.equal(both.std[0], long.abs().std(0) * (7 / 6) ** 0.5)
    assert torch.equal(both.std[1], short.abs().std(0) * (3 / 2) ** 0.5)


def test_the_standard_deviation_is_that_of_the_error_of_the_mean() -> None:
    torch.manual_seed(0)
    draws = 10 + torch.randn(4, 100_000, 1).to(torch.complex64)  # far from zero, so that magnitudes are the real parts
    truth = 10 + torch.randn(100_000, 1)
    result = from_samples([draws])
    assert result.std is not None
    # both are 1.25; 100,000 pixels know a variance to half a percent
    assert float((result.image[0].abs() - truth).square().mean()) == pytest.approx(1.25, rel=0.02)
    assert float(result.std.square().mean()) == pytest.approx(1.25, rel=0.02)


def test_the_noise_level_is_found_in_the_corners_of_k_space() -> None:
    torch.manual_seed(0)
    kspace = 0.5 * torch.randn(2, 4, 64, 64, dtype=torch.complex64)
    kspace[1] *= 2
    kspace[..., 24:40, 24:40] += 100  # the object
    mask = torch.ones(2, 1, 1, 64, dtype=torch.bool)
    # a tenth of 4 x 4096 samples: 2.5 % of a standard deviation, a few times over
    assert torch.allclose(noise_level(kspace, mask), torch.tensor([0.5, 1.0]), rtol=0.05)


def test_whitening_does_not_change_the_level_of_the_noise(make_acquisition: Callable[..., Acquisition]) -> None:
    torch.manual_seed(0)
    made = make_acquisition(n_coils=3, shape=(64, 64))
    mixing = torch.tensor([[2.0, 0, 0], [1, 1, 0], [0, 0.5, 3]]).to(torch.complex64)
    noise = torch.einsum("ij,bjhw->bihw", mixing, torch.randn(made.kspace.shape, dtype=torch.complex64))
    white = with_white_noise(replace(made, kspace=noise * made.mask))
    assert white.noise_std is not None
    assert torch.allclose(noise_level(white.kspace, white.mask), white.noise_std, rtol=1e-3)


def test_a_given_noise_level_is_taken(checkpoints: Callable[..., str], acquisition: Acquisition) -> None:
    def image(**settings: Any) -> Tensor:
        return Posterior(checkpoints(), SAMPLER, n_samples=2, **settings)(acquisition, generator=seeded()).image

    assert acquisition.noise_std is not None
    unknown = replace(acquisition, noise_std=None)
    posterior = Posterior(checkpoints(), SAMPLER, n_samples=2)
    assert torch.equal(posterior.noise(acquisition), acquisition.noise_std)
    assert torch.equal(posterior.noise(unknown), noise_level(unknown.kspace, unknown.mask))
    assert (image() - image(noise_std=50.0)).norm() > 0.05 * image().norm()


def test_a_prior_without_phase_sees_images_without_phase(
    checkpoints: Callable[..., str], acquisition: Acquisition
) -> None:
    turned, phase = with_image_phase(acquisition)
    image = torch.randn(len(phase), 32, 36, dtype=torch.complex64)
    assert torch.allclose(phase.abs(), torch.ones_like(phase.abs()), atol=1e-6)
    assert torch.allclose(sense(turned)(image), sense(acquisition)(image * phase), atol=1e-4)
    result = Posterior(checkpoints("magnitude"), SAMPLER, n_samples=2)(acquisition, generator=seeded())
    residual = sense(acquisition)(result.image) - acquisition.kspace
    assert residual.norm() < 0.5 * acquisition.kspace.norm()


def test_progress_goes_from_nothing_to_all(checkpoints: Callable[..., str], acquisition: Acquisition) -> None:
    fractions: list[float] = []
    with listen(fractions.append):
        Posterior(checkpoints(), SAMPLER, n_samples=3, chains_at_once=2)(acquisition, generator=seeded())
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < 0.1
    assert fractions[-1] == pytest.approx(1.0)


def test_half_precision_gives_nearly_the_same(checkpoints: Callable[..., str], acquisition: Acquisition) -> None:
    full = Posterior(checkpoints(), SAMPLER, n_samples=2)(acquisition, generator=seeded())
    half = Posterior(checkpoints(), SAMPLER, n_samples=2, precision="bf16")(acquisition, generator=seeded())
    assert half.image.dtype == torch.complex64
    assert (half.image - full.image).norm() < 0.02 * full.image.norm()


def test_estimated_maps_are_refined_before_the_draws_and_given_ones_are_not(
    checkpoints: Callable[..., str], make_acquisition: Callable[..., Acquisition]
) -> None:
    made = make_acquisition(n_coils=4, shape=(32, 36))

    def images(**settings: Any) -> Tensor:
        return Posterior(checkpoints(), SAMPLER, n_samples=3, **settings)(made, generator=seeded()).image

    fractions: list[float] = []
    with listen(fractions.append):
        refined = images(refine_maps=2)
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)
    assert (refined - images()).norm() > 1e-3 * refined.norm()
    assert torch.equal(images(maps="given", refine_maps=2), images(maps="given"))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"n_samples": 0}, "at least 1"),
        ({"chains_at_once": 0}, "at least 1"),
        ({"tolerance": -1.0}, "at least 0"),
        ({"noise_std": 0.0}, "noise_std=0.0 must be above 0"),
        ({"maps": "exact"}, "not one of espirit"),
        ({"refine_maps": -1}, "refine_maps=-1 counts rounds"),
        ({"precision": "16"}, "not one of 32, bf16"),
    ],
)
def test_what_cannot_be_is_said(checkpoints: Callable[..., str], settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Posterior(checkpoints(), SAMPLER, **settings)


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    network = {"_target_": "spinwarp.models.unet.UNet", "in_channels": 1, "out_channels": 1, "channels": 2, "pools": 1}
    from spinwarp.models.unet import UNet

    state = {f"net.{k}": v for k, v in UNet(1, 1, 2, 1).state_dict().items()}
    path = tmp_path / "unet.ckpt"
    torch.save({"state_dict": state, "spinwarp": {"net": network, "name": "unet"}}, path)
    with pytest.raises(InputError, match="holds a UNet, not a score model"):
        Posterior(str(path), SAMPLER)
