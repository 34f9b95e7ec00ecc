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
# # Compressed sensing
#
# Of all images that fit a measurement, take the simplest. This chapter says what simple means, finds that image with
# plain gradient descent and with a better algorithm, and shows why simple images are probable ones.
#
# The head is simulated, with six coils, and about a quarter of its k-space is measured.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 72}
import io
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.random import RandomState
from PIL import Image

from spinwarp.data.phantom import head_example
from spinwarp.data.undersample import Undersample
from spinwarp.figures import comparison, panel
from spinwarp.masks import PoissonDiscMask, RandomMask
from spinwarp.metrics import psnr, ssim
from spinwarp.operators import finite_difference, sense, wavelet
from spinwarp.preparation import data_scale, with_maps
from spinwarp.recon import CGSense, L1Image, L1Wavelet, TotalVariation, ZeroFilled
from spinwarp.recon.tv import total_variation
from spinwarp.solvers.trace import Trace

example = head_example(17)
measured = Undersample(RandomMask([0.08], [4]))(example, RandomState(0)).acquisition
truth, data_range = example.target, example.data_range


def decibel(image):
    """Return the PSNR of an image (1, h, w); higher is better."""
    return float(psnr(image.abs(), truth, data_range))


# %% [markdown]
# ## The edge map
# Subtract from each pixel its neighbour below and its neighbour to the right. What remains is the **edge map**. An
# organ is nearly uniform inside, so most of the map is nearly black. Noise and aliasing have edges everywhere.

# %%
D = finite_difference()


def edges(image):
    """Return the length of the gradient in every pixel."""
    return D(image)[0].abs().square().sum(0).sqrt()


random = torch.Generator().manual_seed(0)
noisy = truth + 0.1 * torch.randn(truth.shape, generator=random)
flat = (edges(truth) < 0.05 * truth.max()).float().mean()
assert flat > 0.6  # of the pixels have almost no edge
assert edges(noisy).sum() > 3 * edges(truth).sum()
panel([truth[0], edges(truth), edges(noisy)], ["image", "its edge map", "edge map with noise"], columns=3)

# %% [markdown]
# The sum of the edge map is the **total variation** of the image, TV for short (Rudin, Osher and Fatemi, Physica D
# 1992). It is small for images of uniform regions, however sharp their borders. The reconstruction balances it with the
# data (Block, Uecker and Frahm, MRM 2007):
#
# $$\hat x = \arg\min_x\; \tfrac12 |A x - y|^2 + \lambda\, \mathrm{TV}(x)$$
#
# $y$ is the measurement, $A$ what the scanner does to an image, and $\lambda$ the weight.

# %%
acquisition = with_maps(measured, "espirit")  # coil sensitivities from the centre of k-space
scale = data_scale(acquisition)  # so that a weight means the same for every scan
problem = replace(acquisition, kspace=acquisition.kspace / scale)
A, y, weight = sense(problem), problem.kspace, 0.002


def objective(x):
    return float(0.5 * (A(x) - y).abs().square().sum() + weight * edges(x).sum())


# %% [markdown]
# ## Plain gradient descent
# Start somewhere, ask in which direction the objective rises, and take a step the other way. The gradient of the data
# term is $A^H (A x - y)$: compare with the measurement, transform the difference back. The gradient of the total
# variation is $D^H (D x / |D x|)$. It has no value where $D x = 0$, so a tiny number goes under the root.


# %%
def gradient(x, epsilon=1e-2):
    differences = D(x)
    length = (differences.abs().square().sum(1, keepdim=True) + epsilon**2).sqrt()
    return A.normal(x) - A.adjoint(y) + weight * D.adjoint(differences / length)


x = A.adjoint(y)  # the zero-filled image
descent = Trace({"objective": objective, "psnr": lambda x: decibel(scale * x)})
snapshots = {}
descent(0, x)
for i in range(1, 201):
    x = x - 1.0 * gradient(x)
    descent(i, x)
    if i in (1, 10, 50, 200):
        snapshots[f"step {i}: {decibel(scale * x):.1f} dB"] = x[0]
panel([*snapshots.values()], [*snapshots], columns=4)

# %% [markdown]
# ## A better algorithm
# Gradient descent takes small steps because the total variation has kinks. **ADMM** (Boyd et al., 2011) splits the
# problem in two that are easy: a least-squares problem, and shrinking each edge a little. They take turns until they
# agree. It needs no tiny number, and some twenty iterations.

# %%
admm = Trace({"objective": objective, "psnr": lambda x: decibel(scale * x)})
admm(0, A.adjoint(y))
best = total_variation(A, y, weight, iterations=60, trace=admm)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
for name, trace in {"gradient descent": descent, "ADMM": admm}.items():
    above = np.array(trace.values["objective"]) - min(admm.values["objective"])
    left.semilogy(trace.iterations[:-1], above[:-1], label=name)
    right.plot(trace.iterations, trace.values["psnr"], label=name)
left.set(xlabel="iteration", title="objective above its minimum", ylim=(1e-3, None))
right.set(xlabel="iteration", title="PSNR / dB")
right.legend()
assert admm.values["objective"][20] < descent.values["objective"][200]  # 20 steps of ADMM beat 200
assert descent.values["objective"][200] < 1.1 * admm.values["objective"][-1]  # which get there too, slowly
plt.show()

# %% [markdown]
# ## Other ways to be simple
# An image is **sparse** if few of its numbers matter. In pixels it hardly is. Its edges are sparser, and so are its
# **wavelets**, edges at every scale (Lustig, Donoho and Pauly, "Sparse MRI", MRM 2007). The picture shows the wavelet
# coefficients of the head: the small copies are its coarse scales, and almost all the rest is black.

# %%
W = wavelet((160, 144), "db4", levels=3)
coefficients = W(truth.to(torch.complex64)).real


def keep(coefficients, fraction):
    """Keep the largest coefficients and set the others to zero."""
    smallest = coefficients.abs().flatten().quantile(1 - fraction)
    return coefficients * (coefficients.abs() >= smallest)


pixels = keep(truth, 0.1)
waves = W.adjoint(keep(coefficients, 0.1).to(torch.complex64)).real
assert decibel(waves) > decibel(pixels) + 10
map_of_waves = coefficients[0].abs().sqrt()
panel(
    [map_of_waves * (truth.max() / map_of_waves.quantile(0.998)), pixels[0], waves[0]],
    [
        "wavelet coefficients",
        f"the largest 10 % of the pixels: {decibel(pixels):.1f} dB",
        f"the largest 10 % of the wavelets: {decibel(waves):.1f} dB",
    ],
)

# %% [markdown]
# ## Methods side by side
# Each of these is a line of Python, or `python evaluate.py recon=tv` on the command line. The simulated head consists
# of nearly uniform tissues, which suits total variation. A real head suits it less.

# %%
methods = {
    "zero-filled": ZeroFilled(),
    "CG-SENSE": CGSense(),
    "sparse pixels": L1Image(),
    "sparse wavelets": L1Wavelet(weight=0.002, iterations=100),
    "total variation": TotalVariation(weight=0.002),
}
images = {name: method(measured).image for name, method in methods.items()}
score = {name: decibel(image) for name, image in images.items()}
assert score["total variation"] > score["CG-SENSE"] + 3 > score["zero-filled"] + 5
assert score["total variation"] > score["sparse wavelets"] > score["sparse pixels"] - 0.5
numbers = {n: {"psnr": score[n], "ssim": float(ssim(i.abs(), truth, data_range))} for n, i in images.items()}
chosen = {n: images[n][0] for n in ("zero-filled", "CG-SENSE", "total variation")}
comparison(truth[0], chosen, data_range=float(data_range), numbers=numbers)

# %%
panel(
    [truth[0], *(i[0] for i in images.values())], ["truth", *(f"{n}: {s:.1f} dB" for n, s in score.items())], columns=6
)

# %% [markdown]
# ## It needs artefacts that look like noise
# Compressed sensing works if what undersampling adds is *not* sparse. Columns that are missing smear along one
# direction, points that are missing along two. So with one coil and the same number of samples, a 3D scan with single
# points is recovered much better than a 2D scan with lines.

# %%
single = head_example(17, n_coils=1)
shown, titles = [], []
for name, mask in {"lines": RandomMask([0.08], [4]), "points": PoissonDiscMask([0.08], [4])}.items():
    data = Undersample(mask)(single, RandomState(0)).acquisition
    for method in (ZeroFilled(), TotalVariation(weight=0.003)):
        image = method(data).image.abs()
        titles.append((name, float(psnr(image, single.target, single.data_range))))
        shown.append(image[0])
lines, points = titles[1][1] - titles[0][1], titles[3][1] - titles[2][1]
assert points > lines + 3  # the gain over zero-filling, in dB
labels = [f"{name}, {how}: {db:.1f} dB" for (name, db), how in zip(titles, ["zero-filled", "TV"] * 2, strict=True)]
panel(shown, labels, columns=4)

# %% [markdown]
# ## The weight
# If $\lambda$ is too small, aliasing and noise stay. If it is too large, the image becomes a cartoon. The best value is
# in between, and without the truth nobody knows it. `weight="auto"` finds it from the measurement: it hides some of the
# measured columns, and takes the weight whose image predicts them best.

# %%
weights = [0.0001, 0.0005, 0.002, 0.01, 0.05]
swept = [TotalVariation(weight=w)(measured).image for w in weights]
curve = [decibel(image) for image in swept]
auto = float(TotalVariation().choose_weight(problem))
auto_db = decibel(TotalVariation(weight=auto)(measured).image)
assert max(curve) > curve[0] + 1 and max(curve) > curve[-1] + 3
assert auto_db > max(curve) - 0.5  # nearly as good as the best weight, which only the truth knows
titles = [f"λ = {w:g}: {db:.1f} dB" for w, db in zip(weights, curve, strict=True)]
panel([image[0] for image in swept[::2]], titles[::2])

# %%
figure, axes = plt.subplots(figsize=(6, 2.6), layout="constrained")
axes.semilogx(weights, curve, "o-", label="every weight")
axes.plot(auto, auto_db, "*", ms=14, label=f"auto: λ = {auto:.2g}")
axes.set(xlabel="weight λ", ylabel="PSNR / dB")
axes.legend()
plt.show()

# %% [markdown]
# ## R is minus log p
# Where does such a term come from? From probability. Suppose the noise is Gaussian of standard deviation $\sigma$, and
# images occur with probability $p(x)$. The most probable image given the data minimises
#
# $$\frac{1}{\sigma^2}|A x - y|^2 - \log p(x)$$
#
# So the second term *is* $-\log p(x)$, whatever we put there. Total variation claims that edges follow a Laplace
# distribution, $p \sim e^{-|g|/b}$: many tiny ones, and now and then a large one. Here is the distribution of the
# head's edges with the best Laplace and the best Gaussian.

# %%
steps = truth[0].diff(dim=1).flatten() / scale
laplace, gauss = float(steps.abs().mean()), float(steps.std())
bins = np.linspace(-1.2, 1.2, 81)
middle = (bins[1:] + bins[:-1]) / 2
figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
axes.hist(steps.numpy(), bins, density=True, color="0.8", label="differences of neighbours")
axes.plot(middle, np.exp(-abs(middle) / laplace) / (2 * laplace), label="Laplace")
axes.plot(middle, np.exp(-((middle / gauss) ** 2) / 2) / (gauss * np.sqrt(2 * np.pi)), label="Gaussian")
axes.set(yscale="log", ylim=(1e-3, 30), xlabel="difference", ylabel="density")
axes.legend()
surprise_laplace = float((steps.abs() / laplace).mean()) + np.log(2 * laplace)
surprise_gauss = float((steps / gauss).square().mean() / 2) + np.log(gauss * np.sqrt(2 * np.pi))
assert surprise_laplace < surprise_gauss - 0.5  # nats per pixel: the Laplace explains the edges far better
plt.show()

# %% [markdown]
# Then the weight needs no guess either: multiply the objective by $\sigma^2 / 2$, and $\lambda = \sigma^2 / 2b$. Noise
# level and mean edge of this head give nearly the weight that the held-out columns gave.

# %%
sigma = float(truth[truth > 0.1].mean() / scale) / 50  # head_example has a signal-to-noise ratio of 50
b = float(edges(truth / scale).mean()) / 2  # in a plane, p ~ exp(-|g|/b) has the mean length 2 b
probable = sigma**2 / (2 * b)
print(f"from probability λ = {probable:.4f}, from held-out columns λ = {auto:.4f}")
assert 1 / 4 < probable / auto < 4

# %% [markdown]
# ## R is the length of a message
# Shannon showed in 1948 that the best code spends $-\log_2 p(x)$ bits on a message $x$. So a regulariser asks: how many
# bits does it take to write this image down? A PNG file is such a code, and it predicts pixels from their neighbours,
# much like total variation. Here are four images that fit **the same measurement equally well**: the head, and the head
# plus things that the scanner cannot see. The more is added, the longer the file.


# %%
def kilobytes(image):
    grey = (image.abs()[0] / truth.max() * 255).clamp(0, 255).to(torch.uint8).numpy()
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    return len(file.getvalue()) / 1000


scanner = sense(replace(acquisition, kspace=acquisition.kspace[:, :1], maps=torch.ones_like(acquisition.kspace[:, :1])))
noise = torch.randn(truth.shape, dtype=torch.complex64, generator=random)
hidden = noise - scanner.adjoint(scanner(noise))  # one coil: the columns that were not measured
fits = [truth + amount * hidden for amount in (0, 0.02, 0.05, 0.15)]
lengths = [kilobytes(image) for image in fits]
variations = [float(edges(image).sum()) for image in fits]
assert all((scanner(image) - scanner(fits[0])).abs().max() < 1e-4 for image in fits)  # the same measurement
assert lengths == sorted(lengths) and lengths[-1] > 1.2 * lengths[0]
assert variations == sorted(variations)
panel([i[0] for i in fits], [f"{k:.1f} kB, TV {v:.0f}" for k, v in zip(lengths, variations, strict=True)], columns=4)

# %% [markdown]
# Compressed sensing takes the image with the shortest description among those that fit. A formula can only describe
# images in general. The next chapter learns from examples what heads look like.
