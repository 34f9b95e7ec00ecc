"""Which patient a name tells, and the warning when one is in several splits."""

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from spinwarp.data.fastmri.source import FastMRIFiles, Folders
from spinwarp.data.images.source import SimulatedImages
from spinwarp.data.patients import file_numbers, patients_in, warn_of_shared_patients
from spinwarp.data.source import SPLITS
from spinwarp.errors import InputError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINWARP_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        ("p01_0001 p01_0002 p02_0001", "p01 p01 p02"),
        ("P1_0001 p01_0002 p02_0001", "P1 P1 p02"),
        ("001_p1 002_p1 001_p2", "p1 p1 p2"),
        ("sub-003_T1w_012 sub-003_T1w_013 sub-004_T1w_012", "sub-003 sub-003 sub-004"),
        ("sub-01_0001 sub-01_0002", "sub-01 sub-01"),  # one patient it stays
        ("sub-pat7_ses-1_T2w sub-pat8_ses-1_T2w", "sub-pat7 sub-pat8"),
        ("IXI002-Guys-0828-T1_01 IXI002-Guys-0828-T1_02 IXI012-HH-1211-T1_01", "IXI002 IXI002 IXI012"),
        ("TCGA_CS_4941_1996_1 TCGA_CS_4941_1996_2 TCGA_DU_5849_1995_1", "TCGA_CS_4941 TCGA_CS_4941 TCGA_DU_5849"),
        ("patient12-slice3 patient12-slice4 patient1-slice3", "patient12 patient12 patient1"),
        ("slice3_patient12 slice4_patient12 slice3_patient1", "patient12 patient12 patient1"),
        ("file1000001_15 file1000001_16 file1000007_15", "file1000001 file1000001 file1000007"),
        ("2024_0001 2024_0002 2023_0001", "2024 2024 2023"),
        ("P001S01 P001S02 P002S01", "P001 P001 P002"),
        ("BraTS20_Training_001_t1_7 BraTS20_Training_001_t2_7 BraTS20_Training_002_t1_9",
         "BraTS20_Training_001 BraTS20_Training_001 BraTS20_Training_002"),
        ("BraTS20_Training_001_t1 BraTS20_Training_001_t2 BraTS20_Training_002_t1", "- - -"),  # one number differs
        ("BraTS20_Training_001_t1_7 BraTS20_Training_001_t1_8 BraTS20_Training_002_t1_7",
         "BraTS20_Training_001 BraTS20_Training_001 BraTS20_Training_002"),
        ("brain_0001 brain_0002", "- -"),
        ("0001 0002", "- -"),
        ("T1_0001 T2_0001 T1_0002", "- - -"),
        ("t1_mprage_sag_p2_iso_0001 t1_mprage_sag_p2_iso_0002", "- -"),  # Siemens' acceleration of 2
        ("IM-0001-0001 IM-0001-0002 IM-0002-0001", "- - -"),  # series, perhaps of one patient
        ("slice_001_12 slice_002_12 slice_001_13", "- - -"),
    ],
)  # fmt: skip
def test_a_name_tells_its_patient_or_nothing(names: str, patients: str) -> None:
    assert patients_in(names.split()) == [None if patient == "-" else patient for patient in patients.split()]


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        ("0001 0020", [1, 20]),
        ("brain2024_1 brain2024_2", [1, 2]),
        ("IM-0001-0035 IM-0001-0036", [35, 36]),
        ("T1_5 T2_5", [5, 5]),
        ("3T_0007 3T_0008", [7, 8]),
        ("a b7", [None, 7]),
    ],
)
def test_the_number_of_a_file_is_the_one_that_differs(names: str, numbers: list[int | None]) -> None:
    assert file_numbers(names.split()) == numbers


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((np.eye(8) * 200).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def held(source: SimulatedImages, cut: slice) -> dict[str, set[str]]:
    return {split: {volume.name[cut] for volume in source.volumes(split)} for split in SPLITS}


def test_a_patient_of_a_flat_folder_is_in_one_split_and_the_log_says_how(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    source = SimulatedImages(
        pictures(tmp_path, *(f"p{p:02d}_{s:04d}" for p in range(1, 5) for s in range(60))), n_coils=2
    )
    assert held(source, slice(3)) == {"train": {"p01", "p02"}, "val": {"p03"}, "test": {"p04"}}
    assert "240 images are split by patients: train p01, p02; val p03; test p04" in caplog.text
    assert {v.patient for v in source.volumes("test")} == {"p04"}


@pytest.mark.parametrize(
    "names",
    [
        [f"{who}_{s:03d}" for who in ("anna", "ben", "carl") for s in range(60)],
        [f"{s:03d}_{who}" for who in ("anna", "ben", "carl") for s in range(60)],
        [f"IM-{series:04d}-{s:04d}" for series in (1, 2, 3) for s in range(60)],
        [f"scan{scan}_{s:04d}" for scan in (1, 2, 3) for s in range(60)],
    ],
)
def test_names_that_leave_open_who_is_who_are_refused(tmp_path: Path, names: list[str]) -> None:
    source = SimulatedImages(pictures(tmp_path, *names), n_coils=2)
    with pytest.raises(InputError, match=r"names do not show which files may be of one patient; give each patient a"):
        source.volumes("train")


def test_contrasts_of_one_number_stay_together(tmp_path: Path) -> None:
    names = [f"{kind}_{n:03d}" for kind in ("t1", "T2", "flair") for n in range(6)]
    source = SimulatedImages(pictures(tmp_path, *names), n_coils=2, block=2)
    assert held(source, slice(-3, None)) == {
        "train": {"000", "001"}, "val": {"002", "003"}, "test": {"004", "005"}
    }  # fmt: skip


def test_a_lonely_patient_is_not_torn_apart(tmp_path: Path) -> None:
    source = SimulatedImages(pictures(tmp_path, *(f"sub-07_{s:03d}" for s in range(200))), n_coils=2)
    with pytest.raises(InputError, match=r"200 images make 1 patients \(sub-07\).*sub-folders train, val and test"):
        source.volumes("train")


def test_a_patient_in_two_folders_of_splits_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["train/p1_1", "train/p1_2", "train/p2_1", "val/p3_1", "val/p2_2", "test/sub/x", "test/p2/1", "test/p4_1"]
    source = SimulatedImages(pictures(tmp_path, *names), n_coils=2)
    warn_of_shared_patients(source)
    warn_of_shared_patients(source)  # says nothing new
    assert warned(caplog) == [
        "train and val of images share patients (1: p2): results on val are not results on new patients",
        "train and test of images share patients (1: p2): results on test are not results on new patients",
        "val and test of images share patients (1: p2): results on test are not results on new patients",
    ]


def test_a_patient_in_two_sub_folders_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [f"{kind}/sub-{n}" for kind in ("a_T1", "b_T2", "c_PD") for n in range(8)]
    warn_of_shared_patients(SimulatedImages(pictures(tmp_path, *names), n_coils=2))
    assert "train and val of images share patients (8: sub-0, sub-1, sub-2, sub-3, sub-4, ...)" in caplog.text


def volume(path: Path, **attributes: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = np.ones((1, 2, 8, 8), np.complex64)
        file.attrs.update(attributes)


def test_a_patient_id_in_two_splits_is_named_and_the_index_keeps_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume(tmp_path / "train" / "a.h5", patient_id="one")
    volume(tmp_path / "train" / "b.h5", patient_id=b"two")
    volume(tmp_path / "train" / "c.h5", patient_id=17)
    volume(tmp_path / "train" / "sub-09_T1.h5")
    volume(tmp_path / "train" / "d.h5", patient_id="")
    volume(tmp_path / "val" / "e.h5", patient_id="two")
    volume(tmp_path / "val" / "f.h5", patient_id="17")
    volume(tmp_path / "val" / "sub-09_T2.h5")
    volume(tmp_path / "val" / "g.h5", patient_id="three")
    volume(tmp_path / "val" / "h.h5", patient_id="")

    def source() -> FastMRIFiles:  # the official sets have no other test volumes with a reference
        return FastMRIFiles("set", Folders(str(tmp_path), train="train", val="val", test="val"))

    warn_of_shared_patients(source())
    messages = warned(caplog)
    assert [line.partition(": results on")[0] for line in messages] == [
        "train and val of set share patients (3: 17, sub-09, two)",
        "train and test of set share patients (3: 17, sub-09, two)",
    ]
    monkeypatch.setattr(h5py, "File", None)  # nothing is opened again
    assert [v.patient for v in source().volumes("train")] == ["one", "two", "17", None, "sub-09"]


def test_a_split_that_is_not_there_is_no_mistake(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    volume(tmp_path / "train" / "a.h5", patient_id="one")
    warn_of_shared_patients(FastMRIFiles("set", Folders(str(tmp_path), train="train", val="absent")))
    assert warned(caplog) == []
