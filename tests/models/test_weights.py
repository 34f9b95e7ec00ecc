"""Weights by name, and files of safetensors."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import save_file

from spinwarp.cli.app import conf_folder
from spinwarp.errors import InputError
from spinwarp.models.export import main
from spinwarp.models.loading import load_network
from spinwarp.models.unrolled import UnrolledNet
from spinwarp.models.weights import local_file, write_safetensors

NET = {
    "_target_": "spinwarp.models.unrolled.UnrolledNet",
    "n_unrolls": 2,
    "cg_iterations": 1,
    "regulariser": {
        "_target_": "spinwarp.models.residual_unet.ComplexResidualUNet",
        "_partial_": True,
        "widths": [4, 8],
        "blocks": 1,
    },
}
RECORD = {"version": "0.1.0", "net": NET, "name": "small", "trained_on": {"dataset": "none", "volumes": []}}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    from spinwarp.models.loading import build_network

    torch.manual_seed(0)
    network = build_network(NET, ("spinwarp.models",))
    state = {f"net.{k}": v for k, v in network.state_dict().items()}
    torch.save({"state_dict": state, "spinwarp": RECORD}, tmp_path / "small.ckpt")
    return tmp_path / "small.ckpt"


def test_a_checkpoint_and_its_safetensors_hold_the_same_network(checkpoint: Path) -> None:
    out = checkpoint.with_suffix(".safetensors")
    main([str(checkpoint), str(out)])
    (one, record), (two, same_record) = load_network(str(checkpoint)), load_network(str(out))
    assert isinstance(two, UnrolledNet)
    assert record == same_record
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_a_file_of_the_hub_comes_from_its_cache_when_offline(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub", reason="the extra spinwarp[hub] is not installed")
    cache, commit = tmp_path / "hub", "0" * 39 + "1"
    snapshot = cache / "models--mri--nets" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "small.ckpt").write_bytes(checkpoint.read_bytes())
    refs = cache / "models--mri--nets" / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    constants = pytest.importorskip("huggingface_hub.constants", reason="the extra spinwarp[hub] is not installed")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    for name in ("hf://mri/nets/small.ckpt", f"hf://mri/nets/small.ckpt@{commit}"):
        assert local_file(name).read_bytes() == checkpoint.read_bytes()
        assert isinstance(load_network(name)[0], UnrolledNet)
    with pytest.raises(InputError, match="could not be downloaded"):
        local_file("hf://mri/nets/absent.ckpt")


@pytest.mark.parametrize("name", ["hf://mri", "hf://mri/nets", "hf://mri/nets/", "hf://a b/c/d"])
def test_a_wrong_name_of_the_hub_is_explained(name: str) -> None:
    with pytest.raises(InputError, match="OWNER/REPO/FILE"):
        local_file(name)


@pytest.mark.parametrize("name", ["pretrained:none", "pretrained:", "pretrained:../secret", "pretrained:a/b"])
def test_an_unknown_name_of_pretrained_weights_is_explained(name: str) -> None:
    with pytest.raises(InputError, match="come with spinwarp"):
        local_file(name)


def damaged(case: str, good: bytes) -> bytes:
    return {
        "empty": b"",
        "cut": good[: len(good) // 2],
        "header larger than the file": struct.pack("<Q", 2**40) + good[8:],
        "no JSON": struct.pack("<Q", 4) + b"abcd",
    }[case]


@pytest.mark.parametrize("case", ["empty", "cut", "header larger than the file", "no JSON"])
def test_a_damaged_file_ends_in_a_sentence(case: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"net.a": torch.zeros(100)}, RECORD)
    path.write_bytes(damaged(case, path.read_bytes()))
    with pytest.raises(InputError, match=r"x\.safetensors"):
        load_network(str(path))


def test_others_may_read_the_file_as_any_new_one(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x.safetensors", {"net.a": torch.zeros(3)}, RECORD)
    (tmp_path / "y").touch()
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "y").stat().st_mode


@pytest.mark.parametrize(("weights", "model"), [("heads", "unrolled"), ("heads_score", "score_heads")])
def test_the_weights_that_ship_are_of_the_network_that_the_configuration_trains(weights: str, model: str) -> None:
    _, record = load_network(f"pretrained:{weights}")
    with initialize_config_dir(str(conf_folder()), version_base=None):
        net = compose("train", [f"model={model}"]).model.net
    assert record["net"] == OmegaConf.to_container(net, resolve=True)


@pytest.mark.parametrize(
    "metadata", [None, {}, {"spinwarp": "{"}, {"spinwarp": "[" * 5000}, {"spinwarp": "[]"}, {"spinwarp": "{}"}]
)
def test_weights_without_a_record_of_ours_are_refused(metadata: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"net.a": torch.zeros(3)}, path, metadata)
    with pytest.raises(InputError, match=r"x\.safetensors"):
        load_network(str(path))


def test_a_file_cannot_build_a_class_of_another_package(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"net.a": torch.zeros(3)}, path, {"spinwarp": json.dumps({**RECORD, "net": {"_target_": "os.system"}})})
    with pytest.raises(InputError, match="which is not in"):
        load_network(str(path))
