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
# # From k-space to image
#
# An MRI scanner does not measure an image but its Fourier transform, line by line. This chapter shows what these lines
# are, what they cost, and what is lost when some are left out.
#
# The head is simulated, so everything here runs without scanner data.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 72}
import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.random import RandomState

from spinwarp.data.phantom import head_example
from spinwarp.data.undersample import Undersample
from spinwarp.figures import comparison, panel
from spinwarp.fourier import fftc, ifftc
from spinwarp.masks import EquispacedMask, LiteralEquispacedMask, PoissonDiscMask, RandomMask
from spinwarp.metrics import psnr, ssim
from spinwarp.operators import sense
from spinwarp.recon import CGSense, ZeroFilled

# %% [markdown]
# ## K-space as a picture
# `head_example` simulates a scan. With one coil, k-space is one complex matrix. Its magnitudes span several powers of
# ten, so the picture shows their logarithm. The image is the inverse Fourier transform.

# %%
example = head_example(17, n_coils=1)
kspace = example.acquisition.kspace[0, 0]  # complex, (h, w) = (160, 144)
image = ifftc(kspace)


def log_magnitude(k):
    """Four powers of ten from black to white."""
    return (k.abs() / kspace.abs().max()).clamp_min(1e-4).log10() + 4


panel([log_magnitude(kspace), 4 * image.abs() / image.abs().max()], ["k-space (logarithm)", "image"], columns=2)

# %% [markdown]
# ## One point of k-space is one wave
# The transform writes the image as a sum of waves, one for each of the $N$ points of k-space:
#
# $$\text{image}(r) = \frac{1}{\sqrt N} \sum_k \text{kspace}(k)\; e^{2 \pi i\, k \cdot r}$$
#
# A point close to the centre is a wave with few stripes. A point far out is a wave with many. The direction from the
# centre to the point is the direction of the wave.

# %%
points = {"3 to the right": (0, 3), "3 down": (3, 0), "12 right, 8 down": (8, 12), "30 to the right": (0, 30)}
waves = []
for down, right in points.values():
    single = torch.zeros_like(kspace)
    single[80 + down, 72 + right] = 1  # the centre of k-space is (80, 72)
    waves.append(ifftc(single).real)
panel([1 + wave / wave.max() for wave in waves], list(points), columns=4)

# %% [markdown]
# Take the outer waves away, and the edges go. Brightness and shape stay until the last, for they sit in the centre.

# %%
y, x = torch.meshgrid(torch.arange(160) - 80, torch.arange(144) - 72, indexing="ij")
order = (y**2 + x**2).flatten().argsort()  # points of k-space, nearest to the centre first
partial, titles = [], []
for n in (160 * 144, 1600, 200, 25):
    nearest = torch.zeros(160 * 144, dtype=torch.bool)
    nearest[order[:n]] = True
    partial.append(ifftc(kspace * nearest.view(160, 144)).abs())
    titles.append(f"{n} waves of {160 * 144}")
assert torch.allclose(partial[0], image.abs())
panel(partial, titles, columns=4)

# %% [markdown]
# ## Frequency encoding: a line is measured at once
# Protons in a magnetic field ring like bells, and the pitch follows the field. A gradient makes the field stronger
# towards one end of the head, so the pitch tells the place. The coil hears all of them together for a few milliseconds,
# and a Fourier transform sorts the pitches. That is one column of k-space: one **readout**.
#
# The central readout holds the sum of the image along the other direction, its projection.

# %%
readout = kspace[:, 72]  # the central column
projection = ifftc(readout[:, None], dims=(-2,))[:, 0]
expected = image.sum(1) / 144**0.5
assert torch.allclose(projection, expected, atol=1e-3 * float(expected.abs().max()))

milliseconds = np.linspace(-4, 4, 160)  # a typical readout
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained")
left.plot(milliseconds, readout.real, lw=1)
left.set(title="what the coil hears: one readout", xlabel="time / ms", yticks=[])
right.plot(projection.abs(), lw=1)
right.set(title="its Fourier transform: the projection of the head", xlabel="row of the image", yticks=[])
plt.show()
# %% [markdown]
# ## Phase encoding: one column after the other
# One readout tells rows apart, not columns. Therefore a short gradient pulse along the other direction comes before
# each readout. It turns the phase of the signal by an angle that grows across the head. The next readout gets a
# slightly stronger pulse, and so k-space fills column by column. In this picture the centre comes first.

# %%
columns = (torch.arange(144) - 72).abs().argsort()  # in order of measurement
filled, images = [], []
for n in (4, 12, 36):
    measured = torch.zeros(144, dtype=torch.bool)
    measured[columns[:n]] = True
    filled.append(log_magnitude(kspace * measured))
    images.append(ifftc(kspace * measured).abs())
panel(filled + images, [f"after {n} readouts" for n in (4, 12, 36)], columns=3)

# %% [markdown]
# ## What it costs
# Between two readouts the scanner waits for the magnetisation to recover: the repetition time TR, often half a second
# or more. The readout itself takes a few milliseconds of it. The scan lasts
#
# $$T = \text{number of columns} \times TR \times \text{averages}$$
#
# Measuring every $R$-th column divides this time by $R$. Leaving out points *along* a readout saves nothing: the
# readout direction is free. This is why 2D scans leave out whole lines.

# %%
scans = {
    "T1 spin echo\n256 columns, TR 0.6 s, 2 averages": 256 * 0.6 * 2,
    "T2 spin echo\n192 columns, TR 3 s": 192 * 3.0,
}
figure, axes = plt.subplots(figsize=(8, 2.8), layout="constrained")
for i, seconds in enumerate(scans.values()):
    for j, R in enumerate((1, 2, 4, 8)):
        minutes = seconds / R / 60
        bar = axes.barh(i - 0.3 + 0.2 * j, minutes, 0.18, color=plt.cm.Blues(0.9 - 0.18 * j))
        axes.bar_label(bar, [f" R = {R}: {minutes:.1f} min"])
axes.set(yticks=range(len(scans)), yticklabels=list(scans), xlabel="minutes", xlim=(0, 12.5))
axes.invert_yaxis()  # the first on top
assert (
    round(192 * 3.0 / 60, 1) == 9.6 and round(192 * 3.0 / 4 / 60, 1) == 2.4
)  # nine and a half minutes become two and a half

# %% [markdown]
# ## Masks
# A **mask** says which columns are measured. It has a name and a nominal acceleration, and the two do not always agree:
# fastMRI's plain `equispaced` mask takes every fourth column *and* the centre, so it saves less than it says. A 3D scan
# encodes both directions by phase; there, single points can be left out.

# %%
families = {
    "equispaced": EquispacedMask([0.08], [4]),
    "literal equispaced": LiteralEquispacedMask([0.08], [4]),
    "random": RandomMask([0.08], [4]),
    "Poisson disc (3D)": PoissonDiscMask([0.08], [4]),
}
masks, rates = {}, {}
for name, family in families.items():
    masks[name], _ = family((160, 144), RandomState(3))
    rates[name] = masks[name].numel() / int(masks[name].sum())
assert abs(rates["equispaced"] - 4) < 0.1 and rates["literal equispaced"] < 3.4
shown = [mask.expand(160, 144).float() for mask in masks.values()]
panel(shown, [f"{name}: R = {rate:.2f}" for name, rate in rates.items()], columns=4)

# %% [markdown]
# ## What a dense centre keeps
# All these masks measure the centre completely. Most of the energy of an image sits there.

# %%
energy = kspace.abs().square().sum(0)  # of each column
share = energy[columns].cumsum(0) / energy.sum()
assert share[11] > 0.8  # twelve columns, 8 %, hold more than 80 % of the energy
figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
axes.plot(np.arange(1, 145) / 144 * 100, share * 100)
axes.plot(12 / 144 * 100, share[11] * 100, "o", color="C1")
axes.annotate(f"8 % of the columns: {float(share[11]) * 100:.0f} % of the energy", (10, share[11] * 100 - 3), va="top")
axes.set(xlabel="columns nearest to the centre / %", ylabel="energy / %", ylim=(0, 103))
axes.grid(alpha=0.3)

# %% [markdown]
# Here are three masks: one with a dense centre, one with as many columns and no centre, and the centre alone. Setting
# what is missing to zero and transforming back is called **zero-filling**. Without the centre the brightness of the
# head is lost; with nothing but the centre, its detail.

# %%
target, data_range = example.target, example.data_range


def scores(image):
    """PSNR in dB (higher is better) and SSIM (1 is perfect) of an image (1, h, w)."""
    image = image.abs()
    return {"psnr": float(psnr(image, target, data_range)), "ssim": float(ssim(image, target, data_range))}


with_centre = RandomMask([0.08], [4])((160, 144), RandomState(1))[0]
without = torch.zeros(1, 144, dtype=torch.bool)
without[0, RandomState(1).permutation(144)[: int(with_centre.sum())]] = True
without[0, 66:78] = False
images = {
    "dense centre": ifftc(kspace * with_centre)[None],
    "no centre": ifftc(kspace * without)[None],
    "only the centre": ifftc(kspace * (with_centre & (x[:1].abs() < 6)))[None],
}
numbers = {name: scores(image) for name, image in images.items()}
assert numbers["dense centre"]["psnr"] > numbers["no centre"]["psnr"] + 3
comparison(
    target[0].numpy(), {n: i[0].numpy() for n, i in images.items()}, data_range=float(data_range), numbers=numbers
)

# %% [markdown]
# ## Where the artefacts come from
# Undersampling smears every pixel in the same way: the image is convolved with the transform of the mask, the **point
# spread function**. Columns are missing, so everything smears along the rows of the image only. An equispaced mask
# makes a few sharp copies of the head (aliasing), a random one spreads them like noise, and a 3D mask spreads them in
# both directions. Noise-like artefacts are easier to tell from anatomy, which is what the next chapter uses.

# %%
point = torch.zeros(160, 144, dtype=torch.complex64)
point[80, 72] = 1
spread = {name: ifftc(fftc(point) * mask).abs() for name, mask in masks.items()}
figure, plots = plt.subplots(1, 3, figsize=(9, 2.3), layout="constrained", sharey=True)
for axes, name in zip(plots, ("equispaced", "random", "Poisson disc (3D)"), strict=True):
    row = spread[name][80] / spread[name].max()
    axes.semilogy(np.arange(144) - 72, row.clamp_min(1e-4), lw=1)
    axes.set(title=name, xlabel="distance along the row / pixels", ylim=(1e-3, 1.5))
plots[0].set_ylabel("spread of a point")
plt.show()
# %%
outside = {name: s[80].clone() / s.max() for name, s in spread.items()}
for row in outside.values():
    row[72 - 15 : 72 + 16] = 0  # only what lies far from the point
assert outside["equispaced"].max() > 1.2 * outside["random"].max() > 2 * outside["Poisson disc (3D)"].max()
for name in ("equispaced", "random"):
    assert spread[name][torch.arange(160) != 80].max() < 1e-6  # nothing leaves the row
panel([ifftc(kspace * mask).abs() for mask in masks.values()], list(masks), columns=4)

# %% [markdown]
# ## Infinitely many images fit
# Everything the scanner does is one linear operator $A = M F S$: coil sensitivities $S$, Fourier transform $F$, mask
# $M$. It hides whole columns. Whatever lives in them alone, the **null space**, can be added to an image, and the
# scanner would measure exactly the same. So the measurement cannot decide. Something else must: a formula, a network, a
# prior. That choice is what the other chapters are about.

# %%
measured = Undersample(RandomMask([0.08], [4]))(example, RandomState(1))
A = sense(measured.acquisition)
first = image[None]
noise = torch.randn(first.shape, dtype=torch.complex64, generator=torch.manual_seed(0)) * first.abs().mean()
second = first + noise - A.adjoint(A(noise))  # only the part that A does not see
difference = (A(first) - A(second)).abs().max() / A(first).abs().max()
apart = (first - second).abs().mean() / first.abs().mean()
assert difference < 1e-5 and apart > 0.5
panel([first[0], second[0]], ["one image", "another with the same measurement"], columns=2)

# %% [markdown]
# ## Several coils help
# Modern scanners listen with many coils. Each hears best what is close to it, so a hidden column leaves traces in the
# differences between coils. With known sensitivities, the smallest least-squares problem already untangles the copies:
# $\arg\min_x |Ax - y|^2$, called SENSE (Pruessmann et al., MRM 1999). At twice the speed six coils are enough.

# %%
example = head_example(17, n_coils=6)
target, data_range = example.target, example.data_range
measured = Undersample(EquispacedMask([0.08], [2]))(example, RandomState(0))
coil_images = ifftc(example.acquisition.kspace)[0].abs()
panel([*coil_images], [f"coil {i + 1}" for i in range(6)], columns=6)

# %%
methods = {"zero-filled": ZeroFilled(), "CG-SENSE": CGSense()}
images = {name: method(measured.acquisition).image for name, method in methods.items()}
numbers = {name: scores(image) for name, image in images.items()}
assert numbers["CG-SENSE"]["psnr"] > numbers["zero-filled"]["psnr"] + 5
comparison(
    target[0].numpy(), {n: i[0].numpy() for n, i in images.items()}, data_range=float(data_range), numbers=numbers
)
