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
# # Learning it
#
# Instead of a formula, show a network many pairs of undersampled and complete scans, and let it find out. This chapter
# trains small networks in seconds, and shows why what goes in and how many scans there are matter more than the size.
#
# The heads are simulated, small, and have one coil.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 72}
import logging

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.random import RandomState

from spinwarp.acquisition import collate
from spinwarp.channels import to_channels
from spinwarp.data.phantom import head_example
from spinwarp.data.undersample import Undersample
from spinwarp.figures import panel
from spinwarp.fourier import ifftc
from spinwarp.losses import L1Loss
from spinwarp.masks import RandomMask
from spinwarp.metrics import psnr
from spinwarp.models.naive_cnn import NaiveCNN
from spinwarp.models.unet import MagnitudeUNet
from spinwarp.recon import NetworkReconstructor, TotalVariation, ZeroFilled

logging.getLogger("spinwarp").setLevel(logging.ERROR)  # no remarks between the pictures
shape = (64, 56)
training = [head_example(seed, shape, n_coils=1, snr=100) for seed in range(100, 132)]
masks = {4: RandomMask([0.1], [4]), 8: RandomMask([0.06], [8])}
unseen = [head_example(seed, shape, n_coils=1, snr=100) for seed in range(8)]
test = {R: [Undersample(mask)(e, RandomState(i)) for i, e in enumerate(unseen)] for R, mask in masks.items()}


def quality(method, rate):
    """Return the mean PSNR on eight heads that no network was trained on."""
    with torch.no_grad():
        return np.mean([float(psnr(method(e.acquisition).image.abs(), e.target, e.data_range)) for e in test[rate]])


panel([e.target[0] for e in training[:6]], [f"training head {i + 1}" for i in range(6)], columns=6)

# %% [markdown]
# ## The naive network
# The obvious idea: k-space in, image out, and a stack of convolutions between. It cannot work. A **convolution** looks
# at a few neighbours, here 5x5, so three of them see 13x13 points of k-space. But every pixel of an image depends on
# *all* of k-space: each point is a wave across the whole image. The pictures show which points of k-space the central
# pixel of the output depends on.

# %%
torch.manual_seed(0)
naive = NaiveCNN(channels=16, n_layers=3, kernel_size=5)
reach = []
for transform in (naive.layers, lambda x: to_channels(ifftc(torch.complex(x[:, :1], x[:, 1:])))):
    kspace = torch.randn(1, 2, *shape, requires_grad=True)
    transform(kspace)[0, 0, 32, 28].backward()
    reach.append((kspace.grad[0].abs().sum(0) > 0).float())
assert int(reach[0].sum()) <= 13 * 13 and reach[1].all()
panel(
    [reach[0], torch.nn.functional.pad(reach[1][1:-1, 1:-1], (1, 1, 1, 1))],
    ["three convolutions", "Fourier transform"],
    columns=2,
)

# %% [markdown]
# One dense layer could learn the transform. It would need a weight for every pair of pixel and point, for a 320x320
# image ten billion, and as many examples to learn what everybody knows since Fourier. So the **U-Net** (Ronneberger et
# al., 2015; Zbontar et al., fastMRI, 2018) gets the zero-filled *image*: the transform is done for it, and what remains
# is local, to remove blur and ghosts.
#
# ## Training
# Show the network undersampled heads, compare its image with the complete one, and change the weights against the
# gradient of the difference. The mask is drawn anew each time. The difference is the mean absolute error, **L1**.


# %%
def train(network, n_heads, steps, step_size=2e-3):
    """Train on the first heads; return the losses."""
    rng, loss_of, losses = RandomState(0), L1Loss(), []
    both = RandomMask([0.1, 0.06], [4, 8])
    optimizer = torch.optim.Adam(network.parameters(), step_size)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = step_size * (1 - step / steps)
        batch = collate([Undersample(both)(training[rng.randint(n_heads)], rng) for _ in range(4)])
        loss = loss_of(network(batch.acquisition).abs(), batch.target, batch.data_range)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


losses, methods = {}, {}
losses["naive CNN, 32 heads"] = train(naive, 32, 100)
methods["naive CNN, 32 heads"] = NetworkReconstructor(naive)
for n in (1, 4, 32):
    torch.manual_seed(0)
    unet = MagnitudeUNet(channels=12, pools=3)
    name = f"U-Net, {n} head{'s' * (n > 1)}"
    losses[name] = train(unet, n, 200)
    methods[name] = NetworkReconstructor(unet)
figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
for name, values in losses.items():
    axes.semilogy(np.convolve(values, np.ones(10) / 10, "valid"), label=name)
axes.set(xlabel="step", ylabel="L1 on the training heads")
axes.legend()
plt.show()

# %% [markdown]
# ## How many scans it takes
# The network with a single head has the smallest error in training: it learns that head by heart. On heads that it has
# never seen it is the worst of the U-Nets. More heads make training harder and the result better. The naive network,
# for all its 32 heads, is worse than no network at all.
#
# Look at the ventricles in the middle of the next picture. In the truth they are brighter than the brain around them,
# and even zero-filling shows that. The U-Nets that have seen one or four heads make them dark, as in those heads: sharp
# and wrong.

# %%
methods = {"zero-filled": ZeroFilled(), "total variation": TotalVariation(0.003), **methods}
table = {R: {name: quality(method, R) for name, method in methods.items()} for R in masks}
final = {name: np.mean(values[-20:]) for name, values in losses.items()}
assert final["U-Net, 1 head"] < final["U-Net, 4 heads"] < final["U-Net, 32 heads"]
assert table[4]["U-Net, 1 head"] < table[4]["U-Net, 4 heads"] < table[4]["U-Net, 32 heads"]
assert table[4]["naive CNN, 32 heads"] < table[4]["zero-filled"]
figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
for R, marker in ((4, "o-"), (8, "s-")):
    axes.semilogx(
        [1, 4, 32], [table[R][f"U-Net, {n} head{'s' * (n > 1)}"] for n in (1, 4, 32)], marker, label=f"U-Net, {R}x"
    )
axes.set(xlabel="training heads", ylabel="PSNR on other heads / dB", xticks=[1, 4, 32], xticklabels=[1, 4, 32])
axes.legend()
plt.show()

# %%
scan = test[4][2]
images = {name: method(scan.acquisition).image.abs() for name, method in methods.items()}
ventricles = scan.target[0, 20:44, 20:36] > 0.7 * scan.data_range
parts = {name: image[0, 20:44, 20:36] for name, image in images.items()}
contrast = {name: float(part[ventricles].mean() - part[~ventricles].mean()) for name, part in parts.items()}
assert contrast["zero-filled"] > 0 > max(contrast["U-Net, 1 head"], contrast["U-Net, 4 heads"])
titles = [f"{n}: {float(psnr(i, scan.target, scan.data_range)):.1f} dB" for n, i in images.items()]
panel([scan.target[0], *(i[0] for i in images.values())], ["truth", *titles], columns=7)

# %% [markdown]
# ## Why L1
# What should a network answer if two images are equally likely? With squared errors (L2) the best answer is their
# *mean*, a blur. With absolute errors (L1) it is the *median*, one of them. Suppose an edge lies a pixel further left
# or right, nobody knows which. The pictures are the best single answers to seven shifted heads.

# %%
head = unseen[2].target[0]
possible = torch.stack([head.roll(shift, 1) for shift in (-3, -1, 0, 0, 0, 1, 3)])
answers = {"L2: the mean": possible.mean(0), "L1: the median": possible.median(0).values}
error = {name: float((answer - head).square().mean()) for name, answer in answers.items()}
assert error["L1: the median"] < 0.6 * error["L2: the mean"]
panel([head, *answers.values()], ["most likely", *answers])

# %% [markdown]
# ## U-Net and total variation
# Now at four and at eight times the speed, on eight new heads. At four times the two are about equal. At eight times
# the formula has nothing left to hold on to, and what the U-Net has learned about heads helps. It has seen 32 heads for
# some seconds; the networks of fastMRI see a thousand volumes for days.

# %%
figure, axes = plt.subplots(figsize=(6.5, 2.6), layout="constrained")
names = ["naive CNN, 32 heads", "zero-filled", "total variation", "U-Net, 32 heads"]
assert abs(table[4]["U-Net, 32 heads"] - table[4]["total variation"]) < 1.5
assert table[8]["U-Net, 32 heads"] > table[8]["total variation"] + 0.5
assert table[8]["total variation"] < table[8]["zero-filled"] + 0.5
for i, R in enumerate(masks):
    bars = axes.bar(np.arange(4) + 0.4 * i, [table[R][n] for n in names], 0.38, label=f"{R}x")
    axes.bar_label(bars, fmt="%.1f", fontsize=8)
axes.set(xticks=np.arange(4) + 0.2, xticklabels=names, ylabel="PSNR / dB", ylim=(5, None))
axes.legend()
plt.show()

# %%
shown, titles = [], []
for R in masks:
    scan = test[R][2]
    shown.append(scan.target[0])
    titles.append(f"truth, {R}x")
    for name in names[1:]:
        image = methods[name](scan.acquisition).image.abs()
        shown.append(image[0])
        titles.append(f"{name}: {float(psnr(image, scan.target, scan.data_range)):.1f} dB")
panel(shown, titles, columns=4)
