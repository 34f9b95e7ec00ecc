"""The training on simulated heads as one recorded step: the same numbers as the network, and weights that load."""

import queue
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import heads_batches
import train_heads

from spinwarp.acquisition import Acquisition
from spinwarp.data.heads import SimulatedHeads
from spinwarp.errors import InputError
from spinwarp.losses import ForegroundLoss
from spinwarp.masks import EquispacedMask, MixedMask, PoissonDiscMask
from spinwarp.models.loading import load_network
from spinwarp.models.unrolled import UnrolledNet


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    y, x = np.linspace(-1, 1, 128)[:, None], np.linspace(-1, 1, 112)
    (tmp_path / "heads").mkdir()
    for name in ("1", "2", "1901", "2201"):  # two to train, one to validate, one for tests
        head = np.where(x**2 / 0.5 + y**2 / 0.7 < 1, 150 + 60 * np.sin(9 * x + int(name)) * np.cos(7 * y), 3)
        Image.fromarray(head.astype(np.uint8)).save(tmp_path / "heads" / f"{name}.png")
    return tmp_path / "heads"


def test_items_and_the_recorded_step_are_those_of_the_network(heads: Path) -> None:
    source = SimulatedHeads(heads, val=["1901"], test=["2201"], matrices=[[96, 96], [128, 128]])
    mask = MixedMask([EquispacedMask([0.1], [4]), PoissonDiscMask([0.1], [4])])
    net = load_network("pretrained:heads")[0]
    assert isinstance(net, UnrolledNet)
    batches = heads_batches.Batches(source, mask, 3 * 64 * 128, net.prepared)
    rng, seen = np.random.RandomState(0), set()
    while len(seen) < 3:
        shape, flat = batches.draw(rng)
        kind = shape.whole, shape.coils == 1
        if kind in seen:
            continue
        seen.add(kind)
        n = batches.number(shape)
        parts = shape.views(flat, n)
        kspace, there = torch.view_as_complex(parts["kspace"]), parts["mask"] > 0.5
        assert not kspace.masked_fill(there, 0).any()  # nothing but what the mask samples
        with torch.no_grad():
            scan = Acquisition(kspace, there, noise_std=parts["noise"])
            maps = torch.view_as_complex(parts["maps"])
            ours = net.alternate(Acquisition(kspace, there, maps=maps, noise_std=parts["noise"])).abs()
            expected = net(scan).abs()
        # float32; ESPIRiT's power iterations of one item and of a batch round differently
        assert (ours - expected).norm() < 1e-4 * expected.norm()
        assert ((ours - parts["target"]).norm() < 0.5 * parts["target"].norm()).item()


def test_the_gradients_are_clipped_and_those_of_the_loss() -> None:
    net = load_network("pretrained:heads")[0]
    assert isinstance(net, UnrolledNet)
    shape, n = heads_batches.Shape(2, 64, 48), 2
    flat = shape.empty(n)
    parts = shape.views(flat, n)
    generator = torch.Generator().manual_seed(0)
    parts["kspace"].normal_(generator=generator)
    parts["maps"].fill_(0.5)
    parts["target"].uniform_(generator=generator)
    for name in ("mask", "noise", "range"):
        parts[name].fill_(1)
    step = train_heads.Step(net, ForegroundLoss(0.3))
    step(shape, flat)
    grads = [p.grad.clone() for p in step.parameters if p.grad is not None]
    norm = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
    assert norm <= 1 + 1e-5
    net.zero_grad()
    maps, kspace = torch.view_as_complex(parts["maps"]), torch.view_as_complex(parts["kspace"])
    image = net.alternate(Acquisition(kspace, parts["mask"] > 0.5, maps=maps, noise_std=parts["noise"]))
    loss = ForegroundLoss(0.3)(image.abs(), parts["target"], parts["range"])
    found = torch.cat([g.flatten() for g in torch.autograd.grad(loss, step.parameters)])
    ours = torch.cat([g.flatten() for g in grads])
    # the step runs in bf16, which has 8 bits; the direction of the gradient is kept
    assert torch.nn.functional.cosine_similarity(found, ours, dim=0) > 0.98
    assert step.value.item() == pytest.approx(loss.item(), rel=0.02)


def test_a_short_training_writes_weights_that_load_and_differ(
    heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_heads, "PIXELS", {"cpu": 100, "cuda": 100})
    out = tmp_path / "trained.safetensors"
    command = ["train_heads.py", str(out), "--heads", str(heads), "--minutes", "0.05", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", command)
    train_heads.main()
    net, record = load_network(str(out))
    assert isinstance(net, UnrolledNet)
    assert record["trained_on"]["volumes"] == ["1", "2"]
    assert "steps" in capsys.readouterr().out
    prior = load_network("pretrained:heads_score")[0].get_submodule("network").state_dict()
    name = "unet.first.weight"  # of the same size in both
    change = (net.regulariser.state_dict()[name] - prior[name]).abs().max()
    assert 1e-4 < change < 0.1  # a few steps of at most 5e-4, and rounding to half precision


class Worker:
    def __init__(self, alive: bool) -> None:
        self.is_alive = lambda: alive


@pytest.mark.parametrize(
    ("put", "alive", "message"), [("KeyError: 3", True, "could not be made: KeyError: 3"), (None, False, "was ended")]
)
def test_a_process_that_fails_ends_the_training(put: str | None, alive: bool, message: str) -> None:
    made: queue.Queue[object] = queue.Queue()
    if put:
        made.put(put)
    with pytest.raises(InputError, match=message):
        next(heads_batches.served(made, [Worker(alive)], seed=0, again=False))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.pt"], "a new file"),
        (["x.safetensors", "--minutes", "nan"], "at least .01"),
        (["x.safetensors"], "no folder"),
    ],
)
def test_a_wrong_option_ends_in_a_sentence(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train_heads.py", *arguments, "--heads", "/absent"])
    with pytest.raises(SystemExit):
        train_heads.main()
    assert message in capsys.readouterr().err
