from dataclasses import replace

import pytest
import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.errors import InputError
from spinwarp.fourier import fftc
from spinwarp.operators import LinearOperator, coil_maps, sense
from spinwarp.operators.sense import expand, reduce

# a dot product of n float32 numbers rounds to about 1e-7 of the norms; double to 1e-16
TOLERANCE = {torch.complex64: 1e-6, torch.complex128: 1e-14}
CASES = [
    pytest.param({"n_coils": coils, "shape": shape, "two_dimensional": plane}, id=f"{coils}coils-{shape}-{plane}")
    for coils, shape, plane in [
        (4, (37, 29), False),
        (4, (37, 29), True),
        (3, (24, 30), False),
        (3, (24, 29), True),
        (1, (25, 32), False),
        (1, (25, 32), True),
    ]
]


def draw(shape: torch.Size | tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def in_precision(acquisition: Acquisition, dtype: torch.dtype) -> Acquisition:
    return replace(acquisition, kspace=acquisition.kspace.to(dtype), maps=acquisition.maps.to(dtype))


def domains(acquisition: Acquisition, dtype: torch.dtype) -> tuple[LinearOperator, Tensor, Tensor]:
    """The operator, a random image and random k-space."""
    kspace = acquisition.kspace
    image = draw((kspace.shape[0], *kspace.shape[2:]), dtype, 1)
    return sense(in_precision(acquisition, dtype)), image, draw(kspace.shape, dtype, 2)


def norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_the_adjoint_passes_the_dot_test(make_acquisition, case: dict, dtype: torch.dtype) -> None:
    operator, image, kspace = domains(make_acquisition(**case), dtype)
    measured, back = operator(image), operator.adjoint(kspace)
    assert measured.shape == kspace.shape
    assert back.shape == image.shape
    assert measured.dtype == back.dtype == dtype
    left, right = torch.vdot(measured.flatten(), kspace.flatten()), torch.vdot(image.flatten(), back.flatten())
    assert abs(left - right) < TOLERANCE[dtype] * norm(measured) * norm(kspace)
    left = torch.vdot(operator.H(kspace).flatten(), image.flatten())
    right = torch.vdot(kspace.flatten(), operator.H.adjoint(image).flatten())
    assert abs(left - right) < TOLERANCE[dtype] * norm(measured) * norm(kspace)


@pytest.mark.parametrize("case", CASES)
def test_the_adjoint_is_that_of_automatic_differentiation(make_acquisition, case: dict) -> None:
    operator, image, kspace = domains(make_acquisition(**case), torch.complex128)
    image.requires_grad_()
    torch.vdot(kspace.flatten(), operator(image).flatten()).real.backward()
    torch.testing.assert_close(image.grad, operator.adjoint(kspace), rtol=0, atol=1e-13)


@pytest.mark.parametrize("case", CASES)
def test_normal_is_forward_then_adjoint(make_acquisition, case: dict) -> None:
    operator, image, _ = domains(make_acquisition(**case), torch.complex128)
    expected = operator.adjoint(operator(image))
    torch.testing.assert_close(operator.normal(image), expected, rtol=0, atol=1e-13)
    composed = operator.H @ operator
    torch.testing.assert_close(composed(image), expected, rtol=0, atol=1e-13)
    assert operator.normal(image.to(torch.complex64)).shape == image.shape


@pytest.mark.parametrize("case", CASES)
def test_the_norm_is_at_most_one(make_acquisition, case: dict) -> None:
    operator, image, _ = domains(make_acquisition(**case), torch.complex128)
    for _ in range(30):  # power iteration finds the largest eigenvalue of A^H A from below
        image = operator.normal(image)
        largest = norm(image)
        image = image / largest
    assert 0.5 < largest < 1 + 1e-6  # the maps are complex64: their sum of squares is one to 1e-7


@pytest.mark.parametrize("case", CASES)
def test_the_operator_is_mask_times_fourier_times_maps(make_acquisition, case: dict) -> None:
    acquisition = make_acquisition(**case)
    operator, image, _ = domains(acquisition, torch.complex64)
    measured = operator(image)
    for i in range(len(image)):
        for coil in range(acquisition.kspace.shape[1]):
            full = fftc(image[i] * acquisition.maps[i, coil])
            torch.testing.assert_close(measured[i, coil], full * acquisition.mask[i, 0], rtol=1e-5, atol=1e-5)
    assert not measured[~acquisition.mask.expand_as(measured)].any()


def test_a_line_mask_given_in_two_dimensions_is_the_same_operator(make_acquisition) -> None:
    acquisition = make_acquisition()
    operator, image, kspace = domains(acquisition, torch.complex64)
    h = kspace.shape[-2]
    plane = sense(replace(acquisition, mask=acquisition.mask.expand(-1, -1, h, -1)))
    torch.testing.assert_close(plane(image), operator(image))
    torch.testing.assert_close(plane.adjoint(kspace), operator.adjoint(kspace))
    torch.testing.assert_close(plane.normal(image), operator.normal(image), rtol=1e-5, atol=1e-5)


def test_one_coil_without_maps_has_a_map_of_ones(make_acquisition) -> None:
    acquisition = make_acquisition(n_coils=1, maps=False)
    image = draw((2, 37, 29), torch.complex64, 1)
    torch.testing.assert_close(sense(acquisition)(image), fftc(image)[:, None] * acquisition.mask)
    assert torch.equal(coil_maps(acquisition), torch.ones_like(acquisition.kspace))


def test_several_coils_without_maps_are_refused_with_a_remedy(make_acquisition) -> None:
    with pytest.raises(
        InputError, match=r"4 coils and no coil maps.*samples the centre .* data\.maps=.*reconstruct\.py: maps="
    ):
        sense(make_acquisition(n_coils=4, maps=False))


@pytest.mark.parametrize("two_dimensional", [False, True])
def test_the_gradient_reaches_learned_maps(make_acquisition, two_dimensional: bool) -> None:
    acquisition = make_acquisition(two_dimensional=two_dimensional)
    image = draw((2, 37, 29), torch.complex64, 1)
    for apply in ("__call__", "adjoint", "normal"):
        maps = acquisition.maps.clone().requires_grad_()
        operator = sense(replace(acquisition, maps=maps))
        argument = acquisition.kspace if apply == "adjoint" else image
        getattr(operator, apply)(argument).abs().square().sum().backward()
        assert maps.grad.isfinite().all()
        assert (maps.grad.abs().amax((-2, -1)) > 0).all(), apply  # of every coil of every item


def test_expand_and_reduce_are_adjoint_and_undo_each_other(make_acquisition) -> None:
    maps = make_acquisition().maps.to(torch.complex128)
    image, coils = draw((2, 37, 29), torch.complex128, 1), draw(maps.shape, torch.complex128, 2)
    left = torch.vdot(expand(image, maps).flatten(), coils.flatten())
    right = torch.vdot(image.flatten(), reduce(coils, maps).flatten())
    assert abs(left - right) < 1e-12 * norm(image) * norm(coils)
    # complex64 maps: their sum of squares is one to 1e-6
    torch.testing.assert_close(reduce(expand(image, maps), maps), image, rtol=1e-5, atol=1e-5)


def test_the_acquisition_and_the_arguments_are_left_as_they_were(make_acquisition) -> None:
    acquisition = make_acquisition()
    kept = (acquisition.kspace.clone(), acquisition.mask.clone(), acquisition.maps.clone())
    operator, image, kspace = domains(acquisition, torch.complex64)
    before = (image.clone(), kspace.clone())
    operator(image), operator.adjoint(kspace), operator.normal(image)
    assert all(map(torch.equal, kept, (acquisition.kspace, acquisition.mask, acquisition.maps)))
    assert all(map(torch.equal, before, (image, kspace)))
