"""The contract itself: it runs every entry of conf, and what it is made of does what it says."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract import CONF, DESCRIPTIONS, ENTRIES, HIGHEST, N_LEVELS, build, explains, fingerprint, fit, shortened
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition
from spinwarp.operators import sense


def test_every_method_of_conf_is_run_and_every_network_is_in_one() -> None:
    run = [param.values[0] for param in ENTRIES]
    assert {entry for entry, _ in run} == {path.stem for path in (CONF / "recon").glob("*.yaml")}
    assert {"zero_filled", "checkpoint", "fastmri_weights"} <= {entry for entry, _ in run}
    tried = [
        DESCRIPTIONS[kind] for entry, kinds in run if kinds and entry != "fastmri_weights" for kind in kinds.split("+")
    ]
    left_out = {path.stem for path in (CONF / "model").glob("*.yaml") if DESCRIPTIONS[path.stem] not in tried}
    assert left_out == {"gan"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_target_": "spinwarp.recon.tv.TotalVariation", "path": ""}, r"new\.yaml reads a file: add TotalVariation"),
        ({"_target_": "spinwarp.recon.base.NetworkReconstructor"}, r"new\.yaml leaves out network"),
        ({"_target_": "spinwarp.recon.base.NetworkReconstructor", "network": "???"}, r"new\.yaml leaves out network"),
        ({"_target_": "spinwarp.acquisition.Header"}, r"new\.yaml makes no Reconstructor"),
    ],
)
def test_a_new_entry_that_cannot_be_run_says_how_to_mend_it(config: dict[str, Any], message: str) -> None:
    with pytest.raises((pytest.fail.Exception, AssertionError), match=message):
        build("new", config, None)


class Plain(nn.Module):
    """A network that starts far from any image: two convolutions, nothing around them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))

    def forward(self, acquisition: Acquisition) -> Tensor:
        image = sense(acquisition).adjoint(acquisition.kspace)
        real = torch.view_as_real(image).movedim(-1, 1)
        return torch.view_as_complex(self.layers(real).movedim(1, -1).contiguous())


def test_a_network_that_starts_far_from_any_image_is_fitted_first(make_acquisition: Callable[..., Acquisition]) -> None:
    torch.manual_seed(0)
    network, acquisition = Plain(), make_acquisition(shape=(32, 36))
    assert max(explains(network(acquisition), acquisition)) > 0.9
    assert 0 < fit(network, [acquisition]) < 100
    assert max(explains(network(acquisition), acquisition)) < 0.9


@pytest.mark.parametrize(
    "schedule",
    [
        {"_target_": "spinwarp.samplers.geometric", "sigma_max": 10.0, "sigma_min": 0.01, "n_levels": 1000},
        {"_target_": "spinwarp.samplers.jalal"},  # neither sigma_max nor n_levels
        [0.9, 0.3, 0.05],
        [20.0, 5.0],
    ],
)
def test_any_schedule_is_cut_to_a_few_falling_levels(schedule: Any) -> None:
    levels = shortened(schedule)
    assert 1 < len(levels) <= N_LEVELS
    assert levels == sorted(levels, reverse=True)
    assert levels[0] <= HIGHEST or schedule == [20.0, 5.0]


def test_the_fingerprint_sees_changes_at_any_depth() -> None:
    def holder() -> dict:
        torch.manual_seed(0)
        return {"network": nn.Sequential(nn.BatchNorm2d(2), nn.Dropout()), "options": [1, {"a": torch.zeros(2)}]}

    before = fingerprint(holder())
    assert fingerprint(holder()) == before
    assert fingerprint(copy.deepcopy(holder())) == before
    for change in (
        lambda h: h["network"](torch.randn(1, 2, 3, 3)),  # running statistics
        lambda h: h["network"].eval(),
        lambda h: h["options"][1]["a"].add_(1e-7),
        lambda h: setattr(h["network"][1], "p", 0.4),
        lambda h: h["options"].append(2),
    ):
        changed = holder()
        change(changed)
        assert fingerprint(changed) != before
