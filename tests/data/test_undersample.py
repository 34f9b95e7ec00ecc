"""From a fully sampled slice to an accelerated one."""

from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import RandomState

from spinwarp.acquisition import Acquisition, Example, Header, acs_columns, center_crop
from spinwarp.coils import low_resolution_maps, root_sum_of_squares
from spinwarp.data.fastmri.layout import write_volume
from spinwarp.data.fastmri.source import FastMRIFiles, Folders
from spinwarp.data.module import FastMRIDataModule
from spinwarp.data.undersample import Undersample
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc
from spinwarp.losses import L1Loss
from spinwarp.masks import (
    EquispacedMask,
    LineMask,
    LiteralEquispacedMask,
    MagicFractionMask,
    MagicMask,
    RandomMask,
    seed_of,
)
from spinwarp.models.unet import MagnitudeUNet
from spinwarp.operators import sense
from spinwarp.recon import ZeroFilled
from spinwarp.training import UNetModule

TYPES = (RandomMask, EquispacedMask, LiteralEquispacedMask, MagicMask, MagicFractionMask)


def full(n_coils: int = 3, height: int = 16, width: int = 48, columns: tuple[int, int] | None = None) -> Example:
    """K-space that is not zero anywhere, not even in the padding."""
    rng = RandomState(0)
    kspace = rng.randn(1, n_coils, height, width) + 1j * rng.randn(1, n_coils, height, width)
    mask = torch.zeros(1, 1, 1, width, dtype=torch.bool)
    first, last = columns or (0, width)
    mask[..., first:last] = True
    header = Header(acquired_columns=columns)
    acquisition = Acquisition(torch.from_numpy(kspace.astype(np.complex64)), mask, headers=(header,))
    return Example(acquisition, torch.ones(1, height, width), torch.ones(1), ("a.h5",), (0,))


def tensors(example: Example) -> dict[str, torch.Tensor]:
    parts = {f.name: getattr(example.acquisition, f.name) for f in fields(Acquisition)}
    parts |= {"target": example.target, "data_range": example.data_range}
    return {name: value.clone() for name, value in parts.items() if isinstance(value, torch.Tensor)}


@pytest.fixture
def golden(shared: Path) -> dict[str, Any]:
    # numpy arrays in it: the file is ours and trusted
    loaded: dict[str, Any] = torch.load(shared / "golden" / "fastmri_transforms.pt", weights_only=False)
    return loaded


@pytest.fixture
def reference_example(golden: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Example:
    """The golden k-space written as a file, read back and undersampled as in validation."""
    monkeypatch.setenv("SPINWARP_CACHE", str(tmp_path / "cache"))
    left, right = golden["attrs"]["padding_left"], golden["attrs"]["padding_right"]
    header = Header(reconstruction_size=(32, 32), acquired_columns=(left, right))
    path = tmp_path / "val" / golden["varnet"]["fname"]
    write_volume(path, golden["kspace"][None], header, target=golden["target"][None])
    source = FastMRIFiles("golden", Folders(str(tmp_path), val="val"))
    # the reference was run with its random mask at 4x; any fraction that rounds to 8 of 48 columns gives its mask
    data = FastMRIDataModule(source, RandomMask([0.16], [4]))
    return data.dataset("val").example(epoch=0, index=0)


def test_a_file_becomes_the_varnet_sample_of_the_reference(golden: dict[str, Any], reference_example: Example) -> None:
    theirs, ours = golden["varnet"], reference_example
    assert torch.equal(ours.acquisition.mask.view(-1), theirs["mask"].view(-1))
    kspace = torch.view_as_complex(theirs["masked_kspace"])
    # nothing but a product with 0 or 1 happens to k-space; 1e-6 of its largest value is the brief's tolerance
    assert torch.allclose(ours.acquisition.kspace[0], kspace, rtol=0, atol=1e-6 * float(kspace.abs().max()))
    assert ours.acquisition.n_acs is not None
    assert ours.acquisition.n_acs.tolist() == [theirs["num_low_frequencies"]]
    assert ours.target is not None
    assert torch.equal(ours.target[0], theirs["target"])
    assert ours.data_range.tolist() == [theirs["max_value"]]
    assert ours.volume == (theirs["fname"],)
    assert ours.acquisition.headers[0].reconstruction_size == theirs["crop_size"]


def test_the_input_of_the_unet_is_that_of_the_reference(golden: dict[str, Any], reference_example: Example) -> None:
    theirs = golden["unet"]
    module = UNetModule(MagnitudeUNet(channels=2, pools=2), L1Loss(), partial(torch.optim.Adam, lr=1e-3))
    target, mean, std = module.normalised_target(reference_example)
    magnitude = center_crop(root_sum_of_squares(ifftc(reference_example.acquisition.kspace)), (32, 32))
    # single precision through one FFT
    assert float(mean) == pytest.approx(float(theirs["mean"]), rel=1e-5)
    assert float(std) == pytest.approx(float(theirs["std"]), rel=1e-5)
    normalised = ((magnitude - mean) / std).clamp(-6, 6)[0]
    assert torch.allclose(normalised, theirs["image"], rtol=0, atol=1e-5)
    assert torch.allclose(target[0], theirs["target"], rtol=0, atol=1e-5)


@given(
    kind=st.sampled_from(TYPES),
    columns=st.tuples(st.integers(0, 19), st.integers(29, 48)),
    seed=st.integers(0, 2**32 - 1),
)
def test_nothing_is_sampled_in_the_padding_of_the_scanner(kind: type[LineMask], columns: tuple[int, int], seed: int):
    example = full(columns=columns)
    result = Undersample(kind([0.16], [4]))(example, RandomState(seed)).acquisition
    drawn, _ = kind([0.16], [4])((16, 48), RandomState(seed))
    assert torch.equal(result.mask, drawn.view(1, 1, 1, 48) & example.acquisition.mask)
    outside = torch.ones(48, dtype=torch.bool)
    outside[columns[0] : columns[1]] = False
    assert not result.mask[..., outside].any()
    assert not result.kspace[..., outside].any()


@pytest.mark.parametrize("maps", [None, low_resolution_maps])
def test_sampled_kspace_is_kept_bit_for_bit_and_the_rest_is_zero(maps: Any) -> None:
    example = full()
    result = Undersample(RandomMask([0.16], [4]), maps)(example, RandomState(1))
    mask = result.acquisition.mask.expand_as(example.acquisition.kspace)
    assert 0 < mask.sum() < mask.numel()
    assert torch.equal(result.acquisition.kspace[mask], example.acquisition.kspace[mask])
    assert not result.acquisition.kspace[~mask].any()


@pytest.mark.parametrize("mask", [None, RandomMask([0.16], [4])])
@pytest.mark.parametrize("maps", [None, low_resolution_maps])
def test_the_example_that_went_in_is_left_as_it_was(mask: LineMask | None, maps: Any) -> None:
    example = full(columns=(2, 47))
    before = tensors(example)
    Undersample(mask, maps)(example, RandomState(1))
    after = tensors(example)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@given(rows=st.booleans(), n_coils=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_a_mask_in_place_gives_the_same_samples_in_the_same_memory(rows: bool, n_coils: int, seed: int) -> None:
    def mask(size: tuple[int, int], rng: RandomState) -> tuple[torch.Tensor, int]:
        drawn = torch.from_numpy(rng.rand(size[0] if rows else 1, size[1]) < 0.3)
        drawn[..., 20:28] = True
        return drawn, 8

    example, other = full(n_coils), full(n_coils)
    expected = Undersample(mask, low_resolution_maps)(example, RandomState(seed)).acquisition  # type: ignore[arg-type]
    found = Undersample(mask, low_resolution_maps)(other, RandomState(seed), in_place=True).acquisition  # type: ignore[arg-type]
    assert torch.equal(found.kspace, expected.kspace)
    assert torch.equal(found.mask, expected.mask)
    assert found.kspace.data_ptr() == other.acquisition.kspace.data_ptr()


def test_a_mask_in_place_works_on_kspace_that_an_augmentation_left_in_another_order() -> None:
    example = full()
    kspace = example.acquisition.kspace
    expected = Undersample(RandomMask([0.16], [4]))(example, RandomState(1)).acquisition.kspace
    for other in (kspace.mT.contiguous().mT, kspace.conj().clone().conj()):
        strided = replace(example, acquisition=replace(example.acquisition, kspace=other))
        found = Undersample(RandomMask([0.16], [4]))(strided, RandomState(1), in_place=True).acquisition.kspace
        assert torch.equal(found, expected)


def test_target_range_and_names_pass_through() -> None:
    example = full()
    result = Undersample(RandomMask([0.16], [4]), low_resolution_maps)(example, RandomState(1))
    assert result.target is example.target
    assert result.data_range is example.data_range
    assert (result.volume, result.slice) == (example.volume, example.slice)
    assert result.acquisition.headers == example.acquisition.headers


def test_without_a_mask_the_data_stay_as_measured_and_the_centre_is_read_off() -> None:
    example = full(columns=(6, 44))
    result = Undersample(None)(example, RandomState(0)).acquisition
    assert torch.equal(result.mask, example.acquisition.mask)
    assert torch.equal(result.kspace, example.acquisition.kspace * example.acquisition.mask)
    assert result.n_acs is not None
    assert result.n_acs.tolist() == [37]  # 18 to the left of column 24, and as many to the right


def test_maps_are_left_out_when_nobody_asks() -> None:
    assert Undersample(RandomMask([0.16], [4]))(full(), RandomState(0)).acquisition.maps is None


def test_a_single_coil_has_a_sensitivity_of_one() -> None:
    example = Undersample(RandomMask([0.16], [4]), low_resolution_maps)(full(n_coils=1), RandomState(0))
    maps = example.acquisition.maps
    assert maps is not None
    assert maps.dtype == torch.complex64
    assert torch.equal(maps, torch.ones(1, 1, 16, 48, dtype=torch.complex64))


def test_maps_that_came_with_the_data_are_kept() -> None:
    example = full()
    given_maps = torch.full_like(example.acquisition.kspace, 0.5)
    example = replace(example, acquisition=replace(example.acquisition, maps=given_maps))
    result = Undersample(RandomMask([0.16], [4]), low_resolution_maps)(example, RandomState(0))
    assert result.acquisition.maps is given_maps


def test_maps_come_from_the_accelerated_data_and_their_centre() -> None:
    result = Undersample(RandomMask([0.16], [4]), low_resolution_maps)(full(), RandomState(3)).acquisition
    assert result.maps is not None
    assert torch.equal(result.maps, low_resolution_maps(result.kspace, acs_columns(result.mask)))
    power = result.maps.abs().square().sum(1)
    assert torch.allclose(power, torch.ones_like(power), atol=1e-5)  # a quotient in single precision


def test_an_estimator_of_maps_is_given_the_accelerated_data_alone() -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def estimate(kspace: torch.Tensor, n_acs: torch.Tensor) -> torch.Tensor:
        seen.append((kspace.clone(), n_acs))
        return torch.ones_like(kspace)

    result = Undersample(RandomMask([0.16], [4]), estimate)(full(columns=(3, 46)), RandomState(3)).acquisition
    ((kspace, n_acs),) = seen
    assert torch.equal(kspace, result.kspace)
    assert torch.equal(n_acs, acs_columns(result.mask))


@pytest.mark.parametrize("kind", TYPES)
def test_what_the_mask_hides_changes_nothing(kind: type[LineMask]) -> None:
    example = full(columns=(3, 46))
    undersample = Undersample(kind([0.16], [4]), low_resolution_maps)
    before = undersample(example, RandomState(seed_of("a.h5")))
    hidden = ~before.acquisition.mask.expand_as(example.acquisition.kspace)
    other = example.acquisition.kspace.clone()
    other[hidden] = 1e3 * torch.randn(int(hidden.sum()), dtype=torch.complex64)
    changed = replace(example, acquisition=replace(example.acquisition, kspace=other))
    after = tensors(undersample(changed, RandomState(seed_of("a.h5"))))
    assert all(torch.equal(after[name], value) for name, value in tensors(before).items())


def test_a_mask_without_a_centre_makes_no_maps_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    def outer_lines(shape: tuple[int, int], generator: RandomState) -> tuple[torch.Tensor, int]:
        return torch.arange(shape[1])[None] % 4 == 1, 0  # column 24 of 48 is not among them

    undersample = Undersample(outer_lines, low_resolution_maps)
    results = [undersample(full(), RandomState(0)).acquisition for _ in range(2)]
    assert all(result.maps is None for result in results)
    assert ["there are no coil maps" in record.message for record in caplog.records] == [True]
    with pytest.raises(InputError, match="no coil maps, but this method needs them"):
        sense(results[0])
    # zero-filling needs none: the root of the sum of squares over the coils
    image = ZeroFilled()(results[0]).image.abs()
    shifted = np.fft.ifft2(np.fft.ifftshift(results[0].kspace[0].numpy(), axes=(-2, -1)), norm="ortho")
    expected = np.fft.fftshift(shifted, axes=(-2, -1))
    np.testing.assert_allclose(image[0].numpy(), np.sqrt((np.abs(expected) ** 2).sum(0)), rtol=1e-5)


def test_a_mask_for_too_few_columns_is_refused() -> None:
    with pytest.raises(InputError, match="12 columns are too few for a mask of acceleration 8"):
        Undersample(RandomMask([0.04], [8]))(full(width=12), RandomState(0))
