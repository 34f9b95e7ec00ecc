import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from spinwarp.data.images.formats import find_images, read_slice
from spinwarp.data.images.source import SimulatedImages
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
    with pytest.raises(InputError, match="is in colour"):
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
    with pytest.raises(InputError, match="one three-dimensional volume"):
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


def test_the_pages_of_a_tiff_are_slices(tmp_path: Path) -> None:
    pages = [Image.fromarray(picture(seed=i).astype(np.uint16) * 100) for i in range(3)]
    pages[0].save(tmp_path / "1.tif", save_all=True, append_images=pages[1:])
    [volume] = find_images(tmp_path)
    assert volume.n_slices == 3
    for i in range(3):
        np.testing.assert_array_equal(read_slice(volume, i), picture(seed=i).astype(np.uint16) * 100)


def test_pictures_with_transparency_keep_their_grey_values(tmp_path: Path) -> None:
    grey, alpha = picture(), np.full((48, 40), 100, np.uint8)
    Image.fromarray(np.dstack([grey, alpha]), "LA").save(tmp_path / "1_la.PNG")
    Image.fromarray(np.dstack([grey, grey, grey, alpha]), "RGBA").save(tmp_path / "2_rgba.png")
    Image.fromarray(np.dstack([grey * 0, grey * 0, grey * 0, 255 - grey]), "CMYK").save(tmp_path / "3_cmyk.TIF")
    Image.fromarray(grey > 0).save(tmp_path / "4_bits.png")
    *three, bits = (read_slice(volume, 0) for volume in find_images(tmp_path))
    for found in three:
        np.testing.assert_array_equal(found, grey)
    np.testing.assert_array_equal(bits, grey > 0)


def png_of_16_bits(path: Path, channels: int) -> None:
    """Write a PNG that Pillow cannot: 16 bits, grey with transparency (2) or colours (3)."""
    h, w = 4, 5
    rows = np.random.RandomState(0).randint(0, 65536, (h, w, channels)).astype(">u2")
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", w, h, 16, {2: 4, 3: 2}[channels], 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", body), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    )


@pytest.mark.parametrize("channels", [2, 3])
def test_sixteen_bits_of_which_eight_would_be_lost_are_refused(tmp_path: Path, channels: int) -> None:
    png_of_16_bits(tmp_path / "1.png", channels)
    with pytest.raises(InputError, match=r"1\.png has 16 bits with colour or transparency; save it as plain"):
        read_slice(find_images(tmp_path)[0], 0)


def test_pictures_that_would_be_read_wrongly_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(picture(seed=i)) for i in range(2)]
    frames[0].save(tmp_path / "1.png", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"1\.png is animated; expected one slice, or a TIFF file with several"):
        find_images(tmp_path)
    (tmp_path / "1.png").unlink()
    Image.fromarray(picture().astype(np.uint16) * 200).save(tmp_path / "1.tif", tiffinfo={262: 0})
    with pytest.raises(InputError, match=r"1\.tif is a 16-bit TIFF in which zero is white"):
        read_slice(find_images(tmp_path)[0], 0)
    (tmp_path / "1.tif").unlink()
    np.save(tmp_path / "1.npy", np.ones((48, 40, 3)))
    with pytest.raises(InputError, match=r"1\.npy has shape \(48, 40, 3\), colour channels last; expected"):
        find_images(tmp_path)


def test_true_and_false_are_one_and_zero(tmp_path: Path) -> None:
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", picture() > 0)
    source = SimulatedImages(tmp_path, n_coils=2, block=1)
    source.prepare()
    target = source.read(source.volumes("test")[0], 0).target
    assert target is not None
    np.testing.assert_array_equal(target[0], picture() > 0)


def test_a_nifti_file_of_colours_is_refused(tmp_path: Path) -> None:
    colours = np.zeros((4, 5, 6), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / "1.nii")
    with pytest.raises(InputError, match=r"1\.nii is in colour .*; expected one magnitude per voxel"):
        find_images(tmp_path)


def test_capitals_in_a_suffix_change_nothing(tmp_path: Path) -> None:
    data = np.zeros((6, 8, 10), np.float32)  # packs far below its size
    data[2:4, 3:5] = 7
    nibabel.save(nibabel.Nifti1Image(data, np.diag([1, 1, 4, 1])), tmp_path / "1.nii.gz")
    (tmp_path / "1.nii.gz").rename(tmp_path / "1.NII.GZ")
    np.save(tmp_path / "2.npy", picture())
    (tmp_path / "2.npy").rename(tmp_path / "2.NPY")
    packed, array = find_images(tmp_path)
    assert (packed.name, packed.n_slices, array.name) == ("1", 10, "2")
    np.testing.assert_array_equal(read_slice(packed, 4), data[:, ::-1, 4].T)
    np.testing.assert_array_equal(read_slice(array, 0), picture())


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    for name in (".ipynb_checkpoints/1.png", "__MACOSX/2.png", ".3.png", "._4.png", "4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture()).save(tmp_path / name)
    assert [volume.name for volume in find_images(tmp_path)] == ["4"]
