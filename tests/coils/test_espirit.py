from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from spinwarp.coils import espirit_maps
from spinwarp.coils.calibration import calibration_blocks, principal_coils
from spinwarp.data.simulation import loop_coil_maps, smooth_phase
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc


def scene(shape: tuple[int, int], n_coils: int = 6, noise: float = 0.002, seed: int = 0) -> tuple[Tensor, ...]:
    """K-space ``(1, coil, h, w)`` of a textured ellipse, fully sampled, the true maps, and where the object is."""
    rng = np.random.RandomState(seed)
    h, w = shape
    y, x = torch.linspace(-1, 1, h)[:, None], torch.linspace(-1, 1, w)
    inside = (x / 0.7) ** 2 + (y / 0.8) ** 2 < 1
    magnitude = inside * (0.8 + 0.4 * torch.cos(9 * x + 4 * y) * torch.cos(7 * y))
    image = torch.polar(magnitude, torch.from_numpy(smooth_phase(shape, rng)))
    maps = torch.from_numpy(loop_coil_maps(n_coils, shape, rng))[None]
    kspace = fftc(image * maps)
    generator = torch.Generator().manual_seed(seed)
    return kspace + noise * torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator), maps, inside


def line_mask(width: int, n: int) -> Tensor:
    mask = torch.zeros(1, 1, 1, width, dtype=torch.bool)
    mask[..., ::4] = True
    mask[..., width // 2 - n // 2 : width // 2 - n // 2 + n] = True
    return mask


def plane_mask(shape: tuple[int, int], n: int) -> Tensor:
    h, w = shape
    mask = torch.rand(1, 1, h, w, generator=torch.Generator().manual_seed(0)) < 0.2
    mask[..., h // 2 - n // 2 : h // 2 - n // 2 + n, w // 2 - n // 2 : w // 2 - n // 2 + n] = True
    return mask


def error(estimate: Tensor, truth: Tensor, inside: Tensor) -> float:
    """Mean of ``1 - |correlation|`` over the object; no phase of a pixel matters, and half the squared angle."""
    correlation = (estimate.conj() * truth).sum(1).abs() / (estimate.norm(dim=1) * truth.norm(dim=1)).clamp_min(1e-9)
    return float((1 - correlation)[:, inside].mean())


@pytest.mark.parametrize("kind", ["line", "plane"])
@pytest.mark.parametrize(("shape", "n_coils"), [((80, 64), 6), ((65, 81), 5), ((64, 64), 2)])
def test_the_maps_are_the_true_ones_up_to_phase(shape: tuple[int, int], n_coils: int, kind: str) -> None:
    kspace, truth, inside = scene(shape, n_coils)
    mask = line_mask(shape[1], 20) if kind == "line" else plane_mask(shape, 20)
    maps, eigenvalues = espirit_maps(kspace * mask, mask)
    assert maps.shape == truth.shape
    assert maps.dtype == torch.complex64
    assert eigenvalues.shape == (1, *shape)
    # measured: 7e-6 to 1e-5, an angle of a quarter of a degree; maps that are the same everywhere are at 0.4
    assert error(maps, truth, inside) < 3e-5
    # k-space of the object is kept: measured 0.9997
    assert eigenvalues[:, inside].mean() > 0.999
    assert eigenvalues.max() < 1 + 1e-5  # an average of projections: only rounding is above


def test_the_eigenvalue_is_small_far_from_the_object() -> None:
    kspace, _, _ = scene((96, 96), 8)
    _, eigenvalues = espirit_maps(kspace, line_mask(96, 24))
    corner = eigenvalues[0, :6, :6]
    assert corner.mean() < 0.3  # measured: 0.1


def reference(block: Tensor, kernel: int, threshold: float, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The algorithm as the paper has it: all singular vectors, padded and transformed, and a full decomposition."""
    n_coils = block.shape[0]
    patches = [
        block[:, i : i + kernel, j : j + kernel].flatten()
        for i in range(block.shape[1] - kernel + 1)
        for j in range(block.shape[2] - kernel + 1)
    ]
    left, values, _ = torch.linalg.svd(torch.stack(patches, 1).to(torch.complex128), full_matrices=False)
    kernels = left[:, values > threshold * values[0]].T.reshape(-1, n_coils, kernel, kernel)
    padded = torch.zeros(len(kernels), n_coils, *shape, dtype=torch.complex128)
    padded[..., shape[0] // 2 : shape[0] // 2 + kernel, shape[1] // 2 : shape[1] // 2 + kernel] = kernels
    images = ifftc(padded) * (shape[0] * shape[1]) ** 0.5 / kernel
    values, vectors = torch.linalg.eigh(torch.einsum("ncyx,ndyx->yxcd", images, images.conj()))
    return values.flip(-1).permute(2, 0, 1), vectors.flip(-1).permute(3, 2, 0, 1)


@pytest.mark.parametrize(("shape", "columns"), [((32, 30), 18), ((31, 33), 20)])
def test_it_does_what_the_paper_says(shape: tuple[int, int], columns: int) -> None:
    kspace, _, _ = scene(shape, 4)
    mask = line_mask(shape[1], columns)
    maps, eigenvalues = espirit_maps(kspace, mask, n_maps=2, calibration=20, threshold=0.03, crop=0)
    (block,) = calibration_blocks(kspace, mask, limit=20)
    values, vectors = reference(block, 6, 0.03, shape)
    # a Gram matrix in float32 knows a singular vector at 0.03 of the largest to about 1e-3; measured: up to 4e-4
    torch.testing.assert_close(eigenvalues[0, 0], values[0].float(), rtol=0, atol=1e-3)
    # eigenvectors whose values are not apart are any mixture; of the others the error is that of rounding
    first_apart = values[0] - values[1] > 0.1
    second_apart = first_apart & (values[1] - values[2] > 0.1)
    for i, apart in enumerate((first_apart, second_apart)):
        assert apart.float().mean() > 0.4
        assert error(maps[:, i], vectors[None, i].to(torch.complex64), apart) < 1e-5


def test_the_sum_of_squares_is_one_above_the_crop_and_zero_below() -> None:
    kspace, _, _ = scene((80, 64))
    mask = line_mask(64, 20)
    everywhere, eigenvalues = espirit_maps(kspace, mask, crop=0)
    torch.testing.assert_close(everywhere.abs().square().sum(1), torch.ones(1, 80, 64), rtol=0, atol=1e-5)
    for crop in (0.7, 0.9):
        maps, _ = espirit_maps(kspace, mask, crop=crop)
        kept = eigenvalues > crop
        assert 0.3 < kept.float().mean() < 1
        assert torch.equal(maps, everywhere * kept[:, None])


def test_the_phase_is_relative_to_the_principal_coil_and_smooth() -> None:
    kspace, truth, inside = scene((80, 64))
    mask = line_mask(64, 20)
    maps, _ = espirit_maps(kspace, mask, crop=0)
    (block,) = calibration_blocks(kspace, mask)
    virtual = torch.einsum("c,chw->hw", principal_coils(block, 1)[0], maps[0])
    torch.testing.assert_close(virtual.imag, torch.zeros(80, 64), rtol=0, atol=1e-5)
    assert (virtual.real >= 0).all()
    # neighbours within the object differ as much as those of the true maps (measured: 8 % more): nothing jumps
    both = inside[1:] & inside[:-1]
    steps = [(m[:, 1:] - m[:, :-1]).norm(dim=0)[both].max() for m in (maps[0], truth[0])]
    assert steps[0] < 1.5 * steps[1]


# about twice what was measured; maps that are the same everywhere are at 0.4, those of the low-resolution images of two
# to five lines at 0.08, 0.04, 0.04 and 0.02
@pytest.mark.parametrize(
    ("n", "largest"), [(1, 0.2), (2, 0.13), (3, 0.02), (4, 5e-3), (5, 1.2e-3), (8, 1e-4), (12, 6e-5)]
)
def test_few_calibration_lines_take_a_smaller_kernel(n: int, largest: float) -> None:
    kspace, truth, inside = scene((80, 64))
    maps, eigenvalues = espirit_maps(kspace, line_mask(64, n))
    assert error(maps, truth, inside) < largest
    assert eigenvalues[:, inside].mean() > 0.97


def test_only_the_calibration_block_is_used_and_the_data_are_left_as_they_were() -> None:
    kspace, _, _ = scene((60, 49))
    mask = line_mask(49, 12)
    only = torch.zeros_like(kspace)
    only[..., 18:42, 18:30] = kspace[..., 18:42, 18:30]
    before = kspace.clone()
    expected = espirit_maps(only, mask)
    for result, same in zip(espirit_maps(kspace, mask), expected, strict=True):
        assert torch.equal(result, same)
    assert torch.equal(kspace, before)
    # the number of the protocol is obeyed where the mask has more
    narrower = espirit_maps(kspace, torch.ones_like(mask), torch.tensor([12]))
    torch.testing.assert_close(narrower[0].abs(), expected[0].abs())


def test_a_batch_with_centres_of_different_sizes_equals_its_items() -> None:
    first, _, _ = scene((60, 49))
    second, _, _ = scene((60, 49), seed=1)
    kspace, mask = torch.cat([first, second]), torch.cat([line_mask(49, 12), line_mask(49, 16)])
    maps, eigenvalues = espirit_maps(kspace, mask, n_maps=2)
    assert maps.shape == (2, 2, 6, 60, 49)
    for i in range(2):
        item = espirit_maps(kspace[i : i + 1], mask[i : i + 1], n_maps=2)
        assert torch.equal(maps[i : i + 1], item[0])
        assert torch.equal(eigenvalues[i : i + 1], item[1])


@pytest.mark.parametrize("scale", [2.0**-60, 2.0**40])  # powers of two round nothing
def test_the_scale_of_the_data_does_not_matter(scale: float) -> None:
    kspace, _, _ = scene((60, 49))
    for result, same in zip(
        espirit_maps(scale * kspace, line_mask(49, 12)), espirit_maps(kspace, line_mask(49, 12)), strict=True
    ):
        assert torch.equal(result, same)


def test_one_coil_has_maps_of_ones() -> None:
    kspace, _, _ = scene((20, 18), 1)
    maps, eigenvalues = espirit_maps(kspace, torch.zeros(1, 1, 1, 18, dtype=torch.bool))  # calibrated by nothing
    assert torch.equal(maps, torch.ones(1, 1, 20, 18, dtype=torch.complex64))
    assert torch.equal(eigenvalues, torch.ones(1, 20, 18))


def test_an_object_larger_than_the_field_of_view_takes_two_sets() -> None:
    kspace, _, inside = scene((64, 128), 8, noise=0)
    folded = kspace[..., ::2]  # a field of view of half the width: both ends of the object fold over its middle
    mask = torch.ones(1, 1, 1, 64, dtype=torch.bool)
    maps, eigenvalues = espirit_maps(folded, mask, n_maps=2, crop=0)
    coil_images = ifftc(folded)
    ends = torch.cat([inside[:, 96:], inside[:, :32]], 1)  # what lies 64 pixels away
    twice = inside[:, 32:96] & ends

    def unexplained(n_maps: int) -> float:
        sets = maps[:, :n_maps]
        weights = (sets.conj() * coil_images[:, None]).sum(2, keepdim=True)
        rest = coil_images - (weights * sets).sum(1)
        return float(rest[..., twice].norm() / coil_images[..., twice].norm())

    assert unexplained(1) > 0.05  # measured: 0.11
    assert unexplained(2) < 0.01  # measured: 0.003
    assert eigenvalues[:, 1][:, twice].mean() > 0.95
    assert eigenvalues[:, 1][:, ~(inside[:, 32:96] | ends)].mean() < 0.6
    # both sets are of unit length and orthogonal to the rounding of float32; the first is what one set is
    gram = torch.einsum("bichw,bjchw->bijhw", maps.conj(), maps)
    torch.testing.assert_close(gram.abs(), torch.eye(2)[None, :, :, None, None].expand_as(gram), rtol=0, atol=1e-5)
    one, one_eigenvalue = espirit_maps(folded, mask, crop=0)
    assert torch.equal(one, maps[:, 0])
    assert torch.equal(one_eigenvalue, eigenvalues[:, 0])


def test_the_maps_have_no_gradient_and_leave_that_of_the_data_alone() -> None:
    kspace, _, _ = scene((40, 32))
    kspace.requires_grad_()
    maps, _ = espirit_maps(kspace, line_mask(32, 12))
    assert not maps.requires_grad
    (ifftc(kspace) * maps.conj()).sum().abs().backward()
    assert kspace.grad.isfinite().all()


def test_data_of_zeros_give_maps_of_zeros() -> None:
    maps, eigenvalues = espirit_maps(
        torch.zeros(1, 3, 20, 18, dtype=torch.complex64), line_mask(18, 8), n_maps=2, crop=0
    )
    assert not maps.any()
    assert not eigenvalues.any()


def test_a_mask_without_a_centre_is_refused_with_a_remedy() -> None:
    kspace, _, _ = scene((20, 18), 3)
    mask = torch.zeros(1, 1, 1, 18, dtype=torch.bool)
    mask[..., ::4] = True
    with pytest.raises(InputError, match=r"this mask leaves it out.* recon\.maps=given .* recon=zero_filled"):
        espirit_maps(kspace, mask)


def test_data_that_are_not_finite_are_refused() -> None:
    kspace, _, _ = scene((20, 18), 3)
    kspace[0, 1, 10, 9] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        espirit_maps(kspace, line_mask(18, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_maps": 4}, "3 coils cannot give n_maps=4 sets"),
        ({"n_maps": 0}, "use 1 to 3"),
        ({"kernel": 2}, "kernel=2 must be at least 3"),
        ({"threshold": 1.0}, "threshold=1.0 at least 0 and below 1"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, float], message: str) -> None:
    kspace, _, _ = scene((20, 18), 3)
    with pytest.raises(InputError, match=message):
        espirit_maps(kspace, line_mask(18, 8), **options)


def test_one_set_explains_the_centre_of_a_scanned_brain(shared: Path) -> None:
    path = shared / "data" / "brain_8ch_poisson" / "cartesian_ksp.npy"
    if not path.is_file():
        pytest.skip(f"no file {path}: the prospectively undersampled brain is not here")
    kspace = torch.from_numpy(np.load(path))[None]
    mask = (kspace != 0).any(1, keepdim=True)
    maps, eigenvalues = espirit_maps(kspace, mask)
    center = torch.zeros_like(kspace)
    center[..., 103:127, 78:102] = kspace[..., 103:127, 78:102]  # all of it is sampled
    coil_images = ifftc(center)
    rest = coil_images - maps * (maps.conj() * coil_images).sum(1, keepdim=True)
    strength = coil_images.norm(dim=1)
    head = strength > 0.2 * strength.max()
    assert (eigenvalues[head] > 0.99).float().mean() > 0.99  # measured: all
    # measured: 0.046; an image cut to 24 samples is no longer the product of an image and maps
    assert rest.norm(dim=1)[head].norm() < 0.06 * strength[head].norm()
