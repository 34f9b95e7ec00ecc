"""Part five: classical reconstruction of a slice of 15x640x368, and what prepares it."""

from functools import partial

import torch

from gpu.problems import acquisition
from gpu.setting import Rows, Setting, Values, tensor_cores
from gpu.timing import measure
from spinwarp.coils import espirit_maps, low_resolution_maps
from spinwarp.operators import sense
from spinwarp.recon import CGSense, L1Wavelet, Reconstructor, TotalVariation, ZeroFilled


def rows(setting: Setting) -> Rows:
    """Methods with given maps, so that each row is one thing; the weight is a number or chosen."""
    tensor_cores(False)
    few: dict[str, int] = {"iterations": 3} if setting.dry else {}
    methods: dict[str, Reconstructor] = {
        "TV": TotalVariation(0.005, "given", **few),
        "TV, weight=auto": TotalVariation("auto", "given", **few),
        "wavelets": L1Wavelet(0.005, "given", **few),
        "wavelets, weight=auto": L1Wavelet("auto", "given", **few),
        "CG-SENSE": CGSense(0.01, "given", **few),
        "CG-SENSE, weight=auto": CGSense("auto", "given", **few),
        "zero-filled": ZeroFilled(),
    }
    return {
        "ESPIRiT": partial(maps, setting),
        **{name: partial(slice_by, setting, method) for name, method in methods.items()},
        "low-resolution maps": partial(maps, setting, low_resolution=True),
        "A^H A": partial(normal, setting),
    }


def _acquisition(setting: Setting):
    return acquisition(*((2, 32, 24) if setting.dry else (15, 640, 368)), device=setting.device)


def slice_by(setting: Setting, method: Reconstructor) -> Values:
    """Reconstruct one slice, from k-space on the device to an image there."""
    made = _acquisition(setting)
    return measure(lambda: method(made, generator=torch.Generator(setting.device)), setting, seconds=3)


def maps(setting: Setting, low_resolution: bool = False) -> Values:
    """Estimate coil maps of one slice."""
    made = _acquisition(setting)
    if low_resolution:
        return measure(lambda: low_resolution_maps(made.kspace, made.n_acs), setting, seconds=2)
    return measure(lambda: espirit_maps(made.kspace, made.mask, made.n_acs), setting, seconds=3)


def normal(setting: Setting) -> Values:
    """Apply A^H A, of which solvers are made."""
    made = _acquisition(setting)
    operator = sense(made)
    image = operator.adjoint(made.kspace)
    return measure(lambda: operator.normal(image), setting, repeats=50, seconds=2)
