"""Hostile HDF5: cut, flipped, of wrong types and shapes, with attributes and headers that lie."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hostile import Cases, counts, offsets, refused, swapped

from spinwarp.acquisition import Header
from spinwarp.data.fastmri.index import index
from spinwarp.data.fastmri.layout import write_volume
from spinwarp.data.fastmri.measured import Measurement
from spinwarp.data.fastmri.source import FastMRIFiles, Folders
from spinwarp.results.images import ExampleSlice, read_examples, write_examples

SHAPE = (2, 2, 12, 10)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINWARP_CACHE", str(tmp_path.parent / f"{tmp_path.name}_cache"))


def volume(path: Path) -> bytes:
    rng = np.random.RandomState(0)
    kspace = (rng.randn(*SHAPE) + 1j * rng.randn(*SHAPE)).astype(np.complex64)
    header = Header("phantom", path.name, (8, 8), (1, 9), (1.0, 2.0, 3.0), "axial", "T2")
    write_volume(path, kspace, header)
    return path.read_bytes()


def read(path: Path) -> None:
    """Open a file through both doors, and read what they say it has: two slices at most."""
    source = FastMRIFiles("fuzz", Folders(str(path.parent), train="."))
    for listed in source.volumes("train"):
        for i in range(min(listed.n_slices, 2)):
            source.read(listed, i)
    measurement = Measurement(str(path))
    list(measurement.slices(list(range(min(measurement.n_slices, 2)))))


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.h5"
    whole = volume(path)
    cases = Cases("HDF5 cut", tmp_path)
    cases.run("whole", lambda: read(path))
    assert not cases.messages["whole"]
    for at in offsets(len(whole)):
        path.write_bytes(whole[:at])
        cases.run(f"cut at {at}", lambda: read(path), path.name, must_refuse=True)
    cases.check()


FLIPS = """
import json, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import hostile
from hostile import Cases
hostile.LARGEST = 4_000_000  # kB that the library takes for a text whose length was flipped
import test_fuzz_hdf5 as fuzz
path, whole, log = Path(sys.argv[2]), Path(sys.argv[3]).read_bytes(), open(sys.argv[4], "a", buffering=1)
for at, bit in json.loads(sys.argv[5]):
    log.write(f"{at} {bit} start\\n")
    signal.setitimer(signal.ITIMER_VIRTUAL, 3)  # seconds of processor time; what loops in the library is killed
    data = bytearray(whole)
    data[at] ^= 1 << bit
    path.write_bytes(data)
    cases = Cases("flips", path.parent)
    cases.run(f"bit {bit} of byte {at}", lambda: fuzz.read(path), path.name)
    (message,) = cases.messages.values()
    log.write(f"{at} {bit} {json.dumps([cases.failures, message])}\\n")
"""


def test_a_flipped_bit_is_read_past_or_refused(tmp_path: Path) -> None:
    """In a process of its own: should the HDF5 library fall over a flip, or loop without end as version 2.0 does on
    a damaged heap of strings, the test counts it and goes on after it."""
    whole = tmp_path / "whole.bin"
    size = len(volume(whole))
    folder, log = tmp_path / "flipped", tmp_path / "log"
    folder.mkdir()
    rng = random.Random(0)
    todo = [(rng.randrange(size), rng.randrange(8)) for _ in range(250)]
    crashes: list[str] = []
    while todo:
        arguments = [str(Path(__file__).parent), str(folder / "flip.h5"), str(whole), str(log), json.dumps(todo)]
        done = subprocess.run([sys.executable, "-c", FLIPS, *arguments], capture_output=True, text=True, timeout=200)
        lines = log.read_text().splitlines()
        if done.returncode == 0:
            break
        assert lines and lines[-1].endswith("start"), done.stderr  # the HDF5 library, not ours
        at, bit, _ = lines[-1].split(maxsplit=2)
        crashes.append(f"bit {bit} of byte {at}: exit {done.returncode}")
        todo = todo[todo.index((int(at), int(bit))) + 1 :]
    results = [json.loads(line.split(maxsplit=2)[2]) for line in lines if not line.endswith("start")]
    counts["HDF5 with flipped bits"] += len(results)
    refused["HDF5 with flipped bits"] += sum(bool(message) for _, message in results)
    if crashes:
        counts["HDF5 with flipped bits on which the library itself fails"] += len(crashes)
    assert [failure for failures, _ in results for failure in failures] == []
    assert len(results) + len(crashes) == 250
    assert len(crashes) <= 5, crashes


def test_wrong_types_shapes_and_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wrong.h5"
    ok = np.ones(SHAPE, np.complex64)
    kinds: list[Any] = [
        "?", "i1", "u2", "i4", "i8", "u8", "f2", "f4", "f8", "S3", "V5", h5py.string_dtype(), h5py.ref_dtype,
        np.dtype([("r", "f4"), ("j", "f4")]), np.dtype([("r", "f4"), ("i", "f4"), ("x", "i4")]), h5py.vlen_dtype("c8"),
        h5py.enum_dtype({"a": 1}), np.dtype(("c8", (2,))),
    ]  # fmt: skip
    shapes: list[tuple[int, ...]] = [
        (), (0,), (1,), (5,), (2, 3), (0, 2, 12, 10), (2, 0, 12, 10), (2, 2, 0, 10), (2, 2, 12, 0), (1, 1, 1),
        (1, 1, 1, 1), (2, 2, 12, 1), (2, 2, 1, 10), (1, 2, 2, 12, 10), (1,) * 20, (3, 12, 10), (2, 64, 12, 10),
    ]  # fmt: skip
    cases = Cases("HDF5 of wrong types and shapes", tmp_path)

    def attempt(label: str, fill: Callable[[h5py.File], object], must_refuse: bool = True) -> None:
        path.unlink(missing_ok=True)
        with h5py.File(path, "w") as file:
            fill(file)
        cases.run(label, lambda: read(path), path.name, must_refuse)

    for kind in kinds:
        attempt(f"kspace of {kind}", lambda f, k=kind: f.create_dataset("kspace", SHAPE, k))
        for name in ("reconstruction_rss", "reconstruction_esc", "ismrmrd_header", "mask"):
            # a number may be a target; the mask of test sets is not looked at
            attempt(
                f"{name} of {kind}",
                lambda f, n=name, k=kind: [f.create_dataset("kspace", data=ok), f.create_dataset(n, (2, 8, 8), k)],
                must_refuse=False,
            )
    for shape in shapes:
        attempt(f"kspace {shape}", lambda f, s=shape: f.create_dataset("kspace", data=np.ones(s, "c8")), False)
        for name in ("reconstruction_rss", "ismrmrd_header"):
            attempt(
                f"{name} {shape}",
                lambda f, n=name, s=shape: [
                    f.create_dataset("kspace", data=ok), f.create_dataset(n, data=np.ones(s, "f4"))
                ],
                must_refuse=name != "ismrmrd_header",
            )  # fmt: skip
    links: dict[str, Callable[[h5py.File], Any]] = {
        "a group": lambda f: f.create_group("kspace"),
        "nothing": lambda f: len(f),
        "null": lambda f: f.create_dataset("kspace", dtype="c8", shape=None, data=h5py.Empty("c8")),
        "a type": lambda f: f.__setitem__("kspace", np.dtype("c8")),
        "itself": lambda f: f.__setitem__("kspace", h5py.SoftLink("/kspace")),
        "nowhere": lambda f: f.__setitem__("kspace", h5py.SoftLink("/nowhere")),
        "another file": lambda f: f.__setitem__("kspace", h5py.ExternalLink("none.h5", "/kspace")),
        "a system file": lambda f: f.__setitem__("kspace", h5py.ExternalLink("/etc/passwd", "/kspace")),
        "many": lambda f: [f.create_group(f"{'member' * 20}{i}") for i in range(300)],
        "kspaces": lambda f: f.create_dataset("kspaces", data=ok),
    }
    for label, fill in links.items():
        attempt(label, fill)
    for name in ("reconstruction_rss", "reconstruction_esc", "ismrmrd_header", "mask"):
        for label, fill in links.items():
            attempt(f"{name} {label}", lambda f, n=name, g=fill: [g(f), "kspace" in f and f.move("kspace", n),
                    f.create_dataset("kspace", data=ok)], must_refuse=False)  # fmt: skip
    for value in (np.nan, np.inf, -np.inf, complex(0, np.nan)):
        for at in ((0, 0, 0, 0), (1, 1, 11, 9)):
            bad = ok.copy()
            bad[at] = value
            attempt(f"{value} at {at}", lambda f, b=bad: f.create_dataset("kspace", data=b))
        target = np.ones((2, 8, 8), "f4")
        target[1, 7, 7] = value.real if np.isnan(value.real) or np.isinf(value.real) else np.nan
        attempt(
            f"{value} in the target",
            lambda f, t=target: [f.create_dataset("kspace", data=ok), f.create_dataset("reconstruction_rss", data=t)],
        )
    cases.check()


def test_a_shape_that_lies_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.h5"
    cases = Cases("HDF5 of huge shapes", tmp_path)
    shapes = [(10**6, 64, 4096, 4096), (10**9, 1, 16, 16), (1, 10**9, 16, 16), (1, 1, 10**6, 10**6), (2**40, 16, 16),
              (1, 2**31, 2**31), (10, 10**4, 10**4), (2**62, 1, 1), (4, 2**20, 2**20)]  # fmt: skip
    layouts: list[dict[str, Any]] = [
        {}, {"chunks": True}, {"chunks": True, "compression": "gzip"}, {"chunks": True, "maxshape": True},
        {"fillvalue": 1.0}, {"chunks": True, "shuffle": True, "fletcher32": True},
    ]  # fmt: skip
    for shape in shapes:
        for layout in layouts:
            for name in ("kspace", "reconstruction_rss", "ismrmrd_header", "mask"):
                options = {k: (None,) * len(shape) if k == "maxshape" else v for k, v in layout.items()}
                path.unlink(missing_ok=True)
                with h5py.File(path, "w") as file:
                    kind = {"kspace": "c8", "ismrmrd_header": "u1"}.get(name, "f4")
                    try:
                        file.create_dataset(name, shape, kind, **options)
                    except (ValueError, OSError, OverflowError):  # the library makes no such file
                        continue
                    if name != "kspace":
                        file["kspace"] = np.ones(SHAPE, np.complex64)
                cases.run(f"{name} {shape} {layout}", lambda: read(path), path.name, must_refuse=True)
    cases.check()


def test_attributes_that_lie_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "lying.h5"
    whole = volume(path)
    values: list[Any] = [
        "", "x", "nan", "1e999", b"\xff", np.nan, np.inf, -np.inf, -1, 0, 1, 1.5, 2**31, 2**63 - 1, -(2**63), 1e300,
        [], [1.0, 2.0], np.ones((3, 3)), np.zeros(0), 1 + 1j, True, np.array([b"a", b"b"]), "x" * 60_000,
        h5py.Empty("f4"), np.float16(1), np.array(["é"], dtype=h5py.string_dtype()), np.void(b"abc"), [[["a"]]],
    ]  # fmt: skip
    names = ["max", "norm", "acquisition", "patient_id", "provenance", "orientation", "padding_left", "padding_right"]
    cases = Cases("HDF5 with wrong attributes", tmp_path)
    for name in names:
        for value in values:
            path.write_bytes(whole)
            with h5py.File(path, "a") as file:
                file.attrs[name] = value
            cases.run(f"{name}={value!r:.40}", lambda: read(path), path.name)
        path.write_bytes(whole)
        with h5py.File(path, "a") as file:
            del file.attrs[name]
        cases.run(f"without {name}", lambda: read(path), path.name)
        with h5py.File(path, "a") as file:
            file.attrs[swapped(name)] = 1.0
        cases.run(f"{swapped(name)} for {name}", lambda: read(path), path.name)
    for left, right in ((-1, 5), (5, 5), (6, 5), (0, 11), (10, 11), (0, 0), (-5, -1), (0, 2**40)):
        path.write_bytes(whole)
        with h5py.File(path, "a") as file:
            file.attrs["padding_left"], file.attrs["padding_right"] = left, right
        cases.run(f"columns {left} to {right}", lambda: read(path), path.name, must_refuse=True)
    cases.check()


def header(path: Path) -> str:
    with h5py.File(path) as file:
        return file["ismrmrd_header"][()].decode()


def test_headers_that_bomb_are_refused_and_those_that_lie_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "header.h5"
    whole = volume(path)
    good = header(path)
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
    doctypes = [
        f'<!DOCTYPE r [<!ENTITY l0 "ha">{laughs}]>', f'<!DOCTYPE r [<!ENTITY q "{"q" * 100_000}">]>', "<!DOCTYPE r>",
        '<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]>', '<!DOCTYPE r SYSTEM "http://127.0.0.1:9/x.dtd">',
        '<!DOCTYPE r [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]>', '<!DOCTYPE r PUBLIC "a" "b">',
        '<!DOCTYPE r [<!ATTLIST r a CDATA "b">]>', '<!DOCTYPE r [<!ENTITY a "&b;"><!ENTITY b "&a;">]>',
    ]  # fmt: skip
    bodies = ["&l11;", "&q;" * 20_000, "&x;", "&a;", ""]
    hostile = [d + good.replace("<encoding>", f"<a>{b}</a><encoding>") for d in doctypes for b in bodies]
    damaged: list[Any] = [
        "", " ", "text", "<a>", "<a/>", "</a>", "<ismrmrdHeader/>", b"\0" * 100, b"\xff\xfe<\0a\0", b"\xef\xbb\xbf",
        "<a>" * 50_000,
        good[:-5], good + good, good.replace("ismrm", "ismmr"), good.replace("<encoding>", "<encoding>&undefined;"),
        "<?xml version='1.0' encoding='no-such'?>" + good, "<?xml version='1.0' encoding='utf-16'?>" + good,
    ]  # fmt: skip
    cases = Cases("ISMRMRD headers", tmp_path)

    def attempt(label: str, xml: Any, must_refuse: bool) -> None:
        path.write_bytes(whole)
        with h5py.File(path, "a") as file:
            del file["ismrmrd_header"]
            file["ismrmrd_header"] = np.void(xml) if isinstance(xml, bytes) and xml[-1:] == b"\0" else xml
        cases.run(label, lambda: read(path), path.name, must_refuse)

    for i, xml in enumerate(hostile):
        attempt(f"hostile header {i}", xml, must_refuse=True)
    for i, xml in enumerate(damaged):  # nothing in them is used
        attempt(f"damaged header {i}", xml, must_refuse=False)
    for tag in ("x", "y", "z", "matrixSize", "reconSpace", "encodedSpace", "fieldOfView_mm", "maximum", "center"):
        for value in (
            "",
            "nan",
            "inf",
            "-inf",
            "-1",
            "0",
            "1e308",
            "1e9",
            "x",
            "1,5",
            "٣",
            "0x10",
            "9" * 5000,
            " 8 ",
            "8",
        ):
            start, _, rest = good.partition(f"<{tag}>")
            attempt(f"{tag}={value:.10}", f"{start}<{tag}>{value}</{tag}>" + rest.partition(f"</{tag}>")[2], False)
        attempt(f"no {tag}", good.replace(f"<{tag}>", "<b>").replace(f"</{tag}>", "</b>"), must_refuse=False)
    for at in range(0, len(good), 7):
        attempt(f"header cut at {at}", good[:at], must_refuse=False)
    attempt("a long header", good.replace("<encoding>", "<a>" + "x" * 17_000_000 + "</a><encoding>"), must_refuse=True)
    cases.check()


def test_an_index_that_was_tampered_with_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("SPINWARP_CACHE", str(cache))
    monkeypatch.setattr("spinwarp.data.fastmri.index.log.warning", lambda *_: None)
    path = tmp_path / "set" / "a.h5"
    volume(path)
    truth = index([path], "x")
    (stored,) = cache.iterdir()
    good = stored.read_text()
    entry = json.loads(good)[str(path)]
    cases = Cases("indices", tmp_path / "set")

    def attempt(label: str, text: str | bytes) -> None:
        stored.write_bytes(text if isinstance(text, bytes) else text.encode())
        cases.run(label, lambda: (index([path], "x"), read(path)), path.name)

    for at in range(0, len(good), 9):
        attempt(f"cut at {at}", good[:at])
    assert index([path], "x") == truth
    for key in entry:
        for value in (None, "x", -1, 0, 99, 1.5, [], [1], {}, {"a": 1}, [None] * 5, ["a"] * 5, 10**30, [[1]] * 5):
            attempt(f"{key}={value!r}", json.dumps({str(path): {**entry, key: value}}))
        attempt(f"no {key}", json.dumps({str(path): {k: v for k, v in entry.items() if k != key}}))
    for key in entry["fields"]:
        for value in (None, "x", -1, [], [1], {}, ["a", "b"]):
            attempt(f"{key}={value!r}", json.dumps({str(path): {**entry, "fields": {**entry["fields"], key: value}}}))
    for text in ("[" * 100_000, "9" * 5000, '{"a":' * 20_000, b"\0", "NaN", '"x"'):
        attempt(f"{text[:5]!r}", text)
    cases.check()


def test_examples_of_a_result_folder_are_whole_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "examples.h5"
    image = np.ones((6, 5), np.float32)
    numbers: dict[str, Any] = {"data_range": 1.0, "nmse": 0.1, "psnr": 30.0, "ssim": 0.9, "acceleration": 4.0}
    write_examples(path, [ExampleSlice("a.h5", 1, "m", image, image, provenance="phantom", std=image, **numbers)])
    whole = path.read_bytes()
    cases = Cases("examples.h5", tmp_path)
    for at in list(offsets(len(whole)))[::3]:
        path.write_bytes(whole[:at])
        cases.run(f"cut at {at}", lambda: read_examples(path), path.name, must_refuse=True)
    wrong: list[Any] = [
        None,
        1.0,
        np.ones(5),
        np.ones((2, 6, 5)),
        np.ones((0, 5)),
        np.ones((3, 5)),
        b"x",
        "x",
        1j * image,
    ]
    for name in ("target", "reconstruction", "std"):
        for i, value in enumerate(wrong):
            path.write_bytes(whole)
            with h5py.File(path, "a") as file:
                del file[f"a.h5/1/{name}"]
                if value is None:
                    file.create_group(f"a.h5/1/{name}")
                else:
                    file[f"a.h5/1/{name}"] = value
            cases.run(f"{name} {i}", lambda: read_examples(path), path.name, must_refuse=True)
        with h5py.File(path, "a") as file:
            del file[f"a.h5/1/{name}"]
            file.create_dataset(f"a.h5/1/{name}", (10**6, 10**6), "f4", chunks=True)
        cases.run(f"{name} is huge", lambda: read_examples(path), path.name, must_refuse=True)
    for name in ("method", "data_range", "nmse", "psnr", "ssim", "provenance", "acceleration"):
        for value in (None, [], [1.0, 2.0], "x", h5py.Empty("f4"), 1j, np.void(b"abc")):
            path.write_bytes(whole)
            with h5py.File(path, "a") as file:
                del file["a.h5/1"].attrs[name]
                if value is not None:
                    file["a.h5/1"].attrs[name] = value
            cases.run(
                f"{name}={value!r}", lambda: read_examples(path), path.name, must_refuse=not isinstance(value, str)
            )
    for group in ("a.h5/x", "1", "a.h5/-1", "a/b/c/2"):
        with h5py.File(path, "w") as file:
            file[f"{group}/reconstruction"] = image
        cases.run(group, lambda: read_examples(path), path.name, must_refuse=True)
    cases.check()
