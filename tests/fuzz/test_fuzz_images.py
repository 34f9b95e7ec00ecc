"""Hostile arrays and images: pickles in .npy, cut and flipped pictures, NIfTI, DICOM and MATLAB files, tables."""

import io
import pickle
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hostile import Cases, offsets
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy.io import savemat

from spinwarp.data.fastmri.measured import Measurement
from spinwarp.data.images.formats import find_images, read_slice
from spinwarp.data.images.survey import with_orientation
from spinwarp.data.simulation import measured_coil_maps
from spinwarp.results.rows import read_rows
from spinwarp.results.trace import read_trace

# what the readers of images warn of in damaged files is no error to a user
pytestmark = pytest.mark.filterwarnings("ignore")


def read(path: Path) -> None:
    for volume in find_images(path.parent):
        read_slice(volume, 0)
        read_slice(volume, volume.n_slices - 1)


def dicom(path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["a"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SeriesInstanceUID, data.InstanceNumber = generate_uid(entropy_srcs=["b"]), 1
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 8, 9, 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-9.5, 3, 40]
    data.PixelSpacing, data.SliceThickness = [2, 1.5], 5
    data.PixelData = np.arange(72, dtype=np.uint16).tobytes()
    data.save_as(path, enforce_file_format=True)


def nifti(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.arange(480, dtype=np.float32).reshape(6, 8, 10), np.eye(4)), path)


def picture(path: Path) -> None:
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (20, 24)).astype(np.uint8)).save(path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "a1.png": picture,
    "a1.jpg": picture,
    "a1.tif": picture,
    "a1.npy": lambda path: np.save(path, np.random.RandomState(0).rand(3, 8, 9)),
    "a1.nii": nifti,
    "a1.nii.gz": nifti,
    "a1.dcm": dicom,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_damaged_image_is_read_or_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    cases = Cases(f"images {path.name[2:]}", tmp_path)
    cases.run("whole", lambda: read(path))
    assert not cases.messages["whole"]
    for at in list(offsets(len(whole)))[::3]:
        path.write_bytes(whole[:at])
        cases.run(f"cut at {at}", lambda: read(path), path.name)
    rng = random.Random(0)
    for _ in range(60):
        at, bit = rng.randrange(min(len(whole), 600)), rng.randrange(8)
        data = bytearray(whole)
        data[at] ^= 1 << bit
        path.write_bytes(data)
        cases.run(f"bit {bit} of byte {at}", lambda: read(path), path.name)
    cases.check()


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_arrays_hold_numbers_and_never_code(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "set" / "a1.npy"
    path.parent.mkdir()
    evil = io.BytesIO()
    np.save(evil, np.array([Touch(canary)], dtype=object), allow_pickle=True)
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '%s', 'fortran_order': %s, 'shape': %s, }"
    archive = io.BytesIO()
    np.savez(archive, a=np.ones((4, 4)))
    bad = [evil.getvalue(), pickle.dumps(Touch(canary)), archive.getvalue(), b"", b"\x93NUMPY", b"\x93NUMPY\x09\x09"]
    for kind in (b"<c8", b"<f4", b"|O", b"|S4", b"<M8[s]", b"nonsense", b"__import__"):
        for shape in (b"()", b"(0,)", b"(4,)", b"(4, 4)", b"(1000000, 64, 4096, 4096)", b"(-1, 4)", b"'x'", b"(1,)*9"):
            text = header % (kind, b"False", shape)
            bad.append(text.ljust(127) + b"\n" + b"\0" * 64)
    cases = Cases("arrays .npy", tmp_path)
    for i, data in enumerate(bad):
        path.write_bytes(data)
        cases.run(f"image {i}", lambda: read(path), path.name)
        cases.run(f"k-space {i}", lambda: list(Measurement(str(path)).slices([0])), path.name)
        assert not canary.exists()
    cases.check()


def test_damaged_coil_maps_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "maps.mat"
    rng = np.random.RandomState(0)
    savemat(path, {"maps": rng.randn(6, 6, 3) + 1j * rng.randn(6, 6, 3)})
    whole = path.read_bytes()
    cases = Cases("coil maps .mat", tmp_path)
    for at in list(offsets(len(whole)))[::2]:
        path.write_bytes(whole[:at])
        cases.run(
            f"cut at {at}", lambda: measured_coil_maps(path, 2, (6, 6), np.random.RandomState(0)), path.name, True
        )
    for value in (np.nan, np.inf, 0):
        savemat(path, {"maps": np.full((6, 6, 3), value, np.complex64)})
        cases.run(f"{value}", lambda: measured_coil_maps(path, 2, (6, 6), np.random.RandomState(0)), path.name, True)
    cases.check()


def test_tables_that_are_damaged_are_refused(tmp_path: Path) -> None:
    cases = Cases("tables", tmp_path)
    table = tmp_path / "orientation.tsv"
    path = tmp_path / "a1.npy"
    np.save(path, np.ones((4, 4)))
    volumes = find_images(tmp_path)
    lines = [
        "",
        "1\t2",
        "1\t2\taxial",
        "0\t999999999999999\taxial",
        "a\tb\tc",
        "\0",
        "1\t" * 9000,
        "9" * 5000 + "\t1\tx",
    ]
    for line in lines:
        for head in ("first\tlast\torientation\n", "", "first\n", "\xff\n"):
            table.write_bytes((head + line).encode("latin-1"))
            cases.run(repr((head, line[:20])), lambda: with_orientation(tmp_path, volumes), table.name)
    with warnings.catch_warnings():
        for name, reader in (("results.csv", read_rows), ("trace.csv", read_trace)):
            for raw in (b"", b"\0", b"\xff\xfe", b"a,b\n1,2\n", b'"' * 999, b"x" * 200_000, b"method\n" * 50):
                file = tmp_path / name
                file.write_bytes(raw)
                cases.run(f"{name} {raw[:9]!r}", lambda f=file, r=reader: r(f), name)
    cases.check()
