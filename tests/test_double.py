"""What needs float64 on a device that has none: it is computed on the CPU, with the same result."""

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from single_device import DEVICE, SingleDevice

from spinwarp.acquisition import Acquisition
from spinwarp.channels import double
from spinwarp.coils import whiten
from spinwarp.metrics import BatchMean, VolumeMetrics
from spinwarp.recon.tv import TotalVariation
from spinwarp.uncertainty import adapted_density


def test_the_simulated_device_refuses_float64_and_mixed_devices() -> None:
    with SingleDevice():
        x = torch.ones(3).to(DEVICE)
        assert x.device == (x + 1).device == DEVICE
        with pytest.raises(TypeError, match="float64"):
            x.double()
        with pytest.raises(TypeError, match="float64"):
            torch.zeros(3, dtype=torch.float64, device=DEVICE)
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.ones(3)
        assert double(x).device.type == "cpu" and double(x).dtype == torch.float64
        assert double(x + 0j).dtype == torch.complex128
    assert double(torch.ones(3)).dtype == torch.float64


def test_metrics_on_a_device_without_float64_are_those_of_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 12, 10, generator=generator)
    image = target + 0.1 * torch.rand(2, 12, 10, generator=generator)

    def measured(device: torch.device) -> dict[str, float]:
        metrics, loss = VolumeMetrics(), BatchMean()
        metrics.update(image.to(device), target.to(device), torch.ones(2).to(device), ["a", "a"], [0, 1])
        loss.update(image.to(device).mean(), ["a", "a"], [0, 1])
        values = {name: float(value) for name, value in metrics.compute().items()}
        return {**values, "loss": float(loss.compute())}

    expected = measured(torch.device("cpu"))
    with SingleDevice():
        # float32 until they leave the device: only the mean of the loss is rounded there
        assert measured(DEVICE) == expected
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
            assert math.isnan(VolumeMetrics().to(DEVICE).compute()["ssim"])


def test_weights_whitening_and_densities_do_without_it(make_acquisition: Callable[..., Acquisition]) -> None:
    made = make_acquisition(shape=(32, 36), batch=1)
    covariance = 0.04 * torch.eye(4, dtype=torch.complex64)
    density = torch.full((36,), 0.4)

    def results(device: torch.device) -> list[torch.Tensor]:
        there = made.to(device)
        tv = TotalVariation(weight="auto", iterations=5, maps="given")(there).image
        return [tv, whiten(there, covariance.to(device)).kspace, adapted_density(there, density.to(device))]

    expected = results(torch.device("cpu"))
    with SingleDevice():
        found = results(DEVICE)
        assert all(x.device == DEVICE for x in found)
        for ours, theirs in zip(found, expected, strict=True):
            # conjugates are taken one operator earlier there, so that sums round otherwise
            torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-4, atol=1e-5)
