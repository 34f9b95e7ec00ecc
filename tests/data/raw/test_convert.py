"""Raw data turned into the fastMRI layout and MRD; what comes back is what was read."""

import logging
from collections.abc import Callable
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest
import torch
from raw_files import acquisition, lines_of, random_kspace, write_bruker, write_mrd, xml

from spinwarp.acquisition import Acquisition, center_crop
from spinwarp.cli.convert import main
from spinwarp.data.fastmri import FastMRIFolder
from spinwarp.data.raw import open_measurement
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc


def all_of(path: Path) -> list[Acquisition]:
    measurement = open_measurement(path)
    return [example.acquisition for example in measurement.slices(list(range(measurement.n_slices)))]


def oblique(path: Path, partial: bool = False) -> Path:
    """Three slices of two coils, oblique, with phase oversampling; with ``partial`` also partial Fourier and gaps."""
    c, s = float(np.cos(0.3)), float(np.sin(0.3))
    readouts = [
        acquisition(
            line.data[:, 6:] if partial else line.data, center_sample=2 if partial else 8, slice=index,
            kspace_encode_step_1=line.idx.kspace_encode_step_1, position=(4.0, -7 * s * index, 7 * c * index),
            read_dir=(1.0, 0, 0), phase_dir=(0, c, s), slice_dir=(0, -s, c),
        )
        for index in range(3)
        for line in lines_of(random_kspace(2, 16, 12, seed=index))
        if not (partial and (line.idx.kspace_encode_step_1 < 3 or line.idx.kspace_encode_step_1 in (9, 11)))
    ]  # fmt: skip
    return write_mrd(path, xml(ry=8, gy=16), readouts)


def assert_equal(one: Acquisition, other: Acquisition) -> None:
    torch.testing.assert_close(one.kspace, other.kspace, rtol=0, atol=0)
    h, w = one.kspace.shape[-2:]
    assert torch.equal(one.mask.expand(-1, -1, h, w), other.mask.expand(-1, -1, h, w))
    first, second = one.headers[0], other.headers[0]
    for name in ("contrast", "orientation", "reconstruction_size", "provenance"):
        assert getattr(first, name) == getattr(second, name), name
    assert (first.acquired_columns or (0, w)) == (second.acquired_columns or (0, w))
    assert first.geometry is not None
    assert second.geometry is not None
    for name in ("position", "readout", "phase", "slice", "voxel_size"):
        # MRD stores single precision
        np.testing.assert_allclose(getattr(first.geometry, name), getattr(second.geometry, name), atol=2e-6)


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("suffix", [".h5", ".mrd"])
def test_what_was_measured_and_where_survives(tmp_path: Path, suffix: str, partial: bool) -> None:
    source = oblique(tmp_path / "a.mrd", partial)
    target = tmp_path / f"b{suffix}"
    assert main([str(source), str(target)]) == 0
    before, after = all_of(source), all_of(target)
    assert len(before) == len(after) == 3
    for one, other in zip(before, after, strict=True):
        assert_equal(one, other)


def test_a_whole_scan_has_a_reference_and_another_has_none(tmp_path: Path) -> None:
    for partial in (False, True):
        source = oblique(tmp_path / f"{partial}.mrd", partial)
        assert main([str(source), str(tmp_path / f"{partial}.h5")]) == 0
    with h5py.File(tmp_path / "False.h5") as file:
        assert "mask" not in file
        expected = [
            center_crop(ifftc(a.kspace[0]), (16, 8)).abs().square().sum(0).sqrt()
            for a in all_of(tmp_path / "False.mrd")
        ]
        np.testing.assert_allclose(file["reconstruction_rss"][()], torch.stack(expected).numpy(), rtol=1e-5)
    with h5py.File(tmp_path / "True.h5") as file:
        assert "reconstruction_rss" not in file
        assert file["mask"].shape == (3, 16, 12)


def test_the_reference_library_reads_the_mrd_file(tmp_path: Path) -> None:
    assert main([str(oblique(tmp_path / "a.mrd")), str(tmp_path / "b.mrd")]) == 0
    with ismrmrd.Dataset(str(tmp_path / "b.mrd"), mode="r") as dataset:
        header = ismrmrd.xsd.CreateFromDocument(dataset.read_xml_header())
        space = header.encoding[0].encodedSpace
        assert (space.matrixSize.x, space.matrixSize.y, space.fieldOfView_mm.y) == (16, 12, 24)
        assert header.encoding[0].encodingLimits.slice.maximum == 2
        assert dataset.number_of_acquisitions() == 36
        last = dataset.read_acquisition(35)
        assert (last.idx.slice, last.idx.kspace_encode_step_1, last.center_sample) == (2, 11, 8)
        assert last.is_flag_set(ismrmrd.ACQ_LAST_IN_SLICE)
        assert last.is_flag_set(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
        assert not dataset.read_acquisition(23).is_flag_set(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
        np.testing.assert_array_equal(last.data, random_kspace(2, 16, 12, seed=2)[:, :, 11])


def test_a_folder_of_converted_files_is_a_data_set(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "set" / split).mkdir(parents=True)
        assert main([str(oblique(tmp_path / f"{split}.mrd")), str(tmp_path / "set" / split / f"{split}.h5")]) == 0
    source = FastMRIFolder(str(tmp_path / "set"))
    (volume,) = source.volumes("train")
    assert (volume.name, volume.n_slices, volume.shape) == ("train.h5", 3, (2, 16, 12, 16, 8))
    example = source.read(volume, 1)
    assert_equal(example.acquisition, all_of(tmp_path / "train.mrd")[1])
    assert example.target is not None
    with pytest.raises(InputError, match=r"val has no .h5 files; spinwarp-convert makes them"):
        source.volumes("val")
    flat = FastMRIFolder(str(tmp_path / "set" / "train"))
    assert [v.name for v in flat.volumes("test")] == ["train.h5"]
    with pytest.raises(InputError, match="has no sub-folders train, val and test"):
        flat.volumes("train")


def test_maps_of_separate_calibration_survive_in_the_fastmri_layout(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kspace = random_kspace(2, 16, 12)
    readouts = lines_of(kspace, lambda _: [20]) + lines_of(kspace)[::2]
    source = write_mrd(tmp_path / "a.mrd", xml(mode="separate"), readouts)
    assert main([str(source), str(tmp_path / "b.h5")]) == 0
    (before,), (after,) = all_of(source), all_of(tmp_path / "b.h5")
    assert before.maps is not None
    assert after.maps is not None
    assert torch.equal(before.maps, after.maps)
    assert main([str(source), str(tmp_path / "b.mrd")]) == 0
    assert "MRD has no place for coil maps" in caplog.text
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        file["maps"][0, 1, 3, 3] = np.nan
    with pytest.raises(InputError, match=r"b\.h5: its data set 'maps' has NaN"):
        all_of(tmp_path / "b.h5")
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        del file["maps"]
        file["maps"] = np.ones((3, 4))
    assert all_of(tmp_path / "b.h5")[0].maps is None
    assert "they are not used" in caplog.text


def test_a_geometry_that_is_damaged_is_refused(tmp_path: Path) -> None:
    assert main([str(oblique(tmp_path / "a.mrd")), str(tmp_path / "b.h5")]) == 0
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        file["geometry"][1, 1] = 2.0
    with pytest.raises(InputError, match=r"b\.h5: its data set 'geometry' is wrong for slice 1"):
        all_of(tmp_path / "b.h5")
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        del file["geometry"]
        file["geometry"] = np.ones((2, 5, 3))
    with pytest.raises(InputError, match=r"b\.h5: its data set 'geometry' is no array of numbers"):
        all_of(tmp_path / "b.h5")


def test_a_folder_of_bruker_is_converted(tmp_path: Path) -> None:
    blocks = np.round(100 * random_kspace(12, 1, 16))
    write_bruker(tmp_path / "5", blocks, {}, {"PVM_EncSteps1": list(range(-6, 6))})
    assert main([str(tmp_path / "5"), str(tmp_path / "a.h5")]) == 0
    np.testing.assert_array_equal(all_of(tmp_path / "a.h5")[0].kspace[0, 0].numpy(), blocks[:, 0].T)


def points(path: Path) -> list[str]:
    there = np.random.RandomState(0).rand(16, 12) < 0.5
    np.save(path / "points.npy", random_kspace(2, 16, 12) * there)
    return [str(path / "points.npy"), str(path / "out.mrd")]


def shapes(path: Path) -> list[str]:
    readouts = [*lines_of(random_kspace(1, 16, 12)), *lines_of(random_kspace(2, 16, 12), slice=1)]
    return [str(write_mrd(path / "a.mrd", xml(), readouts)), str(path / "out.h5")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (points, "single points were measured, not lines, which readouts of MRD cannot express"),
        (shapes, "readouts with different numbers of coils (1, 2)"),
        (lambda path: [str(path / "none.mrd"), str(path / "out.h5")], "there is no file"),
        (lambda path: [str(oblique(path / "a.mrd")), str(path / "a.mrd")], "a.mrd exists; remove it"),
        (
            lambda path: [str(oblique(path / "a.mrd")), str(path / "out.nii")],
            "out.nii ends in none of .h5, .hdf5, .mrd",
        ),
        (lambda path: [str(oblique(path / "a.mrd")), str(path / "out.x"), "--format=fastmri"], "ends in .h5"),
        (lambda path: [str(oblique(path / "a.mrd")), str(path / "out.h5"), "--axes=hw"], "a.mrd is neither a MATLAB"),
    ],
)
def test_an_error_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, arguments: Callable[[Path], list[str]], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(tmp_path)
    before = set(tmp_path.iterdir())
    assert main(given) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert message in said[0]
    assert set(tmp_path.iterdir()) == before


def test_a_damaged_slice_leaves_no_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kspace = random_kspace(2, 1, 16, 12)
    kspace[1, 0, 3, 3] = np.nan
    readouts = [*lines_of(kspace[0]), *lines_of(kspace[1], slice=1)]
    source = write_mrd(tmp_path / "a.mrd", xml(), readouts)
    with caplog.at_level(logging.ERROR):
        assert main([str(source), str(tmp_path / "b.h5")]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.mrd"]
