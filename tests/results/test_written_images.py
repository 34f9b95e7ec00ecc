"""NIfTI, DICOM, PNG and HDF5 files of images: what they hold and where they say it lies, read by other libraries."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from spinwarp.data.images.formats import find_images, read_slice
from spinwarp.data.images.source import SimulatedImages
from spinwarp.errors import InputError
from spinwarp.geometry import Geometry
from spinwarp.results.formats import FORMATS, Patient, Record, Volume, writer

RECORD = Record("tv", "none", "/data/scan.h5", "abc", (0, 1, 2))
SIZE = (7, 10)


def turned(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """A rotation about z, y and x."""
    (a, b, c), (s, t, u) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    about_z = np.array([[a, -s, 0], [s, a, 0], [0, 0, 1]])
    about_y = np.array([[b, 0, t], [0, 1, 0], [-t, 0, b]])
    return about_z @ about_y @ np.array([[1, 0, 0], [0, c, -u], [0, u, c]])


def stack(
    directions: np.ndarray, n: int = 3, gap: float = 4.5, voxel: tuple[float, float] = (0.75, 1.25)
) -> list[Geometry]:
    """Places of ``n`` slices; the columns of ``directions`` are those of readout, phase and slice."""
    readout, phase, normal = (tuple(map(float, v)) for v in directions.T)
    first = Geometry((-31.5, 12.25, 87.0), readout, phase, normal, (*voxel, gap))
    return [first.moved(i * gap * directions[:, 2]) for i in range(n)]


OBLIQUE = turned(0.4, -0.3, 1.1)
PLANES = {
    # readout, phase and slice direction as columns, in LPS
    "axial": np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]], float),
    "sagittal": np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], float),
    "coronal": np.array([[0, 1, 0], [0, 0, 1], [-1, 0, 0]], float),
    "oblique": OBLIQUE,
    "oblique, slices the other way": OBLIQUE * [1, 1, -1],
}


def volume(places: list[Geometry | None], **changes: Any) -> Volume:
    rng = np.random.RandomState(0)
    images = rng.rand(len(places), *SIZE).astype(np.float32) * 3e-4
    record = replace(RECORD, slices=tuple(range(len(places))))
    made = Volume("scan", images, None, places, (0.75, 1.25, 4.0), record)
    return replace(made, **changes)


def written(folder: Path, made: Volume, *formats: str) -> list[Path]:
    paths = [writer(name).path_of(folder, made.name) for name in formats]
    for name, path in zip(formats, paths, strict=True):
        writer(name).write(path, made)
    return paths


def dicom_points(path: Path, r: int, c: int) -> np.ndarray:
    """The place in LPS of pixel (r, c) of each file, by the equation of DICOM PS3.3 C.7.6.2.1.1, written out."""
    points = []
    for file in map(pydicom.dcmread, sorted(path.glob("image_[0-9]*.dcm"))):
        x, y = np.array(file.ImageOrientationPatient, float).reshape(2, 3)
        down, across = map(float, file.PixelSpacing)  # between rows, between columns
        points.append(np.array(file.ImagePositionPatient, float) + x * across * c + y * down * r)
    return np.array(points)


@pytest.mark.parametrize("plane", PLANES)
def test_nifti_and_dicom_say_the_same_of_every_voxel(tmp_path: Path, plane: str) -> None:
    made = volume(stack(PLANES[plane]))
    nifti, dicom = written(tmp_path, made, "nifti", "dicom")
    image = nibabel.load(nifti)
    assert (image.header["sform_code"], image.header["qform_code"]) == (1, 1)
    for affine in (image.get_sform(), image.get_qform()):
        for r, c in [(0, 0), (6, 0), (0, 9), (6, 9)]:
            ras = np.array([affine @ [c, r, s, 1] for s in range(3)])[:, :3]
            # NIfTI keeps float32: 1e-5 mm at 100 mm
            assert np.abs(ras * [-1, -1, 1] - dicom_points(dicom, r, c)).max() < 1e-4
    values = np.asarray(image.dataobj)
    assert values.dtype == np.float32 and values.shape == (10, 7, 3)
    np.testing.assert_array_equal(values.transpose(2, 1, 0), made.images)
    assert np.allclose(image.header.get_zooms(), (1.25, 0.75, 4.5)) and image.header.get_xyzt_units()[0] == "mm"
    # and both are where the geometry says, by hand
    place = made.places[1]
    assert place is not None
    middle = dicom_points(dicom, SIZE[0] // 2, SIZE[1] // 2)
    assert np.abs(middle[1] - place.position).max() < 1e-4


def test_a_spot_at_the_left_of_the_patient_is_where_a_viewer_looks_for_it(tmp_path: Path) -> None:
    """Axial: rows run to the back, columns to the left. A second slice lies nearer to the head."""
    made = volume(stack(PLANES["axial"], n=2))
    images = np.zeros((2, *SIZE), np.float32)
    images[0, 1, 8] = 1.0  # front, left, lower slice
    images[1, 5, 2] = 2.0  # back, right, upper slice
    (dicom,) = written(tmp_path, replace(made, images=images), "dicom")
    files = [pydicom.dcmread(path) for path in sorted(dicom.glob("*.dcm"))]
    assert [list(map(float, f.ImageOrientationPatient)) for f in files] == [[1, 0, 0, 0, 1, 0]] * 2
    assert [int(f.InstanceNumber) for f in files] == [1, 2]
    found = []
    for i, file in enumerate(files):
        r, c = np.unravel_index(int(file.pixel_array.argmax()), SIZE)
        found.append(dicom_points(dicom, int(r), int(c))[i])
    (left, back, up) = found[0] - found[1]
    assert left == pytest.approx(6 * 1.25)  # +x is the patient's left
    assert back == pytest.approx(-4 * 0.75)  # +y is the back
    assert up == pytest.approx(-4.5)  # +z is the head
    assert float(files[0].SpacingBetweenSlices) == 4.5 and float(files[0].SliceThickness) == 4.0


@pytest.mark.parametrize(
    "series",
    ["anatomical/001", "dti/001", "dti/002", "hitachi/anatomical/001", "hyperfine/anatomical/001",
     "siemens_multiframe/anatomical/001"],
)  # fmt: skip
def test_series_of_scanners_lie_where_another_program_puts_them_and_stay_there_when_written(
    shared: Path, tmp_path: Path, series: str
) -> None:
    folder = shared / "data" / "dicom_geometry" / series
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    scan = find_images(folder)[0]
    images = np.stack([read_slice(scan, i) for i in range(scan.n_slices)]).astype(np.float32)
    # every voxel is where dicom2nifti found it
    truth = nibabel.load(f"{folder}_ground_truth.nii.gz")
    values = np.asarray(truth.dataobj).reshape(*truth.shape[:3], -1)[..., 0]
    s, r, c = (axis.ravel() for axis in np.indices(images.shape))
    lps = np.stack([scan.places[i].affine(scan.size) for i in range(scan.n_slices)])[s] @ np.stack(
        [r, c, 0 * r, 0 * r + 1], 1
    ).reshape(-1, 4, 1)
    index = np.linalg.inv(truth.affine) @ (np.diag([-1, -1, 1, 1]) @ lps[..., 0].T)
    nearest = np.rint(index[:3]).astype(int)
    assert np.abs(index[:3] - nearest).max() < 2e-3  # of a voxel: positions in the files are rounded
    np.testing.assert_array_equal(values[tuple(nearest)], images.ravel())
    # written again and read again, they lie there still
    record = replace(RECORD, slices=tuple(range(scan.n_slices)))
    made = Volume("scan", images, None, scan.places, scan.voxel_size, record)
    nifti, dicom = written(tmp_path / "out", made, "nifti", "dicom")
    (again,) = find_images(dicom)
    for before, after in zip(scan.places, again.places, strict=True):
        assert np.abs(before.affine(scan.size) - after.affine(scan.size)).max() < 1e-4
    back = np.stack([read_slice(again, i) for i in range(again.n_slices)])
    np.testing.assert_allclose(back, images, atol=0.51 * images.max() / 65535)  # half a step of the 16 bits
    affine = nibabel.load(nifti).affine
    first = scan.places[0].affine(scan.size)
    for point in ([0, 0, 0, 1], [1, 2, 0, 1], [2, 1, scan.n_slices - 1, 1]):
        # distances of the slices in the files are rounded too
        assert np.abs(affine[:3] @ point - [-1, -1, 1] * (first @ np.array(point)[[1, 0, 2, 3]])[:3]).max() < 1e-3


@pytest.mark.parametrize("plane", PLANES)
def test_nifti_files_are_read_back_to_where_they_lie(tmp_path: Path, plane: str) -> None:
    """The reader turns the axes; each value has to turn with its place."""
    made = volume(stack(PLANES[plane]))
    written(tmp_path, made, "nifti")
    (scan,) = find_images(tmp_path)
    by_place = {}
    for s, place in enumerate(made.places):
        assert place is not None
        for r, c in np.ndindex(*SIZE):
            by_place[tuple((place.affine(SIZE) @ [r, c, 0, 1]).round(2) + 0.0)] = made.images[s, r, c]
    for s, place in enumerate(scan.places):
        image = read_slice(scan, s)
        for r, c in np.ndindex(*image.shape):
            assert by_place[tuple((place.affine(scan.size) @ [r, c, 0, 1]).round(2) + 0.0)] == image[r, c]


def test_data_that_are_simulated_from_images_lie_where_these_do(tmp_path: Path) -> None:
    written(tmp_path / "train", volume(stack(OBLIQUE)), "nifti")
    (scan,) = find_images(tmp_path)
    for size in (None, 16):
        source = SimulatedImages(tmp_path, n_coils=2, size=size)
        (found,) = source.volumes("train")
        # scaled and padded images have other voxels
        expected = scan.places[1] if size is None else None
        assert source.read(found, 1).acquisition.headers[0].geometry == expected


def test_interleaved_slices_are_sorted_by_their_positions(tmp_path: Path) -> None:
    ordered = volume(stack(OBLIQUE, n=5))
    mixed = [0, 2, 4, 1, 3]
    shuffled = replace(
        ordered,
        images=ordered.images[mixed],
        places=[ordered.places[i] for i in mixed],
        record=replace(RECORD, slices=tuple(range(5))),
    )
    a, b = (written(tmp_path / name, made, "nifti", "dicom") for name, made in (("a", ordered), ("b", shuffled)))
    one, other = nibabel.load(a[0]), nibabel.load(b[0])
    np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
    np.testing.assert_array_equal(one.affine, other.affine)
    np.testing.assert_array_equal(dicom_points(a[1], 0, 0), dicom_points(b[1], 0, 0))
    found = writer("nifti").read_record(b[0])
    assert found is not None and found.slices == (0, 3, 1, 4, 2)


def shifted(places: list[Geometry], which: int, by: np.ndarray) -> list[Geometry]:
    return [place.moved(by) if i == which else place for i, place in enumerate(places)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: [p[0], p[1], p[1]], "not evenly spaced, but by 4.5, 0 mm"),
        (lambda p: [p[0], p[0], p[1], p[2]], "not evenly spaced, but by 0, 4.5, 4.5 mm"),
        (lambda p: shifted(p, 2, 9 * OBLIQUE[:, 2]), "not evenly spaced, but by 4.5, 13.5 mm"),
        (lambda p: shifted(p, 1, 2 * OBLIQUE[:, 0]), "shifted against each other within their plane, by up to"),
        (lambda p: [p[0], p[1], stack(turned(0.1, 0, 0) @ OBLIQUE)[2]], "not parallel"),
    ],
    ids=["two of the last", "two of the first", "a gap", "a step aside", "a localizer"],
)
def test_slices_that_are_no_volume_are_refused_by_nifti_and_placed_one_by_one_in_dicom(
    tmp_path: Path, change: Callable[[list[Geometry]], list[Geometry]], words: str
) -> None:
    places = change(stack(OBLIQUE))
    with pytest.raises(InputError, match=f"scan cannot be one NIfTI volume: .*{words}"):
        written(tmp_path, volume(list(places)), "nifti")
    assert not list(tmp_path.iterdir())
    (dicom,) = written(tmp_path, volume(list(places)), "dicom")
    corners = dicom_points(dicom, SIZE[0] // 2, SIZE[1] // 2)
    expected = sorted((place.position for place in places), key=lambda p: float(np.dot(p, places[0].slice)))
    assert np.abs(corners - expected).max() < 1e-4
    assert all("SpacingBetweenSlices" not in pydicom.dcmread(path) for path in dicom.iterdir())


def test_echoes_follow_each_other_along_the_fourth_axis_of_nifti(tmp_path: Path) -> None:
    places = stack(OBLIQUE)
    for n in (3, 1):
        made = volume([*places[:n], *places[:n]])  # one echo after the other
        nifti, dicom = written(tmp_path / str(n), made, "nifti", "dicom")
        image = nibabel.load(nifti)
        values = np.asarray(image.dataobj)
        assert values.shape == (10, 7, n, 2)
        np.testing.assert_array_equal(values.transpose(3, 2, 1, 0).reshape(-1, *SIZE), made.images)
        points = dicom_points(dicom, 3, 4)
        ras = np.array([image.affine @ [4, 3, s, 1] for s in range(n)])[:, :3]
        assert np.abs(np.repeat(ras, 2, 0) * [-1, -1, 1] - points).max() < 1e-4
        file = pydicom.dcmread(dicom / "image_0001.dcm")
        assert float(file.SpacingBetweenSlices) == pytest.approx(4.5)


@pytest.mark.parametrize("voxel_size", [(0.75, 1.25, 4.0), None])
def test_files_without_a_place_claim_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, voxel_size: tuple[float, float, float] | None
) -> None:
    nifti, dicom = written(tmp_path, volume([None] * 3, voxel_size=voxel_size), "nifti", "dicom")
    image = nibabel.load(nifti)
    assert (image.header["sform_code"], image.header["qform_code"]) == (0, 0)
    assert np.allclose(image.header.get_zooms(), (1.25, 0.75, 4.0) if voxel_size else 1)
    file = pydicom.dcmread(dicom / "image_0001.dcm")
    assert not {"ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID"} & set(file.dir())
    assert ("PixelSpacing" in file) == ("SliceThickness" in file) == (voxel_size is not None)
    for kind, words in (("NIfTI", "voxels of 1 mm, because"), ("DICOM", "no voxel size, because")):
        told = words if voxel_size is None else "voxels of the measured size"
        assert f"the {kind} file has no position, and {told}" in caplog.text
    assert find_images(tmp_path)[0].places == ()


def test_the_standard_deviation_is_a_second_series_and_every_identifier_is_new(tmp_path: Path) -> None:
    made = volume(stack(OBLIQUE))
    made = replace(made, std=made.images / 7, interval=(1.5, 0.9))
    nifti, dicom = written(tmp_path / "a", made, "nifti", "dicom")
    (_, other) = written(tmp_path / "b", made, "nifti", "dicom")
    assert sorted(p.name for p in nifti.parent.glob("*.nii.gz")) == [
        "scan.nii.gz", "scan_half_width.nii.gz", "scan_std.nii.gz"
    ]  # fmt: skip
    np.testing.assert_array_equal(
        np.asarray(nibabel.load(nifti.with_name("scan_std.nii.gz")).dataobj).transpose(2, 1, 0), made.std
    )
    files = [pydicom.dcmread(path) for folder in (dicom, other) for path in sorted(folder.glob("*.dcm"))]
    assert len(files) == 18
    assert len({f.SOPInstanceUID for f in files}) == 18
    assert all(f.SOPInstanceUID == f.file_meta.MediaStorageSOPInstanceUID for f in files)
    assert len({f.SeriesInstanceUID for f in files}) == 6 and len({f.StudyInstanceUID for f in files}) == 2
    kinds = {(int(f.SeriesNumber), f.SeriesDescription, "\\".join(f.ImageType)) for f in files}
    assert kinds == {
        (1, "tv", "ORIGINAL\\PRIMARY\\M"),
        (2, "tv, standard deviation", "DERIVED\\SECONDARY\\OTHER"),
        (3, "tv, half width of the 90 % interval", "DERIVED\\SECONDARY\\OTHER"),
    }
    for kind, expected in (("", made.images), ("_std", made.std), ("_half_width", 1.5 * made.std)):
        for i in range(3):
            file = pydicom.dcmread(dicom / f"image{kind}_{i + 1:04d}.dcm")
            found = file.pixel_array * float(file.RescaleSlope) + float(file.RescaleIntercept)
            # half a step of 16 bits, and the slope has 16 characters
            np.testing.assert_allclose(found, expected[i], atol=0.51 * expected.max() / 65535)
    # one scale for a series
    assert len({(f.SeriesInstanceUID, f.RescaleSlope, f.RescaleIntercept) for f in files}) == 6


def test_a_patient_is_named_only_if_the_user_does(tmp_path: Path) -> None:
    (dicom,) = written(tmp_path / "a", volume(stack(OBLIQUE)), "dicom")
    file = pydicom.dcmread(dicom / "image_0001.dcm")
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber"):
        assert name in file and not str(file[name].value or "")
    assert "/data" not in str(file)  # paths may name the patient too
    patient = Patient("Möller^Ann", "4711", "19800229", "F", "1.2.840.99.1")
    (dicom,) = written(tmp_path / "b", volume(stack(OBLIQUE), patient=patient), "dicom")
    file = pydicom.dcmread(dicom / "image_0002.dcm")
    found = (str(file.PatientName), file.PatientID, file.PatientBirthDate, file.PatientSex, file.StudyInstanceUID)
    assert found == ("Möller^Ann", "4711", "19800229", "F", "1.2.840.99.1")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"birth_date": "19801332"}, "patient.birth_date=19801332 is no date; write it as YYYYMMDD"),
        ({"birth_date": "1.2.1980"}, "YYYYMMDD"),
        ({"sex": "female"}, "patient.sex=female is not M, F or O"),
        ({"study": "abc"}, "patient.study=abc is no unique identifier"),
        ({"study": "1." * 40 + "1"}, "no unique identifier"),
        ({"name": "x" * 65}, "patient.name has at most 64 characters"),
        ({"id": "a\\b"}, "patient.id has at most 64 characters and no backslash"),
    ],
)
def test_what_dicom_does_not_take_of_a_patient_is_told(fields: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        Patient(**fields)


def test_a_constant_image_and_one_of_zeros_are_written(tmp_path: Path) -> None:
    for value in (0.0, 5.0, 1e-20):
        made = volume(stack(OBLIQUE), images=np.full((3, *SIZE), value, np.float32))
        dicom, png = written(tmp_path / str(value), made, "dicom", "png")
        file = pydicom.dcmread(dicom / "image_0001.dcm")
        found = file.pixel_array * float(file.RescaleSlope) + float(file.RescaleIntercept)
        np.testing.assert_allclose(found, value, rtol=1e-6)
        assert math.isfinite(float(file.WindowWidth)) and float(file.WindowWidth) > 0
        assert len(list(png.iterdir())) == 3


def test_pictures_are_grey_on_one_scale_that_the_log_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "spinwarp")
    ramp = np.linspace(0, 1, 3 * 70, dtype=np.float32).reshape(3, *SIZE)
    (folder,) = written(tmp_path, volume([None] * 3, images=ramp), "png")
    pictures = [np.asarray(Image.open(path), np.int64) for path in sorted(folder.iterdir())]
    white = np.percentile(ramp, 99.8)
    assert f"white is {white:.4g} in the pictures of tv" in caplog.text
    for picture, image in zip(pictures, ramp, strict=True):
        np.testing.assert_array_equal(picture, np.rint(np.minimum(image / white, 1) * 65535))


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_says_what_made_its_images(tmp_path: Path, name: str) -> None:
    made = volume(stack(OBLIQUE), record=replace(RECORD, slices=(4, 6, 8)))
    (path,) = written(tmp_path, made, name)
    found = writer(name).read_record(path)
    assert found is not None
    assert (found.method, found.mask, found.settings, found.slices) == ("tv", "none", "abc", (4, 6, 8))
    assert found.same_origin(RECORD)
    for other in (replace(RECORD, method="x"), replace(RECORD, mask="x"), replace(RECORD, input="/data/b.h5")):
        assert not found.same_origin(other)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    # what other programs wrote has no record
    strange = tmp_path / "strange"
    for content in (strange / "image_0001.dcm", strange / "slice_0001.png", strange / "a.nii.gz", strange / "a.h5"):
        content.parent.mkdir(exist_ok=True)
        content.write_bytes(b"something else " * 40)
    assert writer(name).read_record({"nifti": strange / "a.nii.gz", "h5": strange / "a.h5"}.get(name, strange)) is None
    assert writer(name).read_record(tmp_path / "nowhere") is None


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    (dicom,) = written(tmp_path, volume(stack(OBLIQUE, n=5)), "dicom")
    written(tmp_path, volume(stack(OBLIQUE, n=3)), "dicom")
    assert len(list(dicom.iterdir())) == 3 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("name", "library"), [("nifti", "nibabel"), ("dicom", "pydicom")])
def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, name: str, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"spinwarp.results.formats.{name}", raising=False)
    with pytest.raises(InputError, match=rf"format={name} needs {library}; .*pip install 'spinwarp\[{name}\]'"):
        writer(name)


def test_the_submission_layout_is_as_it_was(tmp_path: Path) -> None:
    (path,) = written(tmp_path, volume(stack(OBLIQUE)), "h5")
    with h5py.File(path) as file:
        assert list(file) == ["reconstruction"] and file["reconstruction"].dtype == np.float32
        assert file.attrs["input"] == "/data/scan.h5" and file["reconstruction"].attrs["slices"].tolist() == [0, 1, 2]
