# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What undersampling takes away
#
# An MRI scanner measures the Fourier transform of the image, k-space, line by line. Half the lines take half the time.
# What is lost, and why can it not simply be computed?

# %%
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.random import RandomState

from spinwarp.acquisition import Acquisition
from spinwarp.coils import combine, low_resolution_maps
from spinwarp.data.phantom.anatomy import head_volume
from spinwarp.data.simulation import acquire, loop_coil_maps, smooth_phase
from spinwarp.figures import comparison, panel
from spinwarp.fourier import fftc, ifftc
from spinwarp.masks import EquispacedMask, LiteralEquispacedMask, MagicMask, RandomMask, seed_of
from spinwarp.metrics import psnr, ssim
from spinwarp.operators import sense

rng = RandomState(7)
magnitude, contrast = head_volume(1, (160, 144), rng)
image = magnitude[0] * np.exp(1j * smooth_phase((160, 144), rng))
maps = loop_coil_maps(6, (160, 144), rng)
kspace = torch.from_numpy(acquire(image, maps, noise_std=0.02 * magnitude.max(), rng=rng))[None]  # (1, coil, h, w)
target = combine(ifftc(kspace), None).abs()

# %% [markdown]
# ## A dense centre
# Most of the energy of an image sits at low frequencies, so every mask samples the central lines fully.

# %%
energy = kspace.abs().square().sum((0, 1, 2))  # of each column
order = (torch.arange(144) - 72).abs().argsort()
share = energy[order].cumsum(0) / energy.sum()
figure = Figure(figsize=(6, 3))
axes = figure.subplots()
axes.plot(np.arange(1, 145) / 144 * 100, share * 100)
axes.set_xlabel("columns nearest to the centre / %")
axes.set_ylabel("energy / %")
axes.grid(alpha=0.3)
print(f"{float(share[11]) * 100:.0f} % of the energy lies in the 8 % of columns nearest to the centre")
figure

# %% [markdown]
# ## Masks
# The acceleration that a mask is named after is not always the one it realises.

# %%
families = {"random": RandomMask, "equispaced": EquispacedMask, "literal": LiteralEquispacedMask, "magic": MagicMask}
masks = {}
for name, family in families.items():
    columns, n_center = family([0.08], [4])((160, 144), RandomState(seed_of("file1000000.h5")))
    masks[name] = columns
    print(f"{name:11s} nominal 4, realised {144 / int(columns.sum()):.2f}, {n_center} central columns")
panel([m.expand(160, -1).numpy().astype(float) for m in masks.values()], list(masks), columns=4)

# %% [markdown]
# ## Zero-filled
# Setting the missing lines to zero and transforming back gives blur and aliasing.

# %%
reconstructions, numbers = {}, {}
for name, columns in masks.items():
    measured = kspace * columns
    zero_filled = combine(ifftc(measured), None).abs()
    reconstructions[name] = zero_filled[0].numpy()
    numbers[name] = {
        "psnr": float(psnr(zero_filled, target, target.max())),
        "ssim": float(ssim(zero_filled, target, target.max()[None])),
    }
comparison(target[0].numpy(), reconstructions, data_range=float(target.max()), numbers=numbers, title=contrast)

# %% [markdown]
# ## Infinitely many images fit
# The operator $A = MFS$ hides whole lines. Whatever lives there alone, the null space, can be added to an image and the
# scanner would have measured the same. Something else has to choose: a formula, a network, a prior.

# %%
columns = masks["random"]
acquisition = Acquisition(kspace=(kspace * columns), mask=columns.view(1, 1, 1, -1))
one_coil = Acquisition(kspace=fftc(ifftc(kspace)[:, :1]) * columns, mask=columns.view(1, 1, 1, -1))
A = sense(one_coil)
first = ifftc(kspace)[:, 0]
hidden = torch.randn(first.shape, dtype=torch.complex64, generator=torch.manual_seed(0)) * first.abs().mean()
second = first + hidden - A.adjoint(A(hidden))
difference = float((A(first) - A(second)).abs().max() / A(first).abs().max())
print(f"the two images differ by {float((first - second).abs().mean() / first.abs().mean()):.0%} on average,")
print(f"what is measured of them by {difference:.0e} at most")
panel([first[0].abs().numpy(), second[0].abs().numpy()], ["one image", "another, the same measurement"], columns=2)

# %% [markdown]
# ## Several coils help
# Each coil sees the image through its own sensitivity, so a hidden line leaves a trace in the others. The
# sensitivities come from the measured central lines.

# %%
estimated = low_resolution_maps(acquisition.kspace, torch.tensor([12]))
panel([m.abs().numpy() for m in estimated[0]], [f"coil {i}" for i in range(6)], columns=6)
