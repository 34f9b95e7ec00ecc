"""Latent optimisation: closed forms, restarts, stopping, and what the reconstructor does around it."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.errors import InputError
from spinwarp.fourier import fftc
from spinwarp.masks import hold_out
from spinwarp.models.flow import Flow
from spinwarp.models.gan import GAN
from spinwarp.models.generator import ImageGenerator, Size
from spinwarp.models.unet import MagnitudeUNet
from spinwarp.operators import sense
from spinwarp.preparation import generator_units
from spinwarp.recon.latent import LatentOptimisation
from spinwarp.recon.latent_fit import fit_latent

SIZE = (6, 20)


class Linear(ImageGenerator):
    """``G(z) = M z``, ``n`` latents to the real and imaginary parts of an image."""

    def __init__(self, n: int, size: Size = SIZE) -> None:
        super().__init__(size)
        generator = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(2 * size[0] * size[1], n, generator=generator, dtype=torch.float64) / n**0.5

    def latent_shape(self, size: Size | None = None) -> tuple[int]:
        return (self.matrix.shape[1],)

    def generate(self, z: Tensor, size: Size | None = None) -> Tensor:
        return torch.view_as_complex((z @ self.matrix.T.to(z.dtype)).unflatten(1, (*self.size, 2)))


class Wavy(ImageGenerator):
    """One latent, and a misfit with several minima."""

    def latent_shape(self, size: Size | None = None) -> tuple[int]:
        return (1,)

    def generate(self, z: Tensor, size: Size | None = None) -> Tensor:
        return (torch.sin(0.3 * z) + 0.1 * z)[..., None] * torch.ones(self.size, dtype=torch.complex64)


def problem(image: Tensor, noise: float = 0.0, seed: int = 0) -> Acquisition:
    """Every second line and the four in the middle of ``(batch, h, w)``, one coil."""
    mask = torch.zeros(len(image), 1, 1, image.shape[-1], dtype=torch.bool)
    middle = image.shape[-1] // 2
    mask[..., ::2] = mask[..., middle - 2 : middle + 2] = True
    kspace = fftc(image[:, None])
    generator = torch.Generator().manual_seed(seed)
    kspace = kspace + noise * torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)
    return Acquisition(kspace * mask, mask, maps=torch.ones_like(kspace))


def images(batch: int = 2, dtype: torch.dtype = torch.complex128) -> Tensor:
    return torch.randn(batch, *SIZE, dtype=dtype, generator=torch.Generator().manual_seed(5))


def stacked(net: Linear, data: Acquisition, i: int) -> tuple[Tensor, Tensor]:
    """``H = A G`` as a real matrix on the sampled lines of item ``i``, and the data."""
    columns = net.generate(torch.eye(net.matrix.shape[1], dtype=torch.float64))
    kept = data.mask[i].expand(1, *SIZE)
    kspace = fftc(columns[:, None])[:, kept]
    return torch.view_as_real(kspace).flatten(1).T, torch.view_as_real(data.kspace[i][kept]).flatten()


@pytest.mark.parametrize("n", [2 * SIZE[0] * SIZE[1], 300])
def test_from_zero_a_linear_generator_gives_its_closed_form(n: int) -> None:
    net, data = Linear(n), problem(images())
    fit = fit_latent(net, data, torch.zeros(1, n, dtype=torch.float64), iterations=300, patience=None)
    for i in range(2):
        matrix, rhs = stacked(net, data, i)
        z = matrix.T @ torch.linalg.solve(matrix @ matrix.T, rhs)
        torch.testing.assert_close(fit.image[i], net.generate(z[None])[0], rtol=0, atol=1e-8)
    assert fit.residuals.max() < 1e-8


def test_the_prior_makes_it_a_ridge() -> None:
    net, data = Linear(30), problem(images(), noise=0.1)
    fit = fit_latent(
        net, data, torch.zeros(1, 30, dtype=torch.float64), prior_weight=0.3, iterations=100, patience=None
    )
    for i in range(2):
        matrix, rhs = stacked(net, data, i)
        z = torch.linalg.solve(matrix.T @ matrix + 0.3 * torch.eye(30, dtype=torch.float64), matrix.T @ rhs)
        torch.testing.assert_close(fit.z[i], z, rtol=0, atol=1e-8)


@pytest.mark.parametrize("patience", [None, 5])
def test_the_best_start_wins_for_each_item_by_itself(patience: int | None) -> None:
    net = Wavy(SIZE)
    truth = torch.tensor([[26.0], [-24.0]])
    starts = torch.tensor([[0.0], [-22.0], [28.0]])
    data = problem(net.generate(truth))
    fit = fit_latent(net, data, starts, iterations=40, patience=patience)
    assert fit.winner.tolist() == [2, 1]
    torch.testing.assert_close(fit.image, net.generate(truth), rtol=0, atol=1e-2)
    assert fit.residuals.shape == (3, 2)
    winners = fit.residuals.gather(0, fit.winner[None])[0]
    assert (winners < 1e-2).all()
    assert (fit.residuals > 0.05).sum() >= 3  # the others are caught in other minima
    residual = torch.linalg.vector_norm((sense(data)(fit.image) - data.kspace).flatten(1), dim=1)
    assert winners == pytest.approx(residual / torch.linalg.vector_norm(data.kspace.flatten(1), dim=1), abs=1e-5)


def test_the_held_out_lines_stop_the_descent_before_it_fits_the_noise() -> None:
    # few probable directions and many improbable ones, which only the noise needs
    net = Linear(2 * SIZE[0] * SIZE[1])
    net.matrix[:, 10:] *= 0.1
    z = torch.zeros(2, net.matrix.shape[1], dtype=torch.float64)
    z[:, :10] = torch.randn(2, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    truth = net.generate(z)
    data = problem(truth, noise=0.2, seed=1)
    starts = torch.zeros(1, z.shape[1], dtype=torch.float64)
    to_the_end = fit_latent(net, data, starts, iterations=100, patience=None)
    stopped = fit_latent(net, data, starts, iterations=100, patience=8)
    for i in range(2):
        assert 0 < stopped.stopped[0, i] < 60
        # the end has fitted the noise; a quarter of that error is what stopping has to save here
        assert torch.linalg.vector_norm(stopped.image[i] - truth[i]) < 0.75 * torch.linalg.vector_norm(
            to_the_end.image[i] - truth[i]
        )
    assert len(stopped.curve) == int(stopped.stopped.max()) + 8 + 1
    assert to_the_end.held_out_curve is None
    assert stopped.held_out_curve is not None
    assert stopped.held_out_curve.shape == stopped.curve.shape


def test_a_trace_sees_every_iterate() -> None:
    net, data, seen = Linear(30), problem(images()), {}
    starts = torch.zeros(2, 30, dtype=torch.float64)
    starts[1] = 1
    fit = fit_latent(net, data, starts, iterations=6, patience=None, trace=seen.__setitem__)
    assert list(seen) == list(range(7))
    assert torch.equal(seen[0], starts.repeat_interleave(2, 0))
    assert torch.equal(seen[6].unflatten(0, (2, 2))[fit.winner, torch.arange(2)], fit.z)


def test_what_is_held_out_is_not_fitted() -> None:
    net, data = Linear(50), problem(images(), noise=0.1)
    changed = replace(data, kspace=torch.where(hold_out(data), 7 * data.kspace, data.kspace))
    starts = torch.zeros(1, 50, dtype=torch.float64)
    one, other = (fit_latent(net, d, starts, iterations=10, patience=50) for d in (data, changed))
    torch.testing.assert_close(one.curve, other.curve, rtol=1e-9, atol=0)
    assert one.held_out_curve is not None
    assert other.held_out_curve is not None
    assert not torch.allclose(one.held_out_curve, other.held_out_curve, rtol=1e-2)


def test_the_units_of_generators_take_scale_and_phase_out(make_acquisition: Callable[..., Acquisition]) -> None:
    acquisition = make_acquisition()
    problem, unit = generator_units(acquisition)
    # the same data, image and maps apart
    image = torch.randn(2, 37, 29, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    turned = sense(problem)(image) * unit.abs()[:, None]
    torch.testing.assert_close(turned, sense(acquisition)(unit * image), rtol=1e-4, atol=1e-4)
    other, other_unit = generator_units(replace(acquisition, kspace=-3j * acquisition.kspace))
    torch.testing.assert_close(other_unit, -3j * unit, rtol=1e-4, atol=1e-6)
    back, same = problem.maps, other.maps
    assert back is not None
    assert same is not None
    torch.testing.assert_close(same, -1j * back, rtol=0, atol=1e-4)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., str]:
    def write(net: torch.nn.Module, **arguments: object) -> str:
        description = {"_target_": f"{type(net).__module__}.{type(net).__qualname__}", **arguments}
        state = {f"net.{name}": value for name, value in net.state_dict().items()}
        torch.save({"state_dict": state, "spinwarp": {"net": description, "name": "tiny"}}, tmp_path / "net.ckpt")
        return str(tmp_path / "net.ckpt")

    return write


def flow_file(checkpoint: Callable[..., str]) -> str:
    torch.manual_seed(0)
    return checkpoint(Flow((16, 16), 1, 1, 4), size=[16, 16], levels=1, depth=1, channels=4)


def test_the_log_says_which_start_won_and_its_residual(
    checkpoint: Callable[..., str], make_acquisition: Callable[..., Acquisition], caplog: pytest.LogCaptureFixture
) -> None:
    method = LatentOptimisation(flow_file(checkpoint), restarts=3, iterations=3)
    with caplog.at_level(logging.INFO, logger="spinwarp.recon.latent"):
        method(make_acquisition())
    assert len(caplog.messages) == 2  # one an item; of a flow only z = 0 is tried
    assert caplog.messages[0].startswith("latent: start 1 of 1 won, residual 0.")


def test_data_consistency_and_sparse_deviation_explain_what_the_range_cannot(
    checkpoint: Callable[..., str], make_acquisition: Callable[..., Acquisition]
) -> None:
    torch.manual_seed(0)
    arguments = {"n_latents": 3, "channels": 4, "levels": 2}
    path = checkpoint(GAN((32, 36), **arguments), size=[32, 36], **arguments)
    acquisition = make_acquisition(shape=(32, 36))

    def residual(**options: float) -> float:
        method = LatentOptimisation(path, restarts=1, iterations=3, maps="given", **options)
        error = sense(acquisition)(method(acquisition).image) - acquisition.kspace
        return float(torch.linalg.vector_norm(error) / torch.linalg.vector_norm(acquisition.kspace))

    range_alone = residual()
    assert residual(deviation=0.1) < residual(deviation=1.0) < range_alone
    assert residual(data_consistency=0.01) < residual(data_consistency=1.0) < range_alone
    assert residual(data_consistency=1e6) == pytest.approx(range_alone, rel=1e-3)


def test_a_gan_of_another_size_is_refused_with_the_way_out(
    checkpoint: Callable[..., str], make_acquisition: Callable[..., Acquisition]
) -> None:
    arguments = {"n_latents": 3, "channels": 4, "levels": 2}
    method = LatentOptimisation(checkpoint(GAN((16, 16), **arguments), size=[16, 16], **arguments))
    with pytest.raises(InputError, match=r"makes images of 16x16, but 37x29 are needed; train one of that size"):
        method(make_acquisition())


def test_a_checkpoint_without_a_generator_is_refused(checkpoint: Callable[..., str]) -> None:
    path = checkpoint(MagnitudeUNet(channels=2, pools=1), channels=2, pools=1)
    with pytest.raises(InputError, match=r"holds a MagnitudeUNet, but recon=latent needs a generator.*model=vae"):
        LatentOptimisation(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"restarts": 0}, "restarts=0 must be at least 1"),
        ({"iterations": 0}, "iterations=0 must be at least 1"),
        ({"patience": 0}, "patience=0 must be at least 1"),
        ({"maps": "mine"}, "maps='mine' is not one of espirit"),
        ({"prior_weight": -1.0}, "prior_weight=-1.0"),
        ({"deviation": -1.0}, "deviation=-1.0"),
        ({"data_consistency": 0.0}, "data_consistency=0.0 is above zero"),
    ],
)
def test_numbers_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LatentOptimisation("nothing", **options)  # type: ignore[arg-type]
