import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spinwarp.acquisition import (
    Acquisition,
    Example,
    Header,
    Reconstruction,
    acs_columns,
    center_crop,
    collate,
    item,
    item_acquisition,
)
from spinwarp.errors import InputError


def example(
    seed: int = 0, shape: tuple[int, int] = (9, 8), target: bool = True, maps: bool = True, plane: bool = False
) -> Example:
    generator = torch.Generator().manual_seed(seed)
    h, w = shape
    kspace = torch.randn(1, 3, h, w, dtype=torch.complex64, generator=generator)
    acquisition = Acquisition(
        kspace=kspace,
        mask=torch.rand(1, 1, h if plane else 1, w, generator=generator) < 0.5,
        maps=torch.randn(1, 3, h, w, dtype=torch.complex64, generator=generator) if maps else None,
        noise_std=torch.rand(1, generator=generator),
        n_acs=torch.tensor([seed + 2]),
        headers=(Header(source=f"scan{seed}", reconstruction_size=(4, 4)),),
    )
    image = torch.rand(1, 4, 4, generator=generator) if target else None
    return Example(acquisition, image, torch.rand(1, generator=generator), (f"v{seed}",), (seed,))


def tensors(value: object) -> dict[str, Tensor]:
    """Every tensor of an example by its path."""
    found = {}
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if isinstance(inner, Tensor):
            found[field.name] = inner
        elif dataclasses.is_dataclass(inner):
            found |= {f"{field.name}.{name}": tensor for name, tensor in tensors(inner).items()}
    return found


def assert_equal(a: Example, b: Example) -> None:
    assert tensors(a).keys() == tensors(b).keys()
    for name, tensor in tensors(a).items():
        assert tensor.dtype == tensors(b)[name].dtype, name
        assert torch.equal(tensor, tensors(b)[name]), name
    assert (a.volume, a.slice, a.acquisition.headers) == (b.volume, b.slice, b.acquisition.headers)


@pytest.mark.parametrize(("target", "maps"), [(True, True), (True, False), (False, True)])
def test_the_items_of_a_batch_are_what_it_was_made_of(target: bool, maps: bool) -> None:
    parts = [example(seed, target=target, maps=maps) for seed in range(3)]
    batch = collate(parts)
    assert len(batch) == 3
    assert batch.acquisition.kspace.shape == (3, 3, 9, 8)
    assert batch.volume == ("v0", "v1", "v2")
    for i, part in enumerate(parts):
        assert_equal(item(batch, i), part)
        assert torch.equal(item_acquisition(batch.acquisition, i).kspace, part.acquisition.kspace)


def test_batches_of_batches_join_too() -> None:
    parts = [example(seed) for seed in range(4)]
    assert_equal(collate([collate(parts[:3]), parts[3]]), collate(parts))


def test_line_and_plane_masks_share_a_batch_as_planes() -> None:
    line, plane = example(0), example(1, plane=True)
    batch = collate([line, plane])
    assert batch.acquisition.mask.shape == (2, 1, 9, 8)
    assert torch.equal(batch.acquisition.mask[:1], line.acquisition.mask.expand(-1, -1, 9, -1))
    assert torch.equal(batch.acquisition.mask[1:], plane.acquisition.mask)


@pytest.mark.parametrize("other", [example(1, shape=(9, 10)), example(1, shape=(7, 8)), example(1, target=False)])
def test_slices_of_different_shapes_are_refused_with_both_shapes_and_a_remedy(other: Example) -> None:
    with pytest.raises(InputError, match=r"\(3, 9, 8\).*use data\.batch_size=1"):
        collate([example(0), other])


def test_a_batch_in_which_some_have_maps_and_some_have_none_is_refused() -> None:
    with pytest.raises(InputError, match="some have none"):
        collate([example(0), example(1, maps=False)])


def test_collating_leaves_its_inputs_as_they_were() -> None:
    parts = [example(0), example(1, plane=True)]
    kept = [{name: tensor.clone() for name, tensor in tensors(part).items()} for part in parts]
    batch = collate(parts)
    for tensor in tensors(batch).values():
        tensor.zero_()  # a batch is a copy, not a view
    for part, before in zip(parts, kept, strict=True):
        assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(part).items())
        assert part.acquisition.mask.shape == before["acquisition.mask"].shape


def test_moving_takes_every_tensor_along_and_nothing_else() -> None:
    moved = example().to("meta")
    assert set(tensors(moved)) == {
        "target",
        "data_range",
        "acquisition.kspace",
        "acquisition.mask",
        "acquisition.maps",
        "acquisition.noise_std",
        "acquisition.n_acs",
    }
    assert all(tensor.device.type == "meta" for tensor in tensors(moved).values())
    assert (moved.volume, moved.slice) == (example().volume, example().slice)
    assert moved.acquisition.headers == example().acquisition.headers


def test_moving_returns_a_copy_of_the_same_kind() -> None:
    acquisition = example(maps=False).acquisition
    moved = acquisition.to("meta", non_blocking=True)
    assert isinstance(moved, Acquisition)
    assert moved.maps is None
    assert acquisition.kspace.device.type == "cpu"
    result = Reconstruction(torch.ones(1, 2, 2, dtype=torch.complex64), samples=torch.ones(3, 1, 2, 2)).to("meta")
    assert (result.image.device.type, result.std, result.samples.device.type) == ("meta", None, "meta")


@pytest.mark.parametrize("kind", [Header, Acquisition, Example, Reconstruction])
def test_the_types_are_frozen(kind: type) -> None:
    assert kind.__dataclass_params__.frozen


def test_a_method_sees_no_target() -> None:
    assert not {"target", "data_range"} & {field.name for field in dataclasses.fields(Acquisition)}


def line_mask(width: int, columns: list[int]) -> Tensor:
    mask = torch.zeros(1, 1, 1, width, dtype=torch.bool)
    mask[..., columns] = True
    return mask


def test_acceleration_is_positions_over_sampled_ones() -> None:
    mask = torch.cat([line_mask(12, [0, 4, 8]), line_mask(12, list(range(12)))])
    kspace = torch.zeros(2, 1, 5, 12, dtype=torch.complex64)
    assert Acquisition(kspace, mask).acceleration().tolist() == [4.0, 1.0]
    plane = torch.zeros(1, 1, 5, 12, dtype=torch.bool)
    plane[..., :4, ::2] = True
    assert Acquisition(kspace[:1], plane).acceleration().tolist() == [2.5]


def test_acceleration_leaves_the_scanner_s_zero_padding_out() -> None:
    mask = torch.cat([line_mask(12, [2, 4, 6, 8]), line_mask(12, [2, 4, 6, 8])])
    kspace = torch.zeros(2, 1, 5, 12, dtype=torch.complex64)
    headers = (Header(acquired_columns=(2, 10)), Header())
    assert Acquisition(kspace, mask, headers=headers).acceleration().tolist() == [2.0, 3.0]


def test_acceleration_of_an_empty_mask_does_not_divide_by_zero() -> None:
    acquisition = Acquisition(torch.zeros(1, 1, 5, 12, dtype=torch.complex64), line_mask(12, []))
    assert acquisition.acceleration().tolist() == [12.0]


def reference_acs(mask: Tensor) -> Tensor:
    """``get_pad_and_num_low_freqs`` of fastMRI's VarNet, for a mask ``(batch, w)`` with a gap on either side."""
    squeezed = mask.to(torch.int8)
    center = squeezed.shape[1] // 2
    left, right = torch.argmin(squeezed[:, :center].flip(1), dim=1), torch.argmin(squeezed[:, center:], dim=1)
    return 2 * torch.min(left, right)


def block_is_full(columns: Tensor, n: int) -> bool:
    """Whether the n central columns are sampled, where fastMRI's masks put them (``pad = (w - n + 1) // 2``)."""
    first = (len(columns) - n + 1) // 2
    return bool(columns[first : first + n].all())


@given(bits=st.lists(st.booleans(), min_size=6, max_size=40), width=st.integers(0, 8))
def test_the_central_columns_are_those_of_the_reference_and_the_one_that_it_drops_of_an_odd_centre(
    bits: list[bool], width: int
) -> None:
    columns = torch.tensor(bits)
    middle = len(bits) // 2
    columns[max(middle - width, 1) : min(middle + width, len(bits) - 1)] = True
    columns[0] = columns[-1] = False  # the reference's argmin needs a gap on either side
    mask = columns[None]
    expected = torch.tensor([max(n for n in range(len(columns)) if block_is_full(columns, n))])
    assert torch.equal(acs_columns(mask[:, None, None]), expected)
    # of an odd matrix the block of an even number lies one column to the right of the reference's
    assert len(bits) % 2 or 0 <= int(expected - reference_acs(mask)) <= 1
    plane = mask[:, None, None].expand(-1, -1, 5, -1).clone()
    plane[..., :2, :] = False  # only the central row counts
    plane[..., 3:, :] = False
    assert torch.equal(acs_columns(plane), expected)


def test_a_fully_sampled_mask_is_all_centre() -> None:
    # here the reference counts no column and takes one; everything sampled is everything calibrated
    assert acs_columns(torch.ones(2, 1, 1, 10, dtype=torch.bool)).tolist() == [10, 10]
    assert acs_columns(torch.ones(1, 1, 1, 11, dtype=torch.bool)).tolist() == [11]
    assert acs_columns(line_mask(10, [])).tolist() == [0]


@given(h=st.integers(1, 30), w=st.integers(1, 30), data=st.data())
def test_cropping_is_that_of_fastmri(h: int, w: int, data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, h), st.integers(1, w)))
    image = torch.arange(2.0 * h * w).reshape(2, h, w)
    # fastmri.data.transforms.center_crop
    top, left = (h - size[0]) // 2, (w - size[1]) // 2
    expected = image[..., top : top + size[0], left : left + size[1]]
    cropped = center_crop(image, size)
    assert cropped.shape == (2, *size)
    assert torch.equal(cropped, expected)
    assert cropped.data_ptr() == expected.data_ptr()  # a view


def test_a_crop_keeps_the_centre_pixel_at_half_the_size_for_even_sizes() -> None:
    image = torch.zeros(10, 8)
    image[5, 4] = 1
    assert center_crop(image, (6, 4))[3, 2] == 1


@pytest.mark.parametrize("size", [(11, 8), (10, 9), (0, 4), (4, -1)])
def test_a_crop_that_does_not_fit_is_refused_with_both_sizes(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"cannot crop an image of 10x8 to {size[0]}x{size[1]}"):
        center_crop(torch.zeros(10, 8), size)


def test_arrays_of_numpy_are_refused_with_the_way_to_tensors() -> None:
    kspace, mask = np.zeros((1, 2, 4, 6), np.complex64), np.ones((1, 1, 1, 6), bool)
    with pytest.raises(InputError, match=r"kspace of an Acquisition is of type ndarray; .* torch\.from_numpy"):
        Acquisition(kspace, mask)
    with pytest.raises(InputError, match="mask of an Acquisition is of type ndarray"):
        Acquisition(torch.from_numpy(kspace), mask)
    with pytest.raises(InputError, match="maps of an Acquisition is of type ndarray"):
        Acquisition(torch.from_numpy(kspace), torch.from_numpy(mask), kspace)
