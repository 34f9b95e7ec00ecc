"""What ``train.py`` builds of a configuration, and what it refuses."""

from collections.abc import Iterator

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from torch import nn

from spinwarp.cli.building import build_module
from spinwarp.cli.configuration import conf_folder
from spinwarp.errors import InputError
from spinwarp.training import SupervisedModule

TINY = ["model=varnet_small", "model.net.n_cascades=1", "model.net.regulariser.channels=2"]


@pytest.fixture(autouse=True)
def _no_job() -> Iterator[None]:
    """Leave Hydra as it was."""
    yield
    GlobalHydra.instance().clear()


def build(*overrides: str) -> SupervisedModule:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return build_module(compose("train", list(overrides)))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.precision=16-mixed"], "trainer.precision=16-mixed needs a GPU; on a CPU use .*bf16-mixed"),
        (["trainer.precision=bf16-true"], "trainer.precision=bf16-true is not one of 32, bf16-mixed, 16-mixed"),
        (["model=unet_small", "trainer=8gb"], r"MagnitudeUNet has no cascades .*trainer=8gb.* trainer=gpu"),
        (["model=score", "trainer=8gb"], "Denoiser has no cascades"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(*overrides)


@pytest.mark.parametrize("precision", ["32", "32-true", "bf16-mixed"])
def test_the_precisions_of_training_are_taken(precision: str) -> None:
    assert len(build(*TINY, f"trainer.precision={precision}").net.regularisers) == 1


def test_float16_is_taken_on_a_gpu_and_the_trainer_of_8_gb_makes_checkpoints() -> None:
    assert not build(*TINY, "trainer=gpu", "trainer.precision=16-mixed").net.checkpoint
    assert build(*TINY, "trainer=8gb").net.checkpoint


def test_compile_is_asked_of_the_networks_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *_, **__: compiled.append(self))
    module = build(*TINY)
    assert not compiled
    module = build(*TINY, "compile=true")
    assert compiled == [network.unet for network in module.net.regularisers]
    assert next(module.net.parameters()).dtype == torch.float32
