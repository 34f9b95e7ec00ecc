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
# # No training at all
#
# A convolutional network with random weights, fitted to a single measurement, takes to an image sooner than to noise
# and gaps. Its structure is a prior, and it has never seen a training image.
#
# The heads are simulated.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 72}
import logging
from functools import partial

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from numpy.random import RandomState

from spinwarp.data.phantom import head_example
from spinwarp.data.undersample import Undersample
from spinwarp.figures import comparison, panel
from spinwarp.masks import RandomMask
from spinwarp.metrics import psnr
from spinwarp.models.conv_decoder import ConvDecoder
from spinwarp.recon import TotalVariation, ZeroFilled
from spinwarp.recon.network_fit import fit
from spinwarp.recon.untrained import UntrainedNetwork

logging.getLogger("spinwarp").setLevel(logging.ERROR)  # no remarks between the pictures
size = (64, 56)
truth = F.avg_pool2d(head_example(2, (128, 112), n_coils=1, snr=1e6).target[None], 2)  # (1, 1, h, w)
truth = 10 * truth / truth.max()  # a network starts near 0.1; its last layer then has a way to go
random = torch.Generator().manual_seed(0)
decoder = partial(ConvDecoder, channels=24, layers=5, input_size=(8, 7))


def decibel(picture):
    return float(psnr(picture[0], truth[0], truth.max()))


# %% [markdown]
# ## Random weights make smooth pictures
# The **ConvDecoder** (Darestani and Heckel, IEEE TCI 2021) starts from a small random picture $z$ and repeats: enlarge,
# convolve, clip at zero, normalise. Before any fit, with four draws of random weights $\theta$, its pictures
# $G_\theta(z)$ look like this. They are no images, but they are not noise either: neighbours are alike.

# %%
pictures = []
for seed in range(4):
    torch.manual_seed(seed)
    picture = decoder(size, 1)().detach()[0, 0]
    pictures.append((picture - picture.min()) / (picture.max() - picture.min()))
noise = torch.rand(size, generator=random)


def likeness(p):
    """Return the correlation of horizontal neighbours."""
    return float(torch.corrcoef(torch.stack([p[:, 1:].flatten(), p[:, :-1].flatten()]))[0, 1])


assert min(map(likeness, pictures)) > 0.4 > abs(likeness(noise)) + 0.2
panel([*pictures, noise], [*(f"random weights {i + 1}" for i in range(4)), "noise"], columns=5)

# %% [markdown]
# ## It takes to images sooner than to noise
# Now fit the weights: $\min_\theta |G_\theta(z) - y|^2$, once with the head as $y$ and once with noise of the same
# strength. The head is learned quickly, the noise slowly.

# %%
static = truth.mean() + truth.std() * torch.randn(truth.shape, generator=random)
curves = {}
for name, y in {"head": truth, "noise": static}.items():
    torch.manual_seed(0)
    curve = curves[name] = []
    spread = float((y - y.mean()).square().mean())
    fit(decoder(size, 1), lambda p: p, y, iterations=150, learning_rate=0.02,
        on_iterate=lambda i, curve=curve, spread=spread: curve.append(float(i.loss) / spread))  # fmt: skip
assert curves["head"][-1] < 0.5 * curves["noise"][-1]
figure, axes = plt.subplots(figsize=(5.5, 2.6), layout="constrained")
for name, curve in curves.items():
    axes.semilogy(curve, label=name)
axes.set(xlabel="iteration", ylabel="part not yet fitted")
axes.legend()
plt.show()

# %% [markdown]
# ## When to stop
# So the fit must stop between the image and the noise. We fit a noisy head and watch the error against the clean one.
# It falls, and then it rises again while the network learns the noise. In real life there is no clean head. But one can
# hide a tenth of the pixels and watch the error on these: it turns at about the same time.

# %%
noisy = truth + 1.5 * torch.randn(truth.shape, generator=random)
hidden = torch.rand(truth.shape, generator=random) < 0.1
quality, hidden_error, snapshots = [], [], {}


def watch(iterate):
    quality.append(decibel(iterate.picture))
    hidden_error.append(float(iterate.held_out))
    if iterate.number in (20, 100, 600):
        snapshots[f"iteration {iterate.number}: {quality[-1]:.1f} dB"] = iterate.picture[0, 0]


torch.manual_seed(0)
fit(ConvDecoder(size, 1, channels=64, layers=5, input_size=(8, 7)), lambda p: p, noisy, hidden, iterations=600,
    learning_rate=0.02, on_iterate=watch)  # fmt: skip
best, stop = max(quality), hidden_error.index(min(hidden_error))
assert best > quality[-1] + 1 and best > decibel(noisy) + 3
assert quality[stop] > best - 1  # hiding pixels finds nearly the best iteration
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained")
left.plot(quality)
left.plot(stop, quality[stop], "o", color="C1", label="where the hidden pixels say stop")
left.axhline(decibel(noisy), color="0.6", lw=1)
left.set(xlabel="iteration", title="PSNR against the clean head / dB")
left.legend()
right.plot(hidden_error)
right.set(xlabel="iteration", title="error on the hidden pixels", ylim=(0, 4 * min(hidden_error)))
plt.show()

# %%
clean = {"clean": truth[0, 0], f"noisy: {decibel(noisy):.1f} dB": noisy[0, 0].clamp_min(0)}
panel([*clean.values(), *snapshots.values()], [*clean, *snapshots], columns=5)

# %% [markdown]
# ## One network, three problems
# The fit knows nothing of noise or MRI. What is measured is a function of the picture, and only that changes: nothing
# for denoising, a mask for inpainting, a mean over blocks for super-resolution. This is the deep image prior (Ulyanov,
# Vedaldi and Lempitsky, CVPR 2018).

# %%
seen = torch.rand(truth.shape, generator=random) < 0.4
problems = {
    "denoising": (lambda p: p, noisy),
    "inpainting": (lambda p: p * seen, truth * seen),
    "super-resolution": (lambda p: F.avg_pool2d(p, 2), F.avg_pool2d(truth, 2)),
}
shown, titles, gain = [], [], {}
for name, (operator, y) in problems.items():
    sampled = seen if name == "inpainting" else torch.ones_like(y, dtype=torch.bool)
    held_out = sampled & (torch.rand(y.shape, generator=random) < 0.1)
    torch.manual_seed(0)
    picture = fit(decoder(size, 1), operator, y, held_out, sampled=sampled, iterations=250, learning_rate=0.02,
                  stop="held_out", patience=80)  # fmt: skip
    measured = F.interpolate(y, size=size)
    gain[name] = decibel(picture) - decibel(measured)
    shown += [measured[0, 0].clamp_min(0), picture[0, 0]]
    titles += [f"{name}: {decibel(measured):.1f} dB", f"fitted: {decibel(picture):.1f} dB"]
assert gain["denoising"] > 3 and gain["inpainting"] > 5 and abs(gain["super-resolution"]) < 2.5
panel(shown, titles, columns=6)

# %% [markdown]
# Denoising and inpainting gain a lot. Super-resolution gains little over enlarging the blocks: a block says its mean,
# and what is inside stays unknown.
#
# ## MRI, where it wins
# For MRI the function is the scanner's $A$. `UntrainedNetwork` hides a fifth of the measured columns for the stop, and
# puts the measurement back in the end. Here only every eighth column is measured, with six coils. At this speed no
# image is good. Total variation gives a cartoon. A fit of the ConvDecoder may end above or below it, by the luck of its
# random weights, and even rounding decides. So we take the mean of five fits. It has the smallest squared error, for it
# is nearly right everywhere. Total variation still shows the dark ventricles better.

# %%
network = UntrainedNetwork(
    partial(ConvDecoder, channels=32, layers=7, input_size=(8, 7)), iterations=300, patience=300, learning_rate=0.03,
    n_seeds=5,
)  # fmt: skip
methods = {"zero-filled": ZeroFilled(), "total variation": TotalVariation(), "ConvDecoder": network}


def compare(example, mask):
    data = Undersample(mask)(example, RandomState(13)).acquisition
    results = {name: method(data) for name, method in methods.items()}

    def quality(image):
        return float(psnr(image.abs(), example.target, example.data_range))

    images = {name: result.image[0].abs() for name, result in results.items()}
    fits = [quality(image) for image in results["ConvDecoder"].samples]
    return images, {name: {"psnr": quality(result.image)} for name, result in results.items()}, fits


example = head_example(13, (96, 84))
images, numbers, fits = compare(example, RandomMask([0.06], [8]))
assert numbers["ConvDecoder"]["psnr"] > numbers["total variation"]["psnr"] + 0.3
assert max(fits) - min(fits) > 1  # decibel: one fit says little
assert numbers["total variation"]["psnr"] > numbers["zero-filled"]["psnr"]
comparison(example.target[0], images, data_range=float(example.data_range), numbers=numbers)

# %% [markdown]
# ## MRI, where it does not
# With a quarter of the columns the formula is hard to beat, and it takes a second. The ConvDecoder has had 300
# iterations here, five times; with thousands it comes closer and can win ([results](../docs/results.md)), but then a
# slice takes minutes. Every slice is a new fit, for nothing was learned.

# %%
images, numbers, _ = compare(example, RandomMask([0.1], [4]))
assert numbers["total variation"]["psnr"] > numbers["ConvDecoder"]["psnr"] + 0.5
titles = [f"{name}: {numbers[name]['psnr']:.1f} dB" for name in images]
panel([example.target[0], *images.values()], ["truth", *titles], columns=4)

# %% [markdown]
# On the command line this is `python evaluate.py recon=convdecoder`; `recon=deep_decoder` and `recon=dip` are its
# relatives.
