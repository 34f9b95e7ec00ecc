from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from spinwarp.data.image_files import find_images, read_slice
from spinwarp.errors import InputError


def picture(h: int = 48, w: int = 40, seed: int = 0) -> np.ndarray:
    """Return an 8-bit ellipse with texture."""
    y, x = np.linspace(-1, 1, h)[:, None], np.linspace(-1, 1, w)
    texture = np.random.RandomState(seed).uniform(100, 200, (h, w))
    return ((x**2 / 0.5 + y**2 / 0.7 < 1) * texture).astype(np.uint8)


def test_broken_colour_and_doubled_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no image; expected files ending in \.png"):
        find_images(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        find_images(tmp_path / "absent")
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="not a whole picture"):
        find_images(tmp_path)
    Image.fromarray(picture(300, 300)).save(tmp_path / "1.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:2000])
    with pytest.raises(InputError, match="not a whole picture"):
        read_slice(find_images(tmp_path)[0], 0)
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / "1.png")
    with pytest.raises(InputError, match="colour picture"):
        read_slice(find_images(tmp_path)[0], 0)
    Image.fromarray(picture()).save(tmp_path / "1.jpg")
    with pytest.raises(InputError, match="would both be called 1"):
        find_images(tmp_path)


def test_grey_pictures_of_every_mode_keep_their_values(tmp_path: Path) -> None:
    grey = picture()
    Image.fromarray(np.repeat(grey[..., None], 3, -1)).save(tmp_path / "1_rgb.png")
    Image.fromarray(grey.astype(np.uint16) * 200).save(tmp_path / "2_deep.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "3_palette.png")
    rgb, deep, palette = (read_slice(volume, 0) for volume in find_images(tmp_path))
    np.testing.assert_array_equal(rgb, grey)
    np.testing.assert_array_equal(deep, grey.astype(np.uint16) * 200)
    np.testing.assert_array_equal(palette, grey)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "ASL"])
def test_nifti_slices_stand_upright_however_they_are_stored(tmp_path: Path, axes: str, suffix: str) -> None:
    ras = np.random.RandomState(0).randint(0, 99, (10, 12, 5)).astype(np.int16)
    image = nibabel.Nifti1Image(ras, np.diag([1, 1, 4, 1]))
    start, end = nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(tuple(axes))
    path = tmp_path / f"scan1{suffix}"
    nibabel.save(image.as_reoriented(nibabel.orientations.ornt_transform(start, end)), path)
    [volume] = find_images(tmp_path)
    assert (volume.name, volume.n_slices, volume.size) == ("scan1", 5, (12, 10))
    assert (volume.orientation, volume.voxel_size) == ("axial", (1, 1, 4))
    for index in range(5):  # anterior on top, right on the right
        np.testing.assert_array_equal(read_slice(volume, index), ras[:, ::-1, index].T)


def test_nifti_slices_lie_across_the_thickest_voxels(tmp_path: Path) -> None:
    data = np.random.RandomState(0).rand(4, 12, 10).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([5, 1, 1, 1])), tmp_path / "1.nii")
    [volume] = find_images(tmp_path)
    assert (volume.orientation, volume.n_slices, volume.size) == ("sagittal", 4, (10, 12))
    np.testing.assert_array_equal(read_slice(volume, 2), data[2].T[::-1])
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.float32), np.eye(4)), tmp_path / "1.nii")
    with pytest.raises(InputError, match="one volume of three dimensions"):
        find_images(tmp_path)


def write_dicom(path: Path, series: str, number: int, pixels: np.ndarray) -> None:
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = pydicom.uid.MRImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = pydicom.uid.UID(f"1.2.3.{number}")
    file.SeriesInstanceUID, file.InstanceNumber = pydicom.uid.UID(series), number
    file.Rows, file.Columns = pixels.shape
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit, file.PixelRepresentation, file.SamplesPerPixel = 15, 0, 1
    file.PhotometricInterpretation = "MONOCHROME2"
    file.RescaleSlope, file.RescaleIntercept = 2, 1
    file.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    file.PixelSpacing, file.SliceThickness = [0.5, 0.75], 3
    file.PixelData = pixels.astype(np.uint16).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)


def test_dicom_series_are_volumes_in_the_order_of_their_instances(tmp_path: Path) -> None:
    pixels = [picture(seed=i) for i in range(4)]
    for name, series, number in [("a", "1.1", 2), ("b", "1.1", 1), ("c", "1.2", 3)]:
        write_dicom(tmp_path / "patient" / f"{name}.dcm", series, number, pixels[number])
    two, one = find_images(tmp_path)
    assert (two.n_slices, one.n_slices) == (2, 1)
    assert (two.size, two.orientation, two.voxel_size) == ((48, 40), "coronal", (0.5, 0.75, 3))
    for index in range(2):
        np.testing.assert_array_equal(read_slice(two, index), pixels[index + 1] * 2.0 + 1)
    (tmp_path / "patient" / "d.dcm").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a whole DICOM file"):
        find_images(tmp_path)


@pytest.mark.parametrize(("name", "extra"), [("1.nii", "nifti"), ("1.dcm", "dicom")])
def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, extra: str) -> None:
    def missing(module: str, *_: object) -> None:
        raise ImportError(module)

    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(InputError, match=rf"pip install spinwarp\[{extra}\]"):
        find_images(tmp_path)
