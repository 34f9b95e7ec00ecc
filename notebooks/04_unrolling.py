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
# # Unrolling
#
# Take an algorithm that iterates, stop it after a few steps, and learn what the steps do. That is a variational
# network. This chapter goes there from gradient descent, and looks inside the network that comes with spinwarp.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 72}
import logging

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.random import RandomState

from spinwarp.acquisition import Acquisition
from spinwarp.data.phantom import head_example
from spinwarp.data.undersample import Undersample
from spinwarp.figures import comparison, panel
from spinwarp.masks import EquispacedMask, RandomMask
from spinwarp.metrics import psnr, ssim
from spinwarp.models.loading import load_network
from spinwarp.models.unrolled import UnrolledNet
from spinwarp.operators import finite_difference, sense
from spinwarp.preparation import data_scale, with_maps
from spinwarp.recon import CGSense, NetworkReconstructor, TotalVariation, ZeroFilled

logging.getLogger("spinwarp").setLevel(logging.ERROR)  # no remarks between the pictures

# %% [markdown]
# ## Ten steps of gradient descent
# The chapter *Compressed sensing* minimised $\frac12 |A x - y|^2 + \lambda R(x)$ by gradient descent:
#
# $$x_{k+1} = x_k - \eta \left( A^H (A x_k - y) + \lambda \nabla R(x_k) \right)$$
#
# It took hundreds of steps. Now allow only ten, give every step its own $\eta_k$ and $\lambda_k$, and choose these
# twenty numbers such that the *tenth* image is as good as possible on some training heads. PyTorch differentiates
# through all ten steps.

# %%
D = finite_difference()
log_steps = torch.zeros(10, requires_grad=True)  # eta = 1
log_weights = torch.full((10,), np.log(0.003), requires_grad=True)


def descend(problem):
    """Return the images of ten steps."""
    A, x = sense(problem), sense(problem).adjoint(problem.kspace)
    images, start = [], x
    for eta, weight in zip(log_steps.exp(), log_weights.exp(), strict=True):
        differences = D(x)
        edges = differences / (differences.abs().square().sum(1, keepdim=True) + 1e-4).sqrt()
        x = x - eta * (A.normal(x) - start + weight * D.adjoint(edges))
        images.append(x)
    return images


def small_head(seed):
    """Return a small undersampled head: problem, reference and scale."""
    example = head_example(seed, (80, 72), n_coils=4)
    acquisition = with_maps(
        Undersample(RandomMask([0.08], [4]))(example, RandomState(seed)).acquisition, "low_resolution"
    )
    scale = data_scale(acquisition)
    return Acquisition(acquisition.kspace / scale, acquisition.mask, acquisition.maps), example, scale


def decibel(image, example):
    return float(psnr(image.abs(), example.target, example.data_range))


training, test = [small_head(seed) for seed in range(20, 28)], [small_head(seed) for seed in (13, 17, 12, 2)]
with torch.no_grad():
    before = [[decibel(scale * x, example) for x in descend(problem)] for problem, example, scale in test]
optimizer = torch.optim.Adam([log_steps, log_weights], lr=0.05)
for i in range(200):
    problem, example, scale = training[i % len(training)]
    loss = ((scale * descend(problem)[-1].abs() - example.target) / example.data_range).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
with torch.no_grad():
    after = [[decibel(scale * x, example) for x in descend(problem)] for problem, example, scale in test]

# %% [markdown]
# On heads that it has not seen, the tenth image is better. Some of the learned steps are larger than any theory allows.
# They look bad on the way, and pay off at the end: only the last image counts.

# %%
before, after = np.array(before), np.array(after)
assert (after[:, -1] - before[:, -1]).mean() > 0.5
assert float(log_steps.detach().max().exp()) > 2  # plain gradient descent with such steps diverges
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
left.plot(range(1, 11), before.mean(0), "o-", label="step 1, weight 0.003")
left.plot(range(1, 11), after.mean(0), "o-", label="learned")
left.set(xlabel="step", title="PSNR on four other heads / dB")
left.legend()
right.bar(range(1, 11), log_steps.exp().detach(), color="0.6")
right.axhline(2, color="C3", lw=1)
right.set(xlabel="step", title="learned step sizes, and the limit of theory")
plt.show()

# %% [markdown]
# ## The variational network
# Twenty numbers cannot do much. Hammernik et al. (MRM 2018) learned more: the gradient of $R$ itself. Every step gets a
# small network $f_k$ instead of it, and the whole is trained end to end:
#
# $$x_{k+1} = x_k - \eta_k A^H (A x_k - y) + f_k(x_k)$$
#
# The first term keeps the image true to the measurement, the second makes it look like an image. E2E-VarNet (Sriram et
# al., MICCAI 2020) does the same in k-space and learns the coil sensitivities too (`model=varnet`), MoDL (Aggarwal et
# al., IEEE TMI 2019) solves the first term exactly (`model=modl`).
#
# `pretrained:heads` is a network of this family. It alternates ten times between a data term, solved by a few conjugate
# gradients, and one denoiser. It was trained on simulated scans of real heads and never saw these phantoms.

# %%
network, _ = load_network("pretrained:heads")
network.requires_grad_(False)
example = head_example(17)
measured = Undersample(EquispacedMask([0.08], [4]))(example, RandomState(0)).acquisition
consistent, denoised = [], []  # the images before and after the denoiser of each alternation


def record(_, inputs, output):
    consistent.append(inputs[0][0, 0])
    denoised.append(inputs[0][0, 0] + output[0, 0])


hook = network.regulariser.register_forward_hook(record)
image = network(measured)
hook.remove()
unit = (image.abs().max() / denoised[-1].abs().max()).item()  # the network works in units of its own
assert len(denoised) == 10

# %% [markdown]
# Here is every image on the way. Upper row: after the data term. Lower row: after the denoiser. The denoiser starts
# coarse and ends fine, because it is told a noise level that falls from step to step. At first it takes away more than
# noise. The next data term gives it back.

# %%
shown = (0, 1, 3, 6, 9)
rows = [[unit * images[k].abs() for k in shown] for images in (consistent, denoised)]
scores = [[decibel(i[None], example) for i in row] for row in rows]
titles = [f"step {k + 1}, data: {db:.1f} dB" for k, db in zip(shown, scores[0], strict=True)]
titles += [f"step {k + 1}, denoised: {db:.1f} dB" for k, db in zip(shown, scores[1], strict=True)]
assert scores[1][-1] > scores[1][0] + 5 and scores[1][0] < scores[0][0] - 1
panel([i.clamp_max(1.0) for i in rows[0] + rows[1]], titles, columns=5)

# %%
curves = {
    "after the data term": [decibel(unit * i.abs()[None], example) for i in consistent],
    "after the denoiser": [decibel(unit * i.abs()[None], example) for i in denoised],
}
progress = torch.arange(10) / 9
level = 0.7 * (0.02 / 0.7) ** progress * network.log_level.exp()  # for a scan of little noise
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
for name, curve in curves.items():
    left.plot(range(1, 11), curve, "o-", label=name)
left.set(xlabel="alternation", title="PSNR / dB")
left.legend()
right.semilogy(range(1, 11), level, "o-", label="noise level that the denoiser is told")
right.plot(range(1, 10), network.momentum.abs(), "s-", label="momentum")
right.set(xlabel="alternation", title="what it learned about its steps")
right.legend()
assert level[0] > 5 * level[-1]
assert curves["after the denoiser"][-1] > max(curves["after the denoiser"]) - 0.5  # the last steps change little
plt.show()

# %% [markdown]
# ## Neither half does it alone
# Without the denoiser, the data term is CG-SENSE: it amplifies noise. Without the data term, the denoiser polishes the
# aliasing, which it takes for anatomy. In turns they get far.

# %%
prior, _ = load_network("pretrained:heads_score")  # the denoiser from which the training started
zero_filled = ZeroFilled()(measured).image
rms = zero_filled.abs().square().mean().sqrt()
with torch.no_grad():
    polished = rms * prior(zero_filled / rms, torch.tensor([0.2]))
images = {
    "zero-filled": zero_filled,
    "denoiser alone": polished,
    "data term alone": CGSense()(measured).image,
    "both": image,
}
numbers = {
    name: {"psnr": decibel(i, example), "ssim": float(ssim(i.abs(), example.target, example.data_range))}
    for name, i in images.items()
}
assert numbers["both"]["psnr"] > max(numbers[n]["psnr"] for n in ("denoiser alone", "data term alone")) + 5
titles = [f"{name}: {numbers[name]['psnr']:.1f} dB" for name in images]
panel([example.target[0], *(i[0] for i in images.values())], ["truth", *titles], columns=5)

# %% [markdown]
# ## What training end to end added
# A denoiser that was trained on noise can be plugged into the ten alternations as it is (plug and play, Venkatakrishnan
# et al. 2013). Then no weight has ever seen a mask or a coil. Training all steps together, from this start, teaches it
# what undersampling does to images, and how far to trust the data in each step.

# %%
torch.manual_seed(0)
plug_and_play = UnrolledNet(lambda: load_network("pretrained:heads_score")[0].network, smooth_phase=True)
methods = {
    "total variation": TotalVariation(weight=0.002),
    "plug and play": NetworkReconstructor(plug_and_play),
    "end to end": NetworkReconstructor(network),
}
heads = {4: EquispacedMask([0.08], [4]), 8: EquispacedMask([0.04], [8])}
shown, titles, table = [], [], {}
for R, mask in heads.items():
    data = Undersample(mask)(example, RandomState(0)).acquisition
    for name, method in methods.items():
        result = method(data).image
        table[R, name] = decibel(result, example)
        shown.append(result[0])
        titles.append(f"{R}x, {name}: {table[R, name]:.1f} dB")
assert table[4, "end to end"] > table[4, "plug and play"] + 1.5 > table[4, "total variation"] + 3
assert table[8, "end to end"] > max(table[8, "plug and play"], table[8, "total variation"]) + 2
assert table[8, "end to end"] < table[4, "end to end"] - 10
panel(shown, titles)

# %% [markdown]
# Eight times faster with six coils is hard on this head: the network's picture is clean, and still not to be trusted in
# its details. It is 3 dB above total variation here and 3 to 10 dB on the next five heads.
#
# ## Coil sensitivities
# All of this needs the sensitivities of the coils, and they come from the same scan, from its dense centre. That is why
# E2E-VarNet learns to estimate them. The network here computes them by ESPIRiT (Uecker et al., MRM 2014). How much they
# matter shows with total variation and twelve coils: the only difference is the maps. Upper row: the low-resolution
# images of the coils, divided by their sum. Lower row: ESPIRiT, which is smooth and knows where the head ends.

# %%
other = head_example(17, n_coils=12)
data = Undersample(EquispacedMask([0.08], [4]))(other, RandomState(0)).acquisition
maps = {name: with_maps(data, name) for name in ("low_resolution", "espirit")}
results = {name: TotalVariation(weight=0.002, maps="given")(acquisition).image for name, acquisition in maps.items()}
score = {name: decibel(i, other) for name, i in results.items()}
assert score["espirit"] > score["low_resolution"] + 0.7
pictures, titles = [], []
for name, acquisition in maps.items():
    pictures += [acquisition.maps[0, 0], acquisition.maps[0, 3], results[name][0].abs() / other.data_range]
    titles += [f"{name}: coil 1", "coil 4", f"TV: {score[name]:.1f} dB"]
panel(pictures, titles)

# %% [markdown]
# ## Before and after
# The whole way in one picture: what the scanner gives at four times the speed, what a formula makes of it, and what a
# network makes of it. The network has the smaller error. Its SSIM is lower, because SSIM counts the noise of the air
# that the network takes away; the chapter *What SSIM sees and misses* tells why.

# %%
final = {"zero-filled": zero_filled, "total variation": methods["total variation"](measured).image, "end to end": image}
numbers = {
    name: {"psnr": decibel(i, example), "ssim": float(ssim(i.abs(), example.target, example.data_range))}
    for name, i in final.items()
}
assert numbers["end to end"]["psnr"] > numbers["total variation"]["psnr"] + 1 > numbers["zero-filled"]["psnr"] + 8
assert numbers["end to end"]["ssim"] < numbers["total variation"]["ssim"]
comparison(
    example.target[0], {n: i[0] for n, i in final.items()}, data_range=float(example.data_range), numbers=numbers
)
