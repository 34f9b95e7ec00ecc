from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from spinwarp.errors import InputError
from spinwarp.metrics import nmse, psnr, ssim, ssim_map


def pair(h: int = 24, w: int = 19, batch: int = 3, seed: int = 0, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """Smooth-plus-rough positive images in double precision, and a noisy version of them."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0, 1, h, dtype=torch.float64)[:, None] * torch.linspace(0.5, 1, w, dtype=torch.float64)
    target = ramp + 0.2 * torch.rand(batch, h, w, dtype=torch.float64, generator=generator)
    return target + noise * torch.randn(batch, h, w, dtype=torch.float64, generator=generator), target


def test_the_metrics_are_those_of_the_fastmri_reference(shared: Path) -> None:
    golden = np.load(shared / "golden" / "fastmri_metrics.npz")
    image, target = (torch.from_numpy(golden[name]).double() for name in ("pr", "gt"))
    data_range = target.max()
    # the reference works in float32 for all but SSIM: 1e-6 relative
    assert float(nmse(image, target)) == pytest.approx(float(golden["nmse"]), rel=1e-6)
    assert float(psnr(image, target, data_range)) == pytest.approx(float(golden["psnr"]), rel=1e-6)
    assert float((image - target).square().mean()) == pytest.approx(float(golden["mse"]), rel=1e-6)
    similarity = float(ssim(image, target, data_range.expand(len(image))).mean())
    assert similarity == pytest.approx(float(golden["ssim"].item()), abs=1e-6)
    assert 1 - similarity == pytest.approx(float(golden["ssimloss"]), abs=1e-6)


@given(h=st.integers(7, 30), w=st.integers(7, 30), noise=st.floats(0, 1), scale=st.sampled_from([1e-6, 1.0, 4096.0]))
def test_ssim_is_that_of_scikit_image(h: int, w: int, noise: float, scale: float) -> None:
    image, target = (scale * x for x in pair(h, w, noise=noise))
    data_range = target.amax((-2, -1))
    expected = torch.tensor(
        [
            structural_similarity(t.numpy(), x.numpy(), data_range=float(r))
            for t, x, r in zip(target, image, data_range, strict=True)
        ],
        dtype=torch.float64,
    )
    # double: only the order of summation differs; float32 loses some digits in E[x^2] - E[x]^2
    torch.testing.assert_close(ssim(image, target, data_range), expected, rtol=0, atol=1e-9)
    single = ssim(image.float(), target.float(), data_range.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-5)


def test_the_ssim_map_is_that_of_scikit_image_inside_the_border() -> None:
    image, target = pair(batch=1)
    _, full = structural_similarity(target[0].numpy(), image[0].numpy(), data_range=1.5, full=True)
    ours = ssim_map(image, target, torch.tensor([1.5], dtype=torch.float64))
    assert ours.shape == (1, 18, 13)
    np.testing.assert_allclose(ours[0].numpy(), full[3:-3, 3:-3], atol=1e-9)


def test_each_image_has_its_own_data_range() -> None:
    image, target = pair()
    ranges = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    together = ssim(image, target, ranges)
    apart = [ssim(image[i : i + 1], target[i : i + 1], ranges[i : i + 1])[0] for i in range(3)]
    torch.testing.assert_close(together, torch.stack(apart), rtol=0, atol=1e-14)
    assert not torch.allclose(ssim(image, target, torch.ones(3)), together)  # the range matters


def test_identical_images_are_perfect_and_ssim_is_symmetric() -> None:
    image, target = pair()
    one = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(ssim(target, target, one), one, rtol=0, atol=1e-12)
    torch.testing.assert_close(ssim(image, target, one), ssim(target, image, one), rtol=0, atol=1e-12)
    assert float(nmse(target, target)) == 0
    assert float(psnr(target, target, one[0])) == float("inf")


def test_psnr_is_that_of_scikit_image() -> None:
    image, target = pair()
    expected = peak_signal_noise_ratio(target.numpy(), image.numpy(), data_range=1.2)
    assert float(psnr(image, target, torch.tensor(1.2))) == pytest.approx(expected, rel=1e-7)  # the range is float32


def test_nmse_is_relative_to_the_target() -> None:
    image, target = pair()
    expected = np.linalg.norm(image.numpy() - target.numpy()) ** 2 / np.linalg.norm(target.numpy()) ** 2
    assert float(nmse(image, target)) == pytest.approx(expected, rel=1e-12)
    assert float(nmse(torch.zeros_like(target), target)) == 1.0


def test_the_gradient_of_ssim_agrees_with_finite_differences() -> None:
    image, target = pair(9, 8, batch=2)
    image.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ssim(x, target, torch.ones(2, dtype=torch.float64)), image)


def test_shapes_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(InputError, match=r"image \(1, 9, 9\) and target \(1, 9, 8\) must have the same shape"):
        ssim(torch.ones(1, 9, 9), torch.ones(1, 9, 8), torch.ones(1))
    with pytest.raises(InputError, match=r"at least 7x7 pixels; got \(6, 9\)"):
        ssim(torch.ones(1, 6, 9), torch.ones(1, 6, 9), torch.ones(1))
