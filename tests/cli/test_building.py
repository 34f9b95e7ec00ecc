"""What ``train.py`` builds of a configuration, and what it refuses."""

from collections.abc import Iterator

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from torch import nn

from spinwarp import channels
from spinwarp.cli.app import conf_folder
from spinwarp.cli.train import build_module, training_precision
from spinwarp.cli.typecheck import check_types
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
        (
            ["model=unet_small", "trainer=8gb"],
            r"trainer=8gb recomputes cascades .*but MagnitudeUNet has none.* trainer=gpu",
        ),
        (["model=score", "trainer=8gb"], "Denoiser has none"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(*overrides)


def precision_of(*overrides: str) -> str:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return training_precision(compose("train", list(overrides)))


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("16-mixed", "trainer.precision=16-mixed needs a GPU; on a CPU use trainer.precision=auto"),
        ("bf16-true", "trainer.precision=bf16-true is not one of 32, bf16-mixed, 16-mixed, auto"),
    ],
)
def test_a_precision_that_cannot_be_is_refused(precision: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        precision_of(f"trainer.precision={precision}")


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bf16_where_the_device_has_it_and_float32_elsewhere(
    native: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("spinwarp.hardware.has_bf16", lambda _: native)
    monkeypatch.setattr("spinwarp.channels.has_bf16", lambda _: native)
    channels.auto_is_bf16.cache_clear()
    with caplog.at_level("INFO", "spinwarp"):
        found = [precision_of(f"experiment={name}") for name in ("phantom_score", "images_score")]
        assert precision_of() == "32-true"
        assert precision_of("trainer.precision=bf16-mixed") == "bf16-mixed"
    channels.auto_is_bf16.cache_clear()
    assert found == 2 * ["bf16-mixed" if native else "32-true"]
    assert caplog.text.count("precision auto: ") == 1
    assert ("bf16-mixed is slow: this cpu has no native bf16" in caplog.text) is not native


def test_auto_is_a_precision_to_the_type_check() -> None:
    for value in ("auto", "32", 32, "bf16-mixed", "16-mixed", "32-true"):
        check_types({"_target_": "lightning.Trainer", "precision": value})
    with pytest.raises(InputError, match="precision=bf16 is not 32 or 32-true or bf16-mixed or 16-mixed or auto"):
        check_types({"_target_": "lightning.Trainer", "precision": "bf16"})


def test_float16_is_taken_on_a_gpu_and_the_trainer_of_8_gb_makes_checkpoints() -> None:
    assert precision_of("trainer=gpu", "trainer.precision=16-mixed") == "16-mixed"
    assert not build(*TINY, "trainer=gpu").net.checkpoint
    assert build(*TINY, "trainer=8gb").net.checkpoint


def test_compile_is_asked_of_the_networks_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *_, **__: compiled.append(self))
    module = build(*TINY)
    assert not compiled
    module = build(*TINY, "compile=true")
    assert compiled == [network.unet for network in module.net.regularisers]
    assert next(module.net.parameters()).dtype == torch.float32
