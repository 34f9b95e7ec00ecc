"""Hostile checkpoints: code, damage, lies. Nothing of them runs, and nothing of theirs is believed unseen."""

import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import Cases, offsets
from torch import Tensor

from spinwarp.models.loading import load_network
from spinwarp.models.naive_cnn import NaiveCNN
from spinwarp.models.unet import MagnitudeUNet
from spinwarp.recon.checkpoint import Checkpoint, FastMRIWeights

NET = {"_target_": "spinwarp.models.naive_cnn.NaiveCNN", "channels": 4, "n_layers": 3, "kernel_size": 3}
UNET = {"_target_": "spinwarp.models.unet.MagnitudeUNet", "channels": 2, "pools": 2}


def content(net: Any = NET, **record: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    network = MagnitudeUNet(2, 2) if net is not NET and "unet" in str(net) else NaiveCNN(4, 3, 3)
    state = {f"net.{name}": value for name, value in network.state_dict().items()}
    return {"state_dict": state, "spinwarp": {"net": net, "name": "tiny", "version": "0.1.0", **record}}


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


class Call:
    """Pickles to a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_code_in_a_checkpoint_never_runs(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "evil.ckpt"
    text = str(canary)
    calls = [
        Call(os.system, f"touch {text}"),
        Call(os.mkdir, text),
        Call(open, text, "w"),
        Call(eval, f"open({text!r}, 'w')"),
        Call(exec, f"open({text!r}, 'w').close()"),
        Call(Path.touch, canary),
        Call(__import__, "antigravity"),
        Call(getattr, Path, "touch"),
        Call(torch.load, text),
        Call(torch.save, [1], text),
    ]
    cases = Cases("checkpoints with code", tmp_path)
    for i, call in enumerate(calls):
        places: list[Any] = [
            call,
            {"state_dict": call, "spinwarp": {"net": NET}},
            {**content(), "hyper_parameters": call},
            {**content(), "spinwarp": {"net": call}},
            {**content(), "state_dict": {"net.a": call}},
            {call.call[0].__name__: [{"deep": (call,)}]},
        ]
        for j, place in enumerate(places):
            for kind, data in (
                ("zip", saved(place)),
                ("pickle", pickle.dumps(place)),
                ("old pickle", pickle.dumps(place, 2)),
            ):
                path.write_bytes(data)
                for reader in (Checkpoint, FastMRIWeights):
                    cases.run(f"{i} {j} {kind}", lambda r=reader: r(str(path)), path.name, must_refuse=True)
                assert not canary.exists()
    cases.check()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "pickle"])
def test_damaged_checkpoints_are_refused_or_whole(tmp_path: Path, legacy: bool) -> None:
    buffer = io.BytesIO()
    torch.save(content(), buffer, _use_new_zipfile_serialization=not legacy)
    whole = buffer.getvalue()
    path = tmp_path / "damaged.ckpt"
    path.write_bytes(whole)
    Checkpoint(str(path))
    cut = Cases("checkpoints cut", tmp_path)
    for at in list(offsets(len(whole)))[:: 1 if legacy else 2]:
        path.write_bytes(whole[:at])
        cut.run(f"cut at {at}", lambda: Checkpoint(str(path)), path.name, must_refuse=True)
    cut.check()
    flips = Cases("checkpoints with flipped bits", tmp_path)
    rng = random.Random(0)
    for _ in range(300):
        at, bit = rng.randrange(len(whole)), rng.randrange(8)
        data = bytearray(whole)
        data[at] ^= 1 << bit
        path.write_bytes(data)
        # a flipped bit in a weight makes another finite weight, or an infinite one
        flips.run(f"bit {bit} of byte {at}", lambda: Checkpoint(str(path)), path.name)
    flips.check()


def test_other_peoples_files_are_no_checkpoints(
    tmp_path: Path, fastmri_weights: Callable[..., dict[str, Tensor]]
) -> None:
    path = tmp_path / "other.ckpt"
    state = content()["state_dict"]
    others: list[Any] = [
        None, 3, "text", [], {}, [state], torch.ones(3), {"state_dict": None}, {"state_dict": []}, {"model": state},
        {"state_dict": state}, {"state_dict": state, "hyper_parameters": {"lr": 1.0}}, {"spinwarp": {"net": NET}},
        {"spinwarp": None, "state_dict": state}, {"spinwarp": [], "state_dict": state}, {"epoch": 3, "optimizer": {}},
        {"spinwarp": {}, "state_dict": state}, {"spinwarp": {"net": None}, "state_dict": state}, {1: 2}, {None: state},
        {"spinwarp": {"net": "NaiveCNN"}, "state_dict": state}, {"spinwarp": {"net": [NET]}, "state_dict": state},
        {"spinwarp": {"net": {}}, "state_dict": state}, {"spinwarp": {"net": NET}, "state_dict": {1: torch.ones(1)}},
        {"spinwarp": {"net": NET}, "state_dict": {"net.a": 1}}, fastmri_weights("unet"), fastmri_weights("varnet"),
    ]  # fmt: skip
    cases = Cases("checkpoints of others", tmp_path)
    for i, value in enumerate(others):
        path.write_bytes(saved(value))
        cases.run(f"ours {i}", lambda: Checkpoint(str(path)), path.name, must_refuse=True)
        if i < len(others) - 2:
            cases.run(f"fastMRI's {i}", lambda: FastMRIWeights(str(path)), path.name, must_refuse=True)
    for raw in (
        b"",
        b"\0",
        b"hello",
        b"PK\3\4",
        b"\x80\x02.",
        b"\x80\x04N.",
        b"\x89HDF\r\n\x1a\n",
        random.Random(0).randbytes(4096),
    ):
        path.write_bytes(raw)
        cases.run(f"raw {raw[:8]!r}", lambda: Checkpoint(str(path)), path.name, must_refuse=True)
    cases.run("a folder", lambda: Checkpoint(str(tmp_path)), tmp_path.name, must_refuse=True)
    cases.run("a name with a NUL", lambda: Checkpoint("a\0b"), must_refuse=True)
    cases.run("no file", lambda: Checkpoint(str(tmp_path / "none.ckpt")), "none.ckpt", must_refuse=True)
    cases.check()


def test_a_checkpoint_can_name_networks_of_ours_only(tmp_path: Path) -> None:
    path = tmp_path / "foreign.ckpt"
    canary = tmp_path / "canary"
    targets: list[Any] = [
        "os.system", "builtins.eval", "builtins.exec", "subprocess.run", "subprocess.Popen", "pathlib.Path", "os.mkdir",
        "torch.nn.Module", "torch.nn.Linear", "torch.load", "torch.hub.load", "spinwarp.models", "spinwarp.models.",
        ".spinwarp.models", "spinwarp.modelsx.unet.UNet", "spinwarp.cli.train.main", "spinwarp.files.atomic_write",
        "spinwarp.models.unet.torch", "spinwarp.models.unet.nn", "spinwarp.models.unet.F", "spinwarp.models.unet.ifftc",
        "spinwarp.models.unet.InputError", "spinwarp.models.unet.__builtins__", "spinwarp.models.unet.__loader__",
        "spinwarp.models.unet.UNet.forward", "spinwarp.models.unet.nope", "spinwarp.models.nope.UNet", "", ".", "..",
        "spinwarp.models..unet.UNet", "spinwarp.models/../cli.train.main", "spinwarp.models.allowance.allowance",
        "spinwarp.models.unet", None, 3, [], ["os.system"], {"_target_": "os.system"}, True, "x" * 10_000, "a\nb.c",
    ]  # fmt: skip
    cases = Cases("checkpoints that name classes", tmp_path)
    for i, target in enumerate(targets):
        described: list[Any] = [
            {"_target_": target},
            {"_target_": target, "_partial_": True},
            {"_target_": target, "_args_": [f"touch {canary}"]},
            {"_target_": target, "command": f"touch {canary}"},
            {**NET, "channels": {"_target_": target}},
            {**NET, "inner": [{"_target_": target}]},
        ]
        for j, net in enumerate(described):
            path.write_bytes(saved(content(net)))
            cases.run(f"{target!r:.40} {j} ({i})", lambda: Checkpoint(str(path)), path.name, must_refuse=j != 4)
            assert not canary.exists()
    cases.check()


def test_a_description_that_its_weights_do_not_fit_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    path = tmp_path / "lying.ckpt"
    wrong: list[Any] = [
        0, -1, -4, 1, 3, 5, 100, 9_999, 10**5, 10**6, 10**9, 10**12, 2**31, 2**63, 10**30, -(10**9), 2.5, float("nan"),
        float("inf"), None, "4", "four", "", [], [4], {}, {"a": 1}, True, False, (4,), [[[[]]]], b"4",
    ]  # fmt: skip
    cases = Cases("checkpoints that lie", tmp_path)
    for base in (NET, UNET):
        for key in [k for k in base if k != "_target_"]:
            for value in wrong:
                path.write_bytes(saved(content({**base, key: value})))
                # True is 1 to Python, and the number of another key may be what it would be anyway
                cases.run(f"{key}={value!r:.30}", lambda: Checkpoint(str(path)), path.name)
            path.write_bytes(saved(content({k: v for k, v in base.items() if k != key})))
            cases.run(f"without {key}", lambda: Checkpoint(str(path)), path.name)
    for key in ("chanels", "dropout", "", "_recursive_", "self", "a b", 3, None):
        path.write_bytes(saved(content({**NET, key: 1})))
        cases.run(f"more: {key!r}", lambda: Checkpoint(str(path)), path.name, must_refuse=True)
    nested: Any = NET
    for _ in range(400):
        nested = [nested]
    path.write_bytes(saved(content({**NET, "channels": nested})))
    cases.run("nested", lambda: Checkpoint(str(path)), path.name, must_refuse=True)
    for key, value in [("name", v) for v in (3, None, [], "../../x", "a\\b", "a\nb", "x" * 300)] + [
        ("trained_on", v) for v in (3, None, [], "x", {"volumes": 3}, {"volumes": [3]}, {"volumes": None})
    ]:
        path.write_bytes(saved(content(**{key: value})))
        cases.run(f"record {key}={value!r:.30}", lambda: Checkpoint(str(path)), path.name, must_refuse=True)
    cases.check()


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.ckpt"
    good = content()["state_dict"]
    cases = Cases("checkpoints of wrong weights", tmp_path)
    for name, value in good.items():
        poisoned = value.clone()
        poisoned.view(-1)[-1] = float("nan")
        wrong: list[Any] = [
            poisoned, value / 0, value[:0], value[None], value.flatten()[None], torch.ones(()), torch.ones(1000),
            torch.ones(1).expand(10**12), torch.ones(1).expand(10**6, 10**6), torch.ones(1).expand(value.shape),
            value.to_sparse(), torch.empty(value.shape, device="meta"), torch.empty(10**12, device="meta"),
            value.to(torch.complex64), [1.0], None, "x", 3.0, {"a": value}, value.new_empty(0),
        ]  # fmt: skip
        for i, weight in enumerate(wrong):
            torch.save({**content(), "state_dict": {**good, name: weight}}, path)
            cases.run(f"{name} {i}", lambda: Checkpoint(str(path)), path.name, must_refuse=True)
        torch.save({**content(), "state_dict": {k: v for k, v in good.items() if k != name}}, path)
        cases.run(f"without {name}", lambda: Checkpoint(str(path)), path.name, must_refuse=True)
        torch.save({**content(), "state_dict": {**good, f"{name}x": value}}, path)
        cases.run(f"one more than {name}", lambda: Checkpoint(str(path)), path.name, must_refuse=True)
    cases.check()


def test_published_weights_that_were_changed_are_refused(
    tmp_path: Path, fastmri_weights: Callable[..., dict[str, Tensor]]
) -> None:
    path = tmp_path / "published.pt"
    cases = Cases("published weights", tmp_path)
    for kind in ("unet", "varnet"):
        state = fastmri_weights(kind)
        names = list(state)
        for i, name in enumerate(names[:: 2 if kind == "unet" else 7]):
            value = state[name]
            changed: list[Any] = [value[:0], value.flatten(), torch.ones(1).expand(10**5, *value.shape[1:]), value / 0]
            for j, weight in enumerate([*changed, torch.ones(()), 3, value[:1, None]]):
                torch.save({**state, name: weight}, path)
                cases.run(f"{kind} {name} {j}", lambda: FastMRIWeights(str(path)), path.name)
            torch.save({k: v for k, v in state.items() if k != name}, path)
            cases.run(f"{kind} without {name}", lambda: FastMRIWeights(str(path)), path.name, must_refuse=True)
            torch.save({**state, name.replace("0", "99999"): value, f"{name}{i}": value}, path)
            cases.run(f"{kind} with more than {name}", lambda: FastMRIWeights(str(path)), path.name, must_refuse=True)
    for level in (5, 12, 40, 10**4):
        deep = {f"down_sample_layers.{i}.layers.0.weight": torch.ones(256, 1, 3, 3) for i in range(level)}
        torch.save(deep, path)
        cases.run(f"{level} levels", lambda: FastMRIWeights(str(path)), path.name, must_refuse=True)
    cases.check()


def test_a_small_archive_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain.ckpt", tmp_path / "bomb.ckpt"
    torch.save({**content(), "state_dict": {"net.a": torch.zeros(12_500_000)}}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for item in source.infolist():
            packed.writestr(item.filename, source.read(item))
    plain.unlink()
    assert path.stat().st_size < 1e6
    cases = Cases("checkpoints that unpack to much", tmp_path)
    cases.run("zeros", lambda: load_network(str(path)), path.name, must_refuse=True)
    cases.check()
