"""Hostile raw data: cut, flipped and lying files of every format that ``open_measurement`` reads."""

import itertools
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hostile import Cases, offsets
from raw_files import acquisition, lines_of, random_kspace, twix_readout, write_bruker, write_mrd, write_twix, xml
from scipy.io import savemat

from spinwarp.data.raw import open_measurement

# what libraries warn of in damaged files is no error to a user
pytestmark = pytest.mark.filterwarnings("ignore")


def read(path: Path, variable: str | None = None, axes: str | None = None) -> None:
    """Open, and read the first and the last slice."""
    measurement = open_measurement(path, variable, axes)
    for _ in measurement.slices(sorted({0, measurement.n_slices - 1})):
        pass


def flips(whole: bytes, n: int, within: int) -> Iterator[tuple[str, bytes]]:
    rng = random.Random(0)
    for _ in range(n):
        at, bit = rng.randrange(min(len(whole), within)), rng.randrange(8)
        data = bytearray(whole)
        data[at] ^= 1 << bit
        yield f"bit {bit} of byte {at}", bytes(data)


def mrd(path: Path) -> Path:
    readouts = [acquisition(random_kspace(2, 64), [19]), *lines_of(random_kspace(2, 16, 12))]
    return write_mrd(path, xml(), readouts)


def twix(path: Path, old: bool) -> Path:
    readouts = [twix_readout(random_kspace(2, 64), [25], old)]
    readouts += [twix_readout(random_kspace(2, 32), old=old, line=c) for c in range(12)]
    return write_twix(path, readouts, old)


def bruker(path: Path) -> Path:
    blocks = np.round(100 * random_kspace(24, 1, 16))
    method = {"PVM_EncSteps1": list(range(-6, 6)), "PVM_EffPhase1Offset": [0.0, 1.0], "PVM_AntiAlias": [1, 1.5]}
    return write_bruker(path, blocks, {"NI": 2, "ACQ_obj_order": [1, 0], "ACQ_patient_pos": "Head_Prone"}, method)


def cfl(path: Path) -> Path:
    random_kspace(2, 12, 16).tofile(path)
    path.with_suffix(".hdr").write_text("# Dimensions\n16 12 1 2 1\n")
    return path


def mat5(path: Path) -> Path:
    savemat(path, {"kspace": random_kspace(16, 12)})
    return path


def mat73(path: Path) -> Path:
    with h5py.File(path, "w", userblock_size=512) as file:
        pairs = np.zeros((12, 16), [("real", "<f8"), ("imag", "<f8")])
        pairs["real"] = random_kspace(12, 16).real
        file["kspace"] = pairs
    with path.open("r+b") as opened:
        opened.write(b"MATLAB 7.3 MAT-file".ljust(512, b" "))
    return path


WRITERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "MRD": ("a.mrd", mrd),
    "Siemens VB": ("a.dat", lambda path: twix(path, True)),
    "Siemens VD": ("a.dat", lambda path: twix(path, False)),
    "BART": ("a.cfl", cfl),
    "MATLAB 5": ("a.mat", mat5),
    "MATLAB 7.3": ("a.mat", mat73),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, kind: str) -> None:
    name, write = WRITERS[kind]
    path = write(tmp_path / name)
    whole = path.read_bytes()
    cases = Cases(f"raw {kind}", tmp_path)
    cases.run("whole", lambda: read(path))
    assert not cases.messages["whole"]
    cuts = list(offsets(len(whole)))
    for at in cuts[:: max(len(cuts) // 120, 1)]:
        path.write_bytes(whole[:at])
        # a mark of its end and zero padding may be all that is missing
        cases.run(f"cut at {at}", lambda: read(path), path.name)
    for label, data in flips(whole, 120, 20_000 if "Siemens" in kind else len(whole)):
        path.write_bytes(data)
        cases.run(label, lambda: read(path), path.name)
    cases.check()


@pytest.mark.parametrize("name", ["fid", "acqp", "method"])
def test_a_damaged_scan_of_bruker_is_read_or_refused(tmp_path: Path, name: str) -> None:
    folder = bruker(tmp_path / "5")
    whole = (folder / name).read_bytes()
    cases = Cases("raw Bruker", tmp_path)
    cases.run("whole", lambda: read(folder))
    assert not cases.messages["whole"]
    cuts = list(offsets(len(whole)))
    for at in cuts[:: max(len(cuts) // 60, 1)]:
        (folder / name).write_bytes(whole[:at])
        cases.run(f"cut at {at}", lambda: read(folder), folder.name, must_refuse=name == "fid")
    for label, data in flips(whole, 60, len(whole)):
        (folder / name).write_bytes(data)
        cases.run(label, lambda: read(folder), folder.name)
    cases.check()


HUGE = (0, 1, 2, 7, 65535, 2**31 - 1, 2**31, 2**63, 10**30, -1, "nan", "inf", "1e999", "x", "", "@9999999999*(0)", "(")


def test_parameters_of_bruker_that_lie_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    folder = bruker(tmp_path / "5")
    cases = Cases("raw Bruker parameters", tmp_path)
    for file, names in {
        "acqp": ("ACQ_size", "NI", "NR", "ACQ_phase_factor", "ACQ_n_echo_images", "ACQ_obj_order", "BYTORDA"),
        "method": ("PVM_EncNReceivers", "PVM_EncSteps1", "PVM_EncSteps2", "PVM_AntiAlias", "PVM_Fov", "PVM_EncPft"),
    }.items():
        text = (folder / file).read_text()
        for name, value in itertools.product(names, HUGE):
            (folder / file).write_text(f"{text}\n##${name}={value}\n")
            cases.run(f"{name}={value}", lambda: read(folder), folder.name)
        (folder / file).write_text(text)
    cases.check()


def test_headers_of_mrd_that_lie_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.mrd"
    cases = Cases("raw MRD headers", tmp_path)
    keys = ("nx", "ny", "nz", "rx", "fx", "gx", "fy", "gy", "gz", "centre", "last", "first", "centre2", "trajectory")
    readouts = lines_of(random_kspace(1, 16, 12))
    write_mrd(path, xml(), readouts)
    for key, value in itertools.product(keys, HUGE):
        with h5py.File(path, "r+") as file:
            file["dataset/xml"][0] = xml(**{key: value})
        cases.run(f"{key}={value}", lambda: read(path), path.name)
    cases.check()


def test_readouts_of_mrd_that_lie_are_refused(tmp_path: Path) -> None:
    path = mrd(tmp_path / "a.mrd")
    whole = path.read_bytes()
    cases = Cases("raw MRD readouts", tmp_path)
    fields = (
        "number_of_samples",
        "active_channels",
        "center_sample",
        "discard_pre",
        "discard_post",
        "encoding_space_ref",
    )
    counters = ("kspace_encode_step_1", "kspace_encode_step_2", "slice", "contrast")
    for name, value, every in itertools.product((*fields, *counters), (0, 1, 13, 17, 65535), (True, False)):
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:
            data = file["dataset/data"][()]
            chosen = data["head"]["idx"] if name in counters else data["head"]
            chosen[name][slice(None) if every else slice(5, 6)] = value
            file["dataset/data"][...] = data
        cases.run(f"{name}={value} {every}", lambda: read(path), path.name)
    for name, value in itertools.product(("position", "read_dir", "slice_dir"), (0.0, 0.5, np.nan, np.inf, 1e30)):
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:
            data = file["dataset/data"][()]
            data["head"][name] = value
            file["dataset/data"][...] = data
        cases.run(f"{name}={value}", lambda: read(path), path.name)
    with h5py.File(path, "r+") as file:
        head = file["dataset/data"].dtype
        del file["dataset/data"]
        file["dataset"].create_dataset("data", (2**40,), head, chunks=(64,), maxshape=(None,))
    cases.run("a list without end", lambda: read(path), path.name, must_refuse=True)
    cases.check()


@pytest.mark.parametrize("old", [True, False])
def test_readouts_of_siemens_that_lie_are_refused(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "a.dat"
    cases = Cases("raw Siemens readouts", tmp_path)
    good = [twix_readout(random_kspace(2, 32), old=old, line=c) for c in range(12)]
    fields = ("line", "slice", "partition", "contrast", "pre", "post", "centre", "centre_line", "centre_partition")
    for name, value, every in itertools.product(fields, (0, 1, 31, 33, 65535), (True, False)):
        bad = [
            twix_readout(random_kspace(2, 32), old=old, **({"line": c} | ({name: value} if every or c == 5 else {})))
            for c in range(12)
        ]
        write_twix(path, bad, old)
        cases.run(f"{name}={value} {every}", lambda: read(path), path.name)
    sizes = 28 if old else 48  # where the numbers of samples and coils are
    for samples, coils in itertools.product((0, 1, 32, 33, 65535), (0, 1, 2, 3, 65535)):
        lying = bytearray(good[3])
        struct.pack_into("<HH", lying, sizes, samples, coils)
        write_twix(path, [*good[:3], bytes(lying), *good[4:]], old)
        cases.run(f"{samples} samples {coils} coils", lambda: read(path), path.name)
    for length, flags in itertools.product((0, 1, 127, 2**25 - 1, 2**32 - 1), (32, 1, 2**63, 2**64 - 1)):
        lying = bytearray(good[3])
        struct.pack_into("<I", lying, 0, length)
        struct.pack_into("<Q", lying, 20 if old else 40, flags)
        write_twix(path, [*good[:3], bytes(lying), *good[4:]], old)
        cases.run(f"length {length} flags {flags}", lambda: read(path), path.name)
    settings = ("sKSpace.lBaseResolution", "sKSpace.lPhaseEncodingLines", "sKSpace.ucTrajectory", "sKSpace.ucDimension")
    more = ("sKSpace.dPhaseOversamplingForDialog", "sSliceArray.asSlice[0].dReadoutFOV", "sRXSPEC.alDwellTime[0]")
    for name, value in itertools.product((*settings, *more), HUGE):
        write_twix(path, good, old, **{name: value})
        cases.run(f"{name}={value}", lambda: read(path), path.name)
    epi = [twix_readout(random_kspace(2, 32), [24] if c % 2 else [], old, line=c) for c in range(12)]
    epi += [twix_readout(random_kspace(2, 32), [21, 24] if c % 2 else [21], old) for c in range(3)]
    times = ("alRegridRampupTime", "alRegridFlattopTime", "alRegridRampdownTime", "alRegridDelaySamplesTime")
    for name, value in itertools.product((*times, "aflRegridADCDuration", "alRegridMode", "flReadoutOSFactor"), HUGE):
        usual = dict.fromkeys(times, 100) | {"aflRegridADCDuration": 200.0, "alRegridMode": 2}
        header = "".join(f'<ParamLong."{key}"> {{ {word} 0 }}\n' for key, word in (usual | {name: value}).items())
        write_twix(path, epi, old, prefix=header)
        cases.run(f"{name}={value}", lambda: read(path), path.name)
    for number in (0, 1, 2, 63, 64, 65, 9_999, 10_000, 2**31, 2**32 - 1):
        write_twix(path, good, old)
        data = bytearray(path.read_bytes())
        struct.pack_into("<I", data, 0 if old else 4, number)
        path.write_bytes(data)
        cases.run(f"{number} measurements", lambda: read(path), path.name)
    cases.check()


def test_headers_of_bart_that_lie_are_refused(tmp_path: Path) -> None:
    path = cfl(tmp_path / "a.cfl")
    cases = Cases("raw BART headers", tmp_path)
    for at, value in itertools.product(range(17), HUGE):
        sizes: list[object] = [16, 12, 1, 2, *[1] * 13]
        sizes[at] = value
        path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, sizes)))
        cases.run(f"{at}: {value}", lambda: read(path), "a.")
    cases.check()


def test_arrays_of_matlab_that_lie_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    cases = Cases("raw MATLAB arrays", tmp_path)
    for shape in ((0, 4), (4,), (), (4, 4, 4, 4, 4), (2**20, 2**20), (1, 1), (3, 1)):
        for kind in ("<f8", "<i2", "S3", [("real", "<f8"), ("imag", "<f8")], [("a", "<f8"), ("b", "S9")], "<c8"):
            for axes in (None, "hw", "hwcs"):
                path.unlink(missing_ok=True)
                with h5py.File(path, "w", userblock_size=512) as file:
                    file.create_dataset(
                        "kspace",
                        shape,
                        kind,
                        chunks=tuple(min(n, 64) for n in shape) if 0 not in shape and shape else None,
                    )
                with path.open("r+b") as opened:
                    opened.write(b"MATLAB 7.3 MAT-file".ljust(512, b" "))
                cases.run(f"{shape} {kind} {axes}", lambda axes=axes: read(path, axes=axes), path.name)  # type: ignore[misc]
    for value in ({"k": random_kspace(4, 4).astype(object)}, {"k": {"a": random_kspace(4, 4)}}, {"k": "text"}, {}):
        savemat(path, value)
        cases.run(f"{value}", lambda: read(path), path.name, must_refuse=True)
    cases.check()


def test_other_files_and_folders_are_refused(tmp_path: Path) -> None:
    cases = Cases("raw other", tmp_path)
    path = tmp_path / "set" / "a.dat"
    path.parent.mkdir()
    rng = random.Random(0)
    for suffix in (".dat", ".cfl", ".hdr", ".mat", ".mrd", ".h5", ".npy", ".xyz", ""):
        for content in (b"", b"\0" * 8, b"\0" * 4096, b"\xff" * 4096, rng.randbytes(4096), b"\x89HDF\r\n\x1a\n" * 9):
            other = path.with_suffix(suffix)
            other.write_bytes(content)
            cases.run(f"{suffix} {content[:4]!r}", lambda other=other: read(other), "a", must_refuse=True)  # type: ignore[misc]
            other.unlink()
    cases.run("no such file", lambda: read(path), path.name, must_refuse=True)
    cases.run("a folder", lambda: read(path.parent), path.parent.name, must_refuse=True)
    shutil.rmtree(path.parent)
    cases.check()
