"""Orthogonal wavelets: their inverse at every size, PyWavelets' numbers, sparsity, errors."""

import warnings

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spinwarp.errors import InputError
from spinwarp.operators import wavelet

NAMES = ["haar", "db2", "db4", "db8", "sym8", "coif2"]
# the published taps of sym8 are orthogonal to 1e-12, those of the others to 1e-15
EXACT = 1e-11


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))


@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 40)),
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12)),
    ),
    name=st.sampled_from(NAMES),
    levels=st.sampled_from([None, 0, 1, 2, 3]),
)
def test_the_transform_is_orthogonal_at_every_size(shape: tuple[int, ...], name: str, levels: int | None) -> None:
    if levels and min(shape) <= 2 ** (levels - 1):  # the last level has no pair of pixels left
        with pytest.raises(InputError, match=f"{levels} wavelet levels do not fit"):
            wavelet(shape, name, levels)
        return
    transform = wavelet(shape, name, levels)
    x, y = draw(2, *shape), draw(2, *shape, seed=1)
    forward, back = transform(x), transform.adjoint(y)
    assert forward.shape == x.shape
    scale = EXACT * norm(x)
    assert norm(transform.adjoint(forward) - x) < scale  # W^H W = I
    assert norm(transform(back) - y) < scale  # W W^H = I
    assert abs(norm(forward) - norm(x)) < scale
    assert abs(torch.vdot(forward.flatten(), y.flatten()) - torch.vdot(x.flatten(), back.flatten())) < scale * norm(y)
    assert norm(transform.normal(x) - transform.adjoint(forward)) < scale


def test_the_transform_is_linear() -> None:
    transform, x, y = wavelet((9, 14)), draw(2, 9, 14), draw(2, 9, 14, seed=1)
    combined = transform((2 - 3j) * x + y)
    torch.testing.assert_close(combined, (2 - 3j) * transform(x) + transform(y), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("shape", "levels"), [((64, 64), 3), ((32, 64), 2), ((24, 40), 2), ((16, 16), 1)])
def test_the_coefficients_are_those_of_pywavelets(shape: tuple[int, int], levels: int, name: str) -> None:
    """For sizes that every level halves, to the place and the sign."""
    image = draw(1, *shape)
    coefficients = wavelet(shape, name, levels)(image)[0].numpy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Level value of")  # that the filter is longer than the coarsest image
        expected = pywt.wavedec2(image[0].numpy(), name, mode="periodization", level=levels)
    h, w = shape[0] >> levels, shape[1] >> levels
    np.testing.assert_allclose(coefficients[:h, :w], expected[0], rtol=0, atol=1e-12)
    for horizontal, vertical, diagonal in expected[1:]:
        h, w = horizontal.shape
        np.testing.assert_allclose(coefficients[h : 2 * h, :w], horizontal, rtol=0, atol=1e-12)
        np.testing.assert_allclose(coefficients[:h, w : 2 * w], vertical, rtol=0, atol=1e-12)
        np.testing.assert_allclose(coefficients[h : 2 * h, w : 2 * w], diagonal, rtol=0, atol=1e-12)


def test_an_odd_size_hands_its_last_pixel_to_the_approximation() -> None:
    image = torch.zeros(1, 9, dtype=torch.complex128)
    image[0, -1] = 2
    coefficients = wavelet((9,), "db2", 1)(image)[0]
    assert coefficients[4] == 2  # four pairs, then the pixel itself
    assert coefficients.count_nonzero() == 1


@pytest.mark.parametrize("shape", [(256,), (64, 48), (32, 32, 16)])
def test_smooth_images_are_sparse(shape: tuple[int, ...]) -> None:
    """A sine over the image: a tenth of the coefficients hold all but a thousandth of the energy."""
    grids = torch.meshgrid(*[torch.arange(n) / n for n in shape], indexing="ij")
    wave = torch.stack([torch.sin(2 * torch.pi * g) for g in grids]).prod(0)
    image = torch.polar(wave.double(), grids[0].double())[None]
    energy = wavelet(shape)(image).abs().square().flatten().sort(descending=True).values
    assert energy[: len(energy) // 10].sum() > 0.999 * energy.sum()
    energy = image.abs().square().flatten().sort(descending=True).values
    assert energy[: len(energy) // 10].sum() < 0.6 * energy.sum()  # not so in the image itself


def test_levels_by_default_leave_the_approximation_no_shorter_than_the_filter() -> None:
    impulse = torch.ones(1, 64, 80, dtype=torch.complex128)
    coefficients = wavelet((64, 80), "db4")(impulse)[0]  # 8 taps: three levels to 8 pixels, a constant is all coarse
    assert (coefficients[:8, :10].abs() - 8).abs().max() < 1e-12
    coefficients[:8, :10] = 0
    assert coefficients.abs().max() < 1e-12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((8, 8), "dB99"), r"no wavelet 'dB99'; choose haar, db2"),
        (((8, 8), "morl"), r"no wavelet 'morl'; choose haar, db2"),
        (((8, 8), "bior2.2"), r"'bior2\.2' is not orthogonal; choose one such as haar"),
        (((8, 8), "dmey"), r"'dmey' is not orthogonal; choose one such as haar"),
        (((8, 9), "haar", 4), r"4 wavelet levels do not fit an image of \(8, 9\): each level halves it"),
        (((1, 9), "haar", 1), r"1 wavelet levels do not fit an image of \(1, 9\)"),
        (((8, 8), "haar", -1), r"-1 wavelet levels do not fit"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        wavelet(*arguments)


def test_gradients_flow_through_both_directions() -> None:
    transform = wavelet((5, 6), "db2", 2)
    assert torch.autograd.gradcheck(transform.__call__, draw(1, 5, 6).requires_grad_())
    assert torch.autograd.gradcheck(transform.adjoint, draw(1, 5, 6).requires_grad_())


def test_training_after_validation_may_use_the_matrices_that_inference_made() -> None:
    shape = (11, 13)  # of no other test, so that its matrices are made here
    with torch.inference_mode():
        wavelet(shape, "db3", 1)(draw(1, *shape))
    image = draw(1, *shape).requires_grad_()
    wavelet(shape, "db3", 1)(image).abs().sum().backward()
    assert image.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_precision_is_kept_and_the_arguments_are_left_as_they_were(dtype: torch.dtype) -> None:
    transform, image = wavelet((12, 9)), draw(2, 12, 9).to(dtype)
    before = image.clone()
    for apply in (transform, transform.adjoint, transform.normal):
        result = apply(image)
        assert result.dtype == dtype
        result.zero_()  # nor is the result a view of it
        assert torch.equal(image, before)
