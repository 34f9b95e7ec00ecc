"""The contract of every reconstructor: each entry of conf/recon is run, and a new one is picked up by itself."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from contract import (
    ACQUISITIONS,
    ENTRIES,
    METHODS,
    SAMPLINGS,
    First,
    build,
    check_mask,
    explains,
    fingerprint,
    norm,
    reconstruct,
    write_checkpoint,
)
from hydra.utils import instantiate
from torch import Tensor

from spinwarp.acquisition import Acquisition, Header, Reconstruction, item_acquisition
from spinwarp.errors import InputError
from spinwarp.preparation import MAPS
from spinwarp.recon import Reconstructor
from spinwarp.recon.latent import LatentOptimisation


@pytest.fixture(scope="module")
def weights_file(
    tmp_path_factory: pytest.TempPathFactory,
    fastmri_weights: Callable[..., dict[str, Tensor]],
    make_acquisition: Callable[..., Acquisition],
) -> Callable[[str, str], list[Path]]:
    """Make the files that an entry of conf/recon reads, mostly a single one."""
    folder = tmp_path_factory.mktemp("weights")
    acquisitions = [make_acquisition(**kind) for kind in ACQUISITIONS.values()]

    def make(entry: str, kinds: str) -> list[Path]:
        paths = []
        for seed, kind in enumerate(kinds.split("+")):
            path = folder / f"{entry}-{kind}-{seed}.pt"
            if not path.exists() and entry != "fastmri_weights":
                write_checkpoint(path, kind, seed, acquisitions)
            elif not path.exists():
                torch.save(fastmri_weights(kind), path)
            paths.append(path)
        return paths

    return make


@pytest.fixture(scope="module", params=ENTRIES)
def reconstructor(request: pytest.FixtureRequest, weights_file: Callable[[str, str], list[Path]]) -> Reconstructor:
    entry, kind = request.param
    return build(entry, METHODS[entry], weights_file(entry, kind) if kind else None)


@pytest.fixture(scope="module", params=ACQUISITIONS)
def acquisition(request: pytest.FixtureRequest, make_acquisition: Callable[..., Acquisition]) -> Acquisition:
    made = make_acquisition(**ACQUISITIONS[request.param])
    # a contrast that fastMRI has one coil and several coils of, for the methods that look at it
    return replace(made, headers=(Header(contrast="CORPD_FBK"),) * len(made.kspace))


@pytest.fixture(scope="module")
def first(reconstructor: Reconstructor, acquisition: Acquisition) -> First:
    before = fingerprint(reconstructor), fingerprint(acquisition)
    result = reconstruct(reconstructor, acquisition)
    return First(result, before, (fingerprint(reconstructor), fingerprint(acquisition)))


def test_shape_precision_and_device_are_kept(first: First, acquisition: Acquisition) -> None:
    result = first.result
    b, _, h, w = acquisition.kspace.shape
    assert isinstance(result, Reconstruction)
    assert result.image.shape == (b, h, w)
    assert result.image.dtype == torch.complex64
    assert result.image.device == acquisition.kspace.device
    assert result.image.isfinite().all()
    assert not result.image.requires_grad
    if result.std is not None:
        assert result.std.shape == (b, h, w)
        assert (result.std >= 0).all()
    if result.samples is not None:
        assert result.samples.shape[1:] == (b, h, w)


def test_a_call_changes_neither_the_reconstructor_nor_the_acquisition(
    first: First, reconstructor: Reconstructor, acquisition: Acquisition
) -> None:
    assert first.after == first.before
    result = reconstruct(reconstructor, item_acquisition(acquisition, 0))
    with torch.inference_mode():
        result.image.zero_()  # nor is the result a view of the acquisition
    assert (fingerprint(reconstructor), fingerprint(acquisition)) == first.before


def test_equal_generators_give_equal_images_bit_for_bit(
    first: First, reconstructor: Reconstructor, acquisition: Acquisition
) -> None:
    torch.rand(7)  # the global generator has no say
    assert fingerprint(reconstruct(reconstructor, acquisition)) == fingerprint(first.result)


def test_a_batch_equals_its_items(first: First, reconstructor: Reconstructor, acquisition: Acquisition) -> None:
    batch = first.result.image
    for i in range(len(batch)):
        alone = reconstruct(reconstructor, item_acquisition(acquisition, i)).image
        # sums over other batch sizes are in another order: 1e-6, more after many iterations
        assert norm(alone[0] - batch[i]) < 1e-4 * norm(batch[i])


def test_the_image_explains_the_data_better_than_nothing(first: First, acquisition: Acquisition) -> None:
    assert max(explains(first.result.image, acquisition)) < 1


@pytest.mark.parametrize("scale", [3e-6, 700.0])
def test_the_physical_scale_is_kept(
    first: First, reconstructor: Reconstructor, acquisition: Acquisition, scale: float
) -> None:
    image = first.result.image
    noise_std = None if acquisition.noise_std is None else scale * acquisition.noise_std
    scaled = replace(acquisition, kspace=scale * acquisition.kspace, noise_std=noise_std)
    # scaled data are rounded anew, 1e-7, which networks and iterations amplify
    assert norm(reconstruct(reconstructor, scaled).image / scale - image) < 1e-3 * norm(image)


def test_without_a_centre_a_method_takes_the_maps_of_the_data_and_says_how(
    reconstructor: Reconstructor, make_acquisition: Callable[..., Acquisition]
) -> None:
    full = make_acquisition(shape=(32, 36), acceleration=1, batch=1)
    mask = (torch.arange(36) % 3 == 1).view(1, 1, 1, 36)
    headers = (Header(contrast="CORPD_FBK"),)
    n_acs = torch.zeros(1, dtype=torch.long)
    without = replace(full, kspace=full.kspace * mask, mask=mask, n_acs=n_acs, headers=headers)
    if getattr(reconstructor, "maps", None) in MAPS:
        with pytest.raises(InputError, match=r"recon\.maps=given"):
            reconstruct(reconstructor, without)
        reconstructor = copy.copy(reconstructor)
        reconstructor.maps = "given"
    if isinstance(reconstructor, LatentOptimisation):
        with pytest.raises(InputError, match=r"phase of the image.*use a mask with a centre"):
            reconstruct(reconstructor, without)
    else:
        assert reconstruct(reconstructor, without).image.isfinite().all()


@pytest.mark.parametrize("shape", [(64, 96), (33, 73)], ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_mask_keeps_its_promises(name: str, shape: tuple[int, int]) -> None:
    check_mask(instantiate(SAMPLINGS[name]), shape)
