"""Weights from files: what is loaded, what is refused, and that code in a file never runs."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spinwarp.errors import InputError
from spinwarp.models.loading import build_network, load_plain
from spinwarp.models.naive_cnn import NaiveCNN
from spinwarp.recon.checkpoint import Checkpoint, FastMRIWeights

NET = {"_target_": "spinwarp.models.naive_cnn.NaiveCNN", "channels": 4, "n_layers": 3, "kernel_size": 3}
READERS: list[type[Checkpoint] | type[FastMRIWeights]] = [Checkpoint, FastMRIWeights]


def content(net: Any = NET, state: Any = None) -> dict[str, Any]:
    torch.manual_seed(0)
    weights = NaiveCNN(4, 3, 3).state_dict()
    return {
        "state_dict": {f"net.{name}": value for name, value in weights.items()} if state is None else state,
        "spinwarp": {"net": net, "name": "tiny", "version": "0.1.0"},
    }


def save(folder: Path, value: Any) -> str:
    torch.save(value, folder / "file.ckpt")
    return str(folder / "file.ckpt")


def test_a_checkpoint_is_rebuilt_from_the_file_alone(tmp_path: Path, make_acquisition) -> None:
    torch.manual_seed(0)
    network = NaiveCNN(4, 3, 3).eval()
    method = Checkpoint(save(tmp_path, content()))
    acquisition = make_acquisition()
    with torch.no_grad():
        assert torch.equal(method(acquisition).image, network(acquisition))
    assert method.record["name"] == "tiny"


def test_a_loaded_network_is_in_evaluation_and_needs_no_gradient(tmp_path: Path) -> None:
    method = Checkpoint(save(tmp_path, content()))
    assert not any(module.training for module in method.network.modules())
    assert not any(parameter.requires_grad for parameter in method.network.parameters())
    assert method.to("cpu") is method


def test_what_else_a_module_keeps_beside_its_network_is_left_out(tmp_path: Path) -> None:
    state = content()["state_dict"] | {"loss.window": torch.ones(3), "metrics.rows": torch.zeros(0, 7)}
    Checkpoint(save(tmp_path, content(state=state)))


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "in a Lightning checkpoint"])
def test_published_weights_load_from_either_kind_of_file(
    tmp_path: Path, fastmri_weights: Callable[..., dict[str, Tensor]], make_acquisition, wrapped: bool
) -> None:
    state = fastmri_weights("unet")
    if wrapped:
        state = {"state_dict": {f"unet.{name}": value for name, value in state.items()}, "epoch": 3}
    image = FastMRIWeights(save(tmp_path, state))(make_acquisition()).image
    assert image.isfinite().all()


class Payload:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("reader", READERS)
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, reader: type) -> None:
    ran = tmp_path / "ran"
    path = save(tmp_path, content() | {"extra": Payload(ran)})
    with pytest.raises(InputError, match="cannot be loaded as plain weights"):
        reader(path)
    assert not ran.exists()
    torch.load(path, weights_only=False)  # so that the test can fail: the payload works
    assert ran.is_dir()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["", "absent.ckpt"])
def test_a_missing_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: type, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"there is no file '.*'; give the weights as recon\.path=FILE"):
        reader(name)


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_an_empty_file_and_a_dangling_link_are_said(tmp_path: Path, reader: type) -> None:
    with pytest.raises(InputError, match="is a folder; a file is expected"):
        reader(str(tmp_path))
    (tmp_path / "empty.ckpt").touch()
    with pytest.raises(InputError, match=r"empty\.ckpt is empty"):
        reader(str(tmp_path / "empty.ckpt"))
    (tmp_path / "link.ckpt").symlink_to(tmp_path / "moved" / "last.ckpt")
    with pytest.raises(InputError, match=r"link\.ckpt is a link to .*moved/last\.ckpt, which does not exist"):
        reader(str(tmp_path / "link.ckpt"))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kept", [1, 10, 100, 0.5, 0.9, 0.999])
def test_a_damaged_file_is_said(tmp_path: Path, reader: type, kept: float) -> None:
    path = Path(save(tmp_path, content()))
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(InputError, match="cannot be loaded as plain weights"):
        reader(str(path))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "data",
    [b"not weights, but text\n" * 40, b"PK\x03\x04" + b"\0" * 60, b"\x89HDF\r\n\x1a\n" * 9],
    ids=["text", "broken zip", "HDF5"],
)
def test_a_file_of_another_kind_is_said(tmp_path: Path, reader: type, data: bytes) -> None:
    path = tmp_path / "file.ckpt"
    path.write_bytes(data)
    with pytest.raises(InputError, match="cannot be loaded as plain weights"):
        reader(str(path))


@pytest.mark.parametrize("value", [torch.ones(3), [1, 2], "text", None])
def test_a_file_that_holds_no_dictionary_is_said(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InputError, match=f"holds a {type(value).__name__}; a dictionary of weights is expected"):
        load_plain(save(tmp_path, value))


@pytest.mark.parametrize(
    "value",
    [
        {"state_dict": {"net.layers.0.weight": torch.ones(1)}},
        {"weight": torch.ones(1)},
        {"state_dict": {}, "spinwarp": {"name": "no net"}},
        {"state_dict": {}, "spinwarp": "a word"},
        {"spinwarp": {"net": NET}},
    ],
    ids=["another Lightning project", "plain weights", "no description", "a word", "no weights"],
)
def test_a_file_that_is_no_checkpoint_of_ours_is_sent_to_the_other_reader(tmp_path: Path, value: dict) -> None:
    with pytest.raises(InputError, match=r"not a checkpoint of spinwarp's train\.py.*recon=fastmri_weights"):
        Checkpoint(save(tmp_path, value))


def test_our_own_checkpoint_is_sent_to_its_reader(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a checkpoint of spinwarp; use recon=checkpoint"):
        FastMRIWeights(save(tmp_path, content()))


@pytest.mark.parametrize("value", [{}, {"epoch": 3}, {"state_dict": [1]}, {"state_dict": {"a": "text"}}])
def test_a_file_without_a_state_dict_is_said(tmp_path: Path, value: dict) -> None:
    with pytest.raises(InputError, match="holds no state dict: names and tensors are expected"):
        FastMRIWeights(save(tmp_path, value))


@pytest.mark.parametrize("net", [NET | {"channels": 5}, NET | {"n_layers": 4}, NET | {"n_layers": 2}])
def test_weights_that_do_not_fit_their_description_are_refused(tmp_path: Path, net: dict) -> None:
    with pytest.raises(InputError, match=r"do not fit the network that it describes: .*layers"):
        Checkpoint(save(tmp_path, content(net)))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "torch.nn.Linear",
        "spinwarp.data.download.main",
        "spinwarp.models_of_a_stranger.Net",
        "spinwarp.modelsx.Net",
        "models.Net",
        "Net",
        "",
    ],
)
def test_a_class_outside_of_our_networks_is_refused_before_it_is_imported(tmp_path: Path, target: str) -> None:
    with pytest.raises(InputError, match=r"which is not in spinwarp\.models; if you trust it.*recon\.trusted"):
        Checkpoint(save(tmp_path, content({"_target_": target})))
    nested = NET | {"channels": {"_target_": target, "_partial_": True}}
    with pytest.raises(InputError, match="which is not in"):
        Checkpoint(save(tmp_path, content([nested])))


@pytest.mark.parametrize(
    "target",
    [
        "spinwarp.models.varnet.partial",  # imported there, and a class, but no network
        "spinwarp.models.varnet.sense",
        "spinwarp.models.varnet.InputError",
        "spinwarp.models.fastmri_weights.network_from_fastmri",
        "spinwarp.models.unet.nn",
    ],
)
def test_what_is_in_our_networks_modules_but_no_network_is_refused(target: str) -> None:
    with pytest.raises(InputError, match="which is not a network"):
        build_network({"_target_": target}, ("spinwarp.models",))


@pytest.mark.parametrize(
    "net",
    [
        {"_target_": "spinwarp.models.naive_cnn.Absent"},
        {"_target_": "spinwarp.models.absent.Net"},
        {"_target_": "spinwarp.models.varnet.torch.nn.Linear"},
        NET | {"colour": "red"},
        NET | {"channels": "four"},
    ],
)
def test_a_description_that_this_version_cannot_build_is_said(net: dict) -> None:
    with pytest.raises(InputError, match=r"this version of spinwarp cannot build spinwarp\.models"):
        build_network(net, ("spinwarp.models",))


@pytest.mark.parametrize("net", [{}, [], "text", None, NET | {"_partial_": True}])
def test_a_description_that_is_no_network_is_said(tmp_path: Path, net: Any) -> None:
    with pytest.raises(InputError, match="class"):
        Checkpoint(save(tmp_path, content(net)))


@pytest.mark.parametrize("state", [[1], "text", {}, {1: torch.ones(1)}, {"net.a": "text"}])
def test_a_checkpoint_without_weights_is_said(tmp_path: Path, state: Any) -> None:
    with pytest.raises(InputError, match="not a checkpoint"):
        Checkpoint(save(tmp_path, content(state=state)))


def test_a_trusted_package_may_be_built_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_acquisition) -> None:
    (tmp_path / "strangers_networks.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, gain):\n"
        "        super().__init__()\n"
        "        self.gain = nn.Parameter(torch.tensor(gain))\n"
        "    def forward(self, acquisition):\n"
        "        return self.gain * acquisition.kspace[:, 0]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = save(tmp_path, content({"_target_": "strangers_networks.Net", "gain": 3.0}, {"net.gain": torch.tensor(3.0)}))
    with pytest.raises(InputError, match=r"strangers_networks\.Net"):
        Checkpoint(path)
    method = Checkpoint(path, trusted=["strangers_networks"])
    acquisition = make_acquisition()
    assert torch.equal(method(acquisition).image, 3 * acquisition.kspace[:, 0])
    Checkpoint(save(tmp_path, content()), trusted=["strangers_networks"])  # ours still loads


def test_descriptions_nest_in_lists_and_dictionaries() -> None:
    built = build_network({"a": [NET, 1], "b": {"c": NET | {"_partial_": True}}}, ("spinwarp.models",))
    assert isinstance(built["a"][0], NaiveCNN)
    assert built["a"][1] == 1
    assert isinstance(built["b"]["c"](), NaiveCNN)


def test_a_network_is_run_without_gradients(tmp_path: Path, make_acquisition) -> None:
    acquisition = make_acquisition()
    acquisition = replace(acquisition, kspace=acquisition.kspace.requires_grad_())
    assert not Checkpoint(save(tmp_path, content()))(acquisition).image.requires_grad
