import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from spinwarp.errors import InputError
from spinwarp.losses import ForegroundLoss, GaussianNLL, L1Loss, LaplaceNLL, MixedLoss, MultiScaleLoss, SSIMLoss

LOSSES = [L1Loss(), SSIMLoss(), MixedLoss(), MixedLoss(0.0), MixedLoss(1.0), MultiScaleLoss()]


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 16, 13, generator=generator)
    image = target + 0.1 * torch.randn(2, 16, 13, generator=generator)
    return image, target, torch.tensor([1.0, 2.5])


def test_l1_is_the_mean_absolute_error_in_units_of_each_data_range(batch: tuple[Tensor, ...]) -> None:
    image, target, data_range = batch
    errors = (image - target).abs().mean((1, 2)) / data_range
    torch.testing.assert_close(L1Loss()(image, target, data_range), errors.mean())


def test_ssim_loss_is_one_minus_the_ssim_of_scikit_image(batch: tuple[Tensor, ...]) -> None:
    image, target, data_range = batch
    similar = [
        structural_similarity(t.double().numpy(), x.double().numpy(), data_range=float(r))
        for x, t, r in zip(image, target, data_range, strict=True)
    ]
    # float32 against double
    assert float(SSIMLoss()(image, target, data_range)) == pytest.approx(1 - sum(similar) / 2, abs=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.84, 1.0])
def test_the_mixed_loss_weighs_the_two(batch: tuple[Tensor, ...], weight: float) -> None:
    expected = weight * SSIMLoss()(*batch) + (1 - weight) * L1Loss()(*batch)
    torch.testing.assert_close(MixedLoss(weight)(*batch), expected)


@pytest.mark.parametrize(("size", "n_scales"), [(13, 1), (28, 2), (55, 2), (56, 3), (230, 5)])
def test_the_multi_scale_loss_is_a_geometric_mean_over_scales(size: int, n_scales: int) -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(1, size, size + 3, generator=generator)
    image = target + 0.2 * torch.randn(target.shape, generator=generator)
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:n_scales]
    x, y = image[0].double().numpy(), target[0].double().numpy()
    product = 1.0
    for scale, weight in enumerate(weights / weights.sum()):
        windows = [np.lib.stride_tricks.sliding_window_view(a, (7, 7)).reshape(-1, 49) for a in (x, y)]
        means = [w.mean(1) for w in windows]
        variances = [w.var(1, ddof=1) for w in windows]
        covariance = ((windows[0] - means[0][:, None]) * (windows[1] - means[1][:, None])).sum(1) / 48
        similar = (2 * covariance + 0.03**2) / (variances[0] + variances[1] + 0.03**2)
        if scale == n_scales - 1:
            similar = similar * (2 * means[0] * means[1] + 0.01**2) / (means[0] ** 2 + means[1] ** 2 + 0.01**2)
        product *= similar.mean() ** weight
        h, w = (n // 2 * 2 for n in x.shape)
        x, y = (a[:h, :w].reshape(h // 2, 2, w // 2, 2).mean((1, 3)) for a in (x, y))
    expected = 0.84 * (1 - product) + 0.16 * float((image - target).abs().mean())
    assert float(MultiScaleLoss()(image, target, torch.ones(1))) == pytest.approx(expected, abs=1e-4)  # float32


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_foreground_loss_has_the_air_in_its_error_only(batch: tuple[Tensor, ...], weight: float) -> None:
    image, target, data_range = batch
    target[:, :, :6] = 0.01
    expected = []
    for x, t, r in zip(image.double().numpy(), target.double().numpy(), data_range.tolist(), strict=True):
        _, similar = structural_similarity(t, x, data_range=r, full=True)
        inside = (t > 0.05 * r)[3:-3, 3:-3]
        error = np.sqrt(((x - t) ** 2).mean()) / r
        expected.append(weight * (1 - similar[3:-3, 3:-3][inside].mean()) + (1 - weight) * error)
    # float32 against double
    assert float(ForegroundLoss(weight)(image, target, data_range)) == pytest.approx(np.mean(expected), abs=1e-4)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_perfect_image_costs_nothing_and_another_costs_something(loss, batch: tuple[Tensor, ...]) -> None:
    image, target, data_range = batch
    assert abs(float(loss(target, target, data_range))) < 1e-6
    value = loss(image, target, data_range)
    assert value.shape == ()
    assert float(value) > 0.01


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_the_scanner_s_scale_does_not_matter(loss, batch: tuple[Tensor, ...], scale: float) -> None:
    image, target, data_range = batch
    scaled = loss(scale * image, scale * target, scale * data_range)
    torch.testing.assert_close(scaled, loss(image, target, data_range), rtol=1e-4, atol=1e-6)  # float32 SSIM: 1e-5


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_descending_the_gradient_lowers_the_loss(loss, batch: tuple[Tensor, ...]) -> None:
    image, target, data_range = batch
    image.requires_grad_()
    value = loss(image, target, data_range)
    (gradient,) = torch.autograd.grad(value, image)
    assert gradient.isfinite().all()
    step = 1e-3 / gradient.abs().max()  # a thousandth of the range at most, where the loss is still linear
    with torch.no_grad():
        assert loss(image - step * gradient, target, data_range) < value


@pytest.mark.parametrize("loss", [SSIMLoss(), MixedLoss(), ForegroundLoss()], ids=repr)
def test_the_gradient_is_finite_where_both_images_are_flat(loss) -> None:
    image = torch.zeros(1, 9, 9, requires_grad=True)
    loss(image, torch.zeros(1, 9, 9), torch.ones(1)).backward()
    assert image.grad.isfinite().all()


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_that_is_no_fraction_is_refused(weight: float) -> None:
    with pytest.raises(InputError, match=f"a fraction between 0 and 1; got {weight}"):
        MixedLoss(weight)


@pytest.fixture
def std(batch: tuple[Tensor, ...]) -> Tensor:
    return 0.02 + 0.3 * torch.rand(batch[0].shape, generator=torch.Generator().manual_seed(1))


def test_the_gaussian_likelihood_is_that_of_torch(batch: tuple[Tensor, ...], std: Tensor) -> None:
    image, target, _ = batch
    expected = nn.GaussianNLLLoss(full=True)(image, target, std.square())
    torch.testing.assert_close(GaussianNLL()(image, target, std), expected)
    drawn = torch.distributions.Normal(image, std)
    torch.testing.assert_close(GaussianNLL()(image, target, std), -drawn.log_prob(target).mean())


def test_the_laplace_likelihood_is_that_of_a_distribution_with_this_deviation(
    batch: tuple[Tensor, ...], std: Tensor
) -> None:
    image, target, _ = batch
    drawn = torch.distributions.Laplace(image, std / 2**0.5)
    torch.testing.assert_close(drawn.stddev, std)
    torch.testing.assert_close(LaplaceNLL()(image, target, std), -drawn.log_prob(target).mean())


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", [GaussianNLL, LaplaceNLL])
def test_beta_weighs_pixels_in_training_and_leaves_the_likelihood_in_validation(
    batch: tuple[Tensor, ...], std: Tensor, kind: type, beta: float
) -> None:
    image, target, _ = batch
    image.requires_grad_()
    loss = kind(beta)
    (gradient,) = torch.autograd.grad(loss(image, target, std), image)
    (unweighed,) = torch.autograd.grad(kind()(image, target, std), image)
    weight = std ** (2 * beta) if kind is GaussianNLL else (std / 2**0.5) ** beta
    torch.testing.assert_close(gradient, weight * unweighed)
    torch.testing.assert_close(loss.eval()(image, target, std), kind()(image, target, std))


@pytest.mark.parametrize(("kind", "plain"), [(GaussianNLL, nn.MSELoss()), (LaplaceNLL, nn.L1Loss())])
def test_with_a_beta_of_one_the_image_learns_as_without_a_deviation(
    batch: tuple[Tensor, ...], std: Tensor, kind: type, plain: nn.Module
) -> None:
    image, target, _ = batch
    image.requires_grad_()
    (gradient,) = torch.autograd.grad(kind(1.0)(image, target, std), image)
    (expected,) = torch.autograd.grad(plain(image, target), image)
    torch.testing.assert_close(gradient, expected * (0.5 if kind is GaussianNLL else 1.0))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", [GaussianNLL, LaplaceNLL])
def test_the_right_deviation_has_no_gradient_whatever_beta(kind: type, beta: float) -> None:
    errors = torch.tensor([-2.0, 2.0])
    # where all errors have the same size, the likeliest deviation: the size (Gaussian), the mean (Laplace b)
    likeliest = 2.0 if kind is GaussianNLL else 2.0 * 2**0.5
    std = torch.full((2,), likeliest, requires_grad=True)
    (gradient,) = torch.autograd.grad(kind(beta)(errors, torch.zeros(2), std), std)
    torch.testing.assert_close(gradient, torch.zeros(2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [GaussianNLL, LaplaceNLL])
@pytest.mark.parametrize("beta", [-0.1, 1.1, float("nan")])
def test_a_beta_that_is_no_fraction_is_refused(kind: type, beta: float) -> None:
    with pytest.raises(InputError, match=f"beta is a fraction between 0 and 1; got {beta}"):
        kind(beta)
