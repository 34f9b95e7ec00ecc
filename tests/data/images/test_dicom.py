"""Which DICOM slices make a volume, in which order, and what their values are."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest

from spinwarp.data.images.formats import find_images, read_slice
from spinwarp.data.images.source import SimulatedImages
from spinwarp.errors import InputError

AXIAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1]


def image(seed: int, h: int = 12, w: int = 10) -> np.ndarray:
    pixels = np.random.RandomState(seed).randint(1, 4000, (h, w)).astype(np.uint16)
    pixels[0] = 0  # air
    return pixels


def dicom(path: Path, pixels: np.ndarray, number: int = 1, series: str = "1.1", **tags: Any) -> None:
    """Write a file; ``tags`` are added to the header, and None takes one away."""
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = pydicom.uid.MRImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = pydicom.uid.UID(f"1.2.3.{number}")
    file.SeriesInstanceUID, file.InstanceNumber = pydicom.uid.UID(series), number
    file.Rows, file.Columns = pixels.shape[-2:]
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
    file.PixelRepresentation, file.SamplesPerPixel, file.PhotometricInterpretation = 0, 1, "MONOCHROME2"
    file.PixelData = pixels.astype(np.uint16).tobytes()
    for name, value in tags.items():
        setattr(file, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)


def placed(z: float, **tags: Any) -> dict[str, Any]:
    return {"ImageOrientationPatient": AXIAL, "ImagePositionPatient": [-z, 2, z], **tags}


def values(folder: Path) -> list[list[np.ndarray]]:
    return [[read_slice(volume, i) for i in range(volume.n_slices)] for volume in find_images(folder)]


def test_slices_lie_in_the_order_of_their_positions(tmp_path: Path) -> None:
    for number, z in enumerate([10.0, 0.0, 15.0, 5.0]):  # interleaved
        dicom(tmp_path / f"{number}.dcm", image(number), number, **placed(z))
    [volume] = find_images(tmp_path)
    assert volume.name == "0"
    for index, number in enumerate([1, 3, 0, 2]):
        np.testing.assert_array_equal(read_slice(volume, index), image(number))


def test_white_that_is_low_is_turned_round_by_the_largest_value_of_the_volume(tmp_path: Path) -> None:
    truth = [image(0), image(1) // 2 + 1]  # the second slice has no air
    for number, pixels in enumerate(truth):
        tags = placed(number, PhotometricInterpretation="MONOCHROME1", RescaleSlope=2, RescaleIntercept=-3)
        dicom(tmp_path / f"{number}.dcm", 4095 - pixels, number, **tags)
    [volume] = find_images(tmp_path)
    for index, pixels in enumerate(truth):
        np.testing.assert_array_equal(read_slice(volume, index), 2.0 * pixels)


def test_every_slice_has_its_own_scale(tmp_path: Path) -> None:
    for number, slope in enumerate([0.5, 3.0]):
        dicom(tmp_path / f"{number}.dcm", image(number), number, **placed(number, RescaleSlope=slope))
    [[first, second]] = values(tmp_path)
    np.testing.assert_array_equal(first, image(0) * 0.5)
    np.testing.assert_array_equal(second, image(1) * 3.0)


@pytest.mark.parametrize(
    ("tag", "both"),
    [
        ("EchoNumbers", (1, 2)),
        ("EchoTime", (2.5, 80.0)),
        ("TemporalPositionIdentifier", (1, 2)),
        ("DiffusionBValue", (0.0, 1000.0)),
        ("AcquisitionNumber", (1, 2)),  # only the positions tell that these are two
        ("ImageOrientationPatient", (AXIAL, SAGITTAL)),  # a localizer
        ("SeriesInstanceUID", ("1.1", "1.2")),
    ],
)
def test_what_is_not_one_volume_is_apart(tmp_path: Path, tag: str, both: tuple[Any, Any]) -> None:
    for number in range(6):
        tags = placed(number // 2, **{tag: both[number % 2]})
        dicom(tmp_path / f"{number}.dcm", image(number), number, **tags)
    first, second = values(tmp_path)
    for index in range(3):
        np.testing.assert_array_equal(first[index], image(2 * index))
        np.testing.assert_array_equal(second[index], image(2 * index + 1))


@pytest.mark.parametrize(
    "tags",
    [
        {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]},  # Siemens
        {"ImageType": ["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"]},  # Philips
        {"ImageType": ["ORIGINAL", "PRIMARY", "R_FFE", "R", "FFE"]},
        {"ImageType": ["ORIGINAL", "PRIMARY", "VELOCITY MAP", "P", "PCA"]},
        {"ComplexImageComponent": "IMAGINARY"},
    ],
)
def test_phase_and_the_parts_of_complex_images_are_no_magnitudes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tags: dict[str, Any]
) -> None:
    dicom(tmp_path / "a.dcm", image(0), 1, **placed(0, ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "NORM"]))
    dicom(tmp_path / "b.dcm", image(1), 2, **placed(0, **tags))
    [volume] = find_images(tmp_path)
    assert (volume.name, volume.n_slices) == ("a", 1)
    assert "1 of 2 DICOM files are left out: they hold phase, real or imaginary images, or no image" in caplog.text
    (tmp_path / "a.dcm").unlink()
    with pytest.raises(InputError, match=r"1 DICOM files without a magnitude image, such as .*b\.dcm"):
        find_images(tmp_path)


def test_files_without_a_suffix_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    for number, name in enumerate(["IM_0001", "1.2.840.113619.2.55", "c.IMA", "d.DCM"]):
        dicom(tmp_path / "one" / name, image(number), number, series=f"1.{number + 1}")
    (tmp_path / "one" / "README").write_text("no image " * 40)
    (tmp_path / "one" / "DICM").write_bytes(b"short")
    found = find_images(tmp_path)
    assert [volume.name for volume in found] == ["one_1.2.840.113619.2.55", "one_IM_0001", "one_c", "one_d"]
    np.testing.assert_array_equal(read_slice(found[1], 0), image(0))


def test_a_list_of_files_and_a_report_are_no_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dicom(tmp_path / "a.dcm", image(0))
    report = pydicom.dcmread(tmp_path / "a.dcm")
    del report.Rows, report.Columns, report.PixelData
    report.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID = "1.2.840.10008.1.3.10"
    report.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    assert [volume.name for volume in find_images(tmp_path)] == ["a"]
    assert "2 of 3 DICOM files are left out" in caplog.text


def enhanced(path: Path, frames: list[tuple[float, float, float, str]]) -> np.ndarray:
    """Write one file of several frames, each with position, echo time, slope and component."""
    pixels = np.stack([image(i) for i in range(len(frames))])
    groups = []
    for z, echo, slope, component in frames:
        parts = {
            "PlanePositionSequence": {"ImagePositionPatient": [0, 0, z]},
            "MREchoSequence": {"EffectiveEchoTime": echo},
            "PixelValueTransformationSequence": {"RescaleSlope": slope, "RescaleIntercept": 0},
            "MRImageFrameTypeSequence": {"ComplexImageComponent": component},
        }
        groups.append(_nested(parts))
    shared = {
        "PlaneOrientationSequence": {"ImageOrientationPatient": SAGITTAL},
        "PixelMeasuresSequence": {"PixelSpacing": [0.5, 0.75], "SliceThickness": 3},
    }
    dicom(
        path,
        pixels,
        NumberOfFrames=len(frames),
        SharedFunctionalGroupsSequence=[_nested(shared)],
        PerFrameFunctionalGroupsSequence=groups,
    )
    return pixels


def _nested(parts: dict[str, dict[str, Any]]) -> pydicom.Dataset:
    whole = pydicom.Dataset()
    for name, fields in parts.items():
        inner = pydicom.Dataset()
        for key, value in fields.items():
            setattr(inner, key, value)
        setattr(whole, name, [inner])
    return whole


def test_a_file_of_several_frames_is_one_volume_for_each_echo(tmp_path: Path) -> None:
    # the normal of these slices points to smaller x; all frames have x = 0, so that positions have to differ along it
    pixels = enhanced(
        tmp_path / "a1.dcm",
        [(0, 10.0, 1.0, "MAGNITUDE"), (0, 20.0, 2.0, "MAGNITUDE"), (0, 10.0, 1.0, "PHASE")],
    )
    first, second = find_images(tmp_path)
    assert (first.name, second.name) == ("a1", "a1_2")
    assert (first.size, first.orientation, first.voxel_size) == ((12, 10), "sagittal", (0.5, 0.75, 3.0))
    np.testing.assert_array_equal(read_slice(first, 0), pixels[0])
    np.testing.assert_array_equal(read_slice(second, 0), pixels[1] * 2.0)


def test_frames_without_positions_keep_their_order(tmp_path: Path) -> None:
    pixels = np.stack([image(i) for i in range(3)])
    dicom(tmp_path / "a1.dcm", pixels, NumberOfFrames=3)
    [[*slices]] = values(tmp_path)
    np.testing.assert_array_equal(np.stack(slices), pixels)


def test_a_mosaic_and_colours_are_refused(tmp_path: Path) -> None:
    dicom(tmp_path / "a.dcm", image(0), ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    with pytest.raises(InputError, match=r"a\.dcm is a mosaic of slices; convert the series to NIfTI"):
        find_images(tmp_path)
    dicom(tmp_path / "a.dcm", image(0), SamplesPerPixel=3, PhotometricInterpretation="RGB")
    with pytest.raises(InputError, match=r"a\.dcm is in colour"):
        find_images(tmp_path)


def test_a_compression_that_cannot_be_unpacked_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dicom(tmp_path / "a.dcm", image(0))
    file = pydicom.dcmread(tmp_path / "a.dcm")
    file.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    file.PixelData = pydicom.encaps.encapsulate([b"no jpeg"])
    file.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    decoder = SimpleNamespace(is_available=False)
    monkeypatch.setattr("spinwarp.data.images.dicom.get_decoder", lambda _: decoder)
    with pytest.raises(InputError, match=r"a\.dcm is compressed as JPEG 2000 .*; install the decoder"):
        read_slice(find_images(tmp_path)[0], 0)


def test_the_patient_id_splits_a_flat_folder(tmp_path: Path) -> None:
    for number in range(6):
        tags = {"PatientID": f"person {'ABC'[number // 2]}"}
        dicom(tmp_path / f"{number}.dcm", image(number), number, series=f"1.{number + 1}", **tags)
    source = SimulatedImages(tmp_path, n_coils=2)
    assert [[v.name for v in source.volumes(split)] for split in ("train", "val", "test")] == [
        ["0", "1"], ["2", "3"], ["4", "5"]
    ]  # fmt: skip
    assert source.volumes("test")[0].patient == "person C"


@pytest.mark.parametrize(("name", "n_slices"), [("hyperfine", 8), ("siemens_multiframe", 8), ("hitachi", 4)])
def test_slices_of_scanners_lie_as_in_the_volume_that_dicom2nifti_made(shared: Path, name: str, n_slices: int) -> None:
    folder = shared / "data" / "dicom_geometry" / name
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    volume = next(v for v in find_images(folder) if v.frames and "implicit" not in v.name)
    slices = np.stack([read_slice(volume, i) for i in range(volume.n_slices)])
    truth = np.asarray(nibabel.load(folder / "anatomical" / "001_ground_truth.nii.gz").dataobj)
    truth = np.moveaxis(truth, truth.shape.index(n_slices), 0)
    turned = [
        np.flip(t, axes) for t in (truth, truth.swapaxes(1, 2)) for axes in [(), (0,), (1,), (2,), (0, 1), (0, 2)]
    ]
    assert any(np.array_equal(slices, one) for one in turned)  # NIfTI turns axes, but never slices among one another
