import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spinwarp.fourier import _signs, circular_filter, fftc, ifftc

SIZES = st.integers(1, 24)
# float32 transforms of some hundred samples: rounding of 1e-7 grows with log2(n); double transforms have 1e-16
SINGLE, DOUBLE = 1e-6, 1e-14


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.complex64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def difference(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


def shift_transform_shift(x: Tensor, dims: tuple[int, ...], inverse: bool = False) -> Tensor:
    transform = torch.fft.ifftn if inverse else torch.fft.fftn
    return torch.fft.fftshift(transform(torch.fft.ifftshift(x, dim=dims), dim=dims, norm="ortho"), dim=dims)


@given(h=SIZES, w=SIZES, dims=st.sampled_from([(-2, -1), (-1,), (-2,), (-1, -2)]), inverse=st.booleans())
def test_the_transform_is_shift_fft_shift_for_odd_and_even_sizes(h: int, w: int, dims: tuple, inverse: bool) -> None:
    x = random(2, h, w, dtype=torch.complex128)
    transform = ifftc if inverse else fftc
    assert difference(transform(x, dims), shift_transform_shift(x, dims, inverse)) < DOUBLE
    single = transform(x.to(torch.complex64), dims)
    assert single.dtype == torch.complex64
    assert difference(single, shift_transform_shift(x, dims, inverse)) < SINGLE


@given(h=SIZES, w=SIZES)
def test_the_transform_is_unitary_and_the_inverse_undoes_it(h: int, w: int) -> None:
    x, y = random(3, h, w, seed=1), random(3, h, w, seed=2)
    assert difference(ifftc(fftc(x)), x) < SINGLE
    assert difference(fftc(ifftc(x)), x) < SINGLE
    assert math.isclose(torch.linalg.vector_norm(fftc(x)), torch.linalg.vector_norm(x), rel_tol=SINGLE)
    # <F x, y> = <x, F^-1 y>; relative to the norms, since random vectors are nearly orthogonal
    defect = torch.vdot(fftc(x).flatten(), y.flatten()) - torch.vdot(x.flatten(), ifftc(y).flatten())
    assert abs(defect) < SINGLE * torch.linalg.vector_norm(x) * torch.linalg.vector_norm(y)


@pytest.mark.parametrize("shape", [(8, 6), (7, 5), (8, 5), (9, 6), (6, 10)])
def test_zero_frequency_and_image_centre_lie_at_half_the_size(shape: tuple[int, int]) -> None:
    h, w = shape
    impulse = torch.zeros(shape, dtype=torch.complex64)
    impulse[h // 2, w // 2] = (h * w) ** 0.5
    flat = torch.ones(shape, dtype=torch.complex64)
    torch.testing.assert_close(fftc(flat), impulse, rtol=0, atol=1e-5)  # the peak is 8 at most
    torch.testing.assert_close(fftc(impulse), flat, rtol=0, atol=1e-6)
    torch.testing.assert_close(ifftc(impulse), flat, rtol=0, atol=1e-6)


@given(h=SIZES, w=SIZES)
def test_two_transforms_along_one_axis_are_one_along_both(h: int, w: int) -> None:
    x = random(2, 3, h, w)
    assert difference(fftc(fftc(x, (-1,)), (-2,)), fftc(x)) < SINGLE
    assert difference(ifftc(ifftc(x, (-2,)), (-1,)), ifftc(x)) < SINGLE


@given(h=SIZES, w=SIZES, dims=st.sampled_from([(-2, -1), (-1,), (-2,)]), per_row=st.booleans())
def test_a_circular_filter_is_transform_multiply_transform_back(h: int, w: int, dims: tuple, per_row: bool) -> None:
    x = random(2, 3, h, w, dtype=torch.complex128)
    rows, columns = (h if per_row or -2 in dims else 1), (w if -1 in dims else 1)
    response = torch.rand(2, 1, rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    expected = ifftc(response * fftc(x, dims), dims)
    # absolute: a response may be nearly zero everywhere, and then rounding is large beside the result
    torch.testing.assert_close(circular_filter(x, response, dims), expected, rtol=0, atol=1e-13)


def test_a_mask_that_is_constant_along_the_readout_filters_both_axes_alike() -> None:
    x, mask = random(2, 3, 9, 8), torch.rand(2, 1, 1, 8) < 0.5
    expected = ifftc(mask * fftc(x))
    assert difference(circular_filter(x, mask, (-1,)), expected) < SINGLE
    assert difference(circular_filter(x, mask, (-2, -1)), expected) < SINGLE


@pytest.mark.parametrize("shape", [(6, 8), (7, 8)])
def test_gradients_flow_after_a_first_call_under_inference_mode(shape: tuple[int, int]) -> None:
    _signs.cache_clear()
    with torch.inference_mode():  # validation before training
        fftc(random(*shape))
    x = random(*shape).requires_grad_()
    y = random(*shape, seed=1)
    torch.vdot(y.flatten(), fftc(x).flatten()).real.backward()
    # the gradient of Re <y, F x> is F^H y
    assert difference(x.grad, ifftc(y)) < SINGLE


@pytest.mark.parametrize("shape", [(4, 6), (5, 3)])
def test_gradients_agree_with_finite_differences(shape: tuple[int, int]) -> None:
    x = random(*shape, dtype=torch.complex128).requires_grad_()
    assert torch.autograd.gradcheck(fftc, x)
    assert torch.autograd.gradcheck(ifftc, x)


def test_the_input_is_left_as_it_was() -> None:
    x = random(6, 7)
    before = x.clone()
    fftc(x), ifftc(x), fftc(x[:, :6]), circular_filter(x, torch.ones(6, 7), (-2, -1))
    assert torch.equal(x, before)
