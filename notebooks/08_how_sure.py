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
# # How sure?
#
# A reconstruction is a guess, and a good method says how sure it is. This chapter draws several possible images, looks
# at where they differ, checks that against the truth, and corrects it.
#
# All heads are simulated, with six coils.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 72}
import logging
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.random import RandomState

from spinwarp.data.phantom import head_example
from spinwarp.data.undersample import Undersample
from spinwarp.figures import comparison, panel
from spinwarp.fourier import fftc
from spinwarp.masks import RandomMask
from spinwarp.metrics import psnr
from spinwarp.operators import wavelet
from spinwarp.preparation import with_maps
from spinwarp.recon import TotalVariation
from spinwarp.recon.conformal import Conformal
from spinwarp.recon.posterior import Posterior
from spinwarp.samplers import geometric, pula
from spinwarp.uncertainty import (
    FACTORS,
    adapted_density,
    conformal_factor,
    foreground,
    gaussian_factor,
    local_intensity,
    sure,
    white_sure,
)
from spinwarp.uncertainty.measures import coverage, error_ratio, sparsification

logging.getLogger("spinwarp").setLevel(logging.ERROR)  # no remarks between the pictures

# %% [markdown]
# ## Several possible images
# A score model (the chapter *Generative priors*) knows what images of heads look like. Together with the measurement it
# gives a probability to every image, the **posterior** $p(x \mid y)$. `Posterior` draws from it. Each draw fits the
# measurement, and each looks like a head, but they are not the same.

# %%
mask = RandomMask([0.08], [4])
example = head_example(17)
target, data_range = example.target, example.data_range
measured = Undersample(mask)(example, RandomState(17)).acquisition
sampler = partial(pula, schedule=geometric(2.0, 0.01, 20))  # twenty noise levels
posterior = Posterior("pretrained:heads_score", sampler, n_samples=8)
result = posterior(measured, generator=torch.Generator().manual_seed(0))
draws = result.samples[:, 0]  # (8, h, w)


def decibel(image):
    return float(psnr(image.abs(), target, data_range))


zoom = (slice(50, 105), slice(25, 80))
panel([target[0], *draws[:3].abs()], ["truth", "draw 1", "draw 2", "draw 3"], columns=4)

# %%
panel([target[0][zoom], *(draw.abs()[zoom] for draw in draws[:3])], ["truth", "draw 1", "draw 2", "draw 3"], columns=4)

# %% [markdown]
# ## Mean and deviation
# What all draws agree on, the measurement and the prior decide. Where they differ, nobody knows. So the **mean** is a
# better image than any draw: averaging removes what was made up. And the **standard deviation** of the draws in each
# pixel is a map of doubt.

# %%
each = [decibel(draw[None]) for draw in draws]
mean = decibel(result.image)
assert mean > max(each) + 0.5
images = {
    "one draw": draws[0],
    "mean of 8 draws": result.image[0],
    "total variation": TotalVariation()(measured).image[0],
}
numbers = {name: {"psnr": decibel(image[None])} for name, image in images.items()}
std = {"mean of 8 draws": result.std[0]}
comparison(target[0], images, data_range=float(data_range), std=std, numbers=numbers)

# %% [markdown]
# ## Does it know where it is wrong?
# Leave out the pixels of largest deviation and see whether the error of the rest falls. The best possible curve, the
# oracle, leaves out the largest errors themselves. As a yardstick we take a map that knows nothing but brightness:
# bright pixels have larger errors. The deviation of the draws is better than chance. Here it is not better than
# brightness, and both are far from the oracle.

# %%
head = foreground(target, data_range)
error = (result.image.abs() - target)[head].numpy()
deviation = result.std[head].numpy()
brightness = local_intensity(result.image.abs())[head].numpy()
curves = {"deviation of the draws": deviation, "brightness alone": brightness, "oracle": abs(error)}
curves = {name: sparsification(error, by) for name, by in curves.items()}
figure, axes = plt.subplots(figsize=(5.5, 3), layout="constrained")
for name, curve in curves.items():
    axes.plot(np.arange(20) * 5, curve, label=name)
axes.set(xlabel="pixels left out / %", ylabel="error of the rest", ylim=(0, 1.15))
axes.legend()
assert curves["brightness alone"][10] - 0.05 < curves["deviation of the draws"][10] < 0.92
assert curves["oracle"][10] < 0.5
plt.show()

# %% [markdown]
# ## Is it large enough?
# If the error were Gaussian with this deviation, 90 % of the pixels would lie within 1.645 deviations. Count them.
# Fewer do: the deviation is too small. Eight draws are few, the sampler is short, and the prior was learned from other
# heads. In the picture, pixels outside the interval are white.

# %%
levels = np.linspace(0.05, 0.95, 19)
ratio = error_ratio(error, deviation)
observed = coverage(ratio, [gaussian_factor(level) for level in levels])
at_90 = float(coverage(ratio, [gaussian_factor(0.9)])[0])
assert 0.5 < at_90 < 0.87
outside = ((result.image.abs() - target).abs() > gaussian_factor(0.9) * result.std) & head
figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3), layout="constrained")
left.plot([0, 1], [0, 1], color="0.7")
left.plot(levels, observed, "o-", ms=3)
left.set(xlabel="promised", ylabel="found", title=f"90 % promised, {at_90:.0%} found", aspect="equal")
right.imshow(outside[0], cmap="gray")
right.set(title="outside the 90 % interval", xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## Conformal intervals
# A deviation that is too small by a factor can be repaired by a factor. **Conformal risk control** (Angelopoulos et
# al., ICLR 2024) finds it on calibration scans whose truth is known, and promises: in a *new* scan like those, at least
# the given fraction of pixels is expected inside. It assumes nothing about the method or the errors, only that the new
# scan could as well have been one of the calibration scans.
#
# Here are eight small heads for calibration and four others for the test, at a level of 80 %.

# %%
level = 0.8
quick = Posterior("pretrained:heads_score", partial(pula, schedule=geometric(2.0, 0.01, 16)), n_samples=6)


def ratios(method, seed):
    """Return error over deviation in the foreground of one small head."""
    scan = head_example(seed, (96, 84))
    data = Undersample(RandomMask([0.1], [4]))(scan, RandomState(seed)).acquisition
    answer = method(data, generator=torch.Generator().manual_seed(seed))
    where = foreground(scan.target, scan.data_range)
    return error_ratio((answer.image.abs() - scan.target)[where].numpy(), answer.std[where].numpy())


exceedances = [1 - coverage(ratios(quick, seed), FACTORS) for seed in range(30, 38)]
factor = conformal_factor(FACTORS, exceedances, level)
scaled = Conformal(quick, factor, level)  # a method like the other, with larger deviations
test = range(40, 44)
before = [float(coverage(ratios(quick, seed), [gaussian_factor(level)])[0]) for seed in test]
after = [float(coverage(ratios(scaled, seed), [gaussian_factor(level)])[0]) for seed in test]
print(f"the deviations grow by a factor of {factor / gaussian_factor(level):.2f}")
assert factor > gaussian_factor(level)  # they were too small
assert np.mean(before) < 0.7 and np.mean(after) > 0.8
figure, axes = plt.subplots(figsize=(5.5, 2.6), layout="constrained")
axes.bar(np.arange(4) - 0.2, before, 0.38, label="as predicted")
axes.bar(np.arange(4) + 0.2, after, 0.38, label="conformal")
axes.axhline(level, color="0.3", lw=1)
axes.set(xticks=range(4), xticklabels=[f"head {i + 1}" for i in range(4)], ylabel="coverage", ylim=(0, 1))
figure.legend(loc="outside upper center", ncols=2)  # beside the bars, not on them
plt.show()

# %% [markdown]
# With only eight scans the method is cautious and covers more than it promises, because a ninth could be worse than all
# of them. The promise is one about the average of scans: one head may have less, another more. And it ends where the
# scans change: another scanner, another anatomy, another mask need their own calibration.
#
# ## An error estimate without any truth
# Stein (1981) found that one can estimate the error of a denoiser *without knowing the clean image*, if the noise is
# Gaussian of known standard deviation $\sigma$. For a denoiser $h$ and $N$ pixels,
#
# $$\mathrm{SURE} = |h(\tilde x) - \tilde x|^2 - N \sigma^2 + 2 \sigma^2\, \mathrm{div}\, h(\tilde x)$$
#
# The divergence asks: how much does each pixel of the result follow the same pixel of the input? Push the input a
# little at random and look (Ramani, Blu and Unser, 2008). Here a noisy head is denoised by shrinking its wavelets. SURE
# finds the best threshold without the truth.

# %%
clean = head_example(13, n_coils=1, snr=1e6).target
sigma = 0.1
noisy = clean + sigma * torch.randn(clean.shape, generator=torch.manual_seed(0))
W = wavelet((160, 144), "db4")


def shrink(image, threshold):
    waves = W(image.to(torch.complex64)).real
    waves = waves.sign() * (waves.abs() - threshold).clamp_min(0)
    return W.adjoint(waves.to(torch.complex64)).real


thresholds = [0.02, 0.05, 0.08, 0.12, 0.16, 0.2, 0.3, 0.4]
true = [float((shrink(noisy, t) - clean).square().mean()) for t in thresholds]
probe = torch.Generator().manual_seed(1)
estimated = [
    float(white_sure(lambda v, t=t: shrink(v, t), noisy, sigma, n_probes=2, generator=probe).mean()) for t in thresholds
]
best = thresholds[int(np.argmin(estimated))]
assert np.allclose(estimated, true, rtol=0.15)
assert true[int(np.argmin(estimated))] < 1.1 * min(true)
figure, axes = plt.subplots(figsize=(5.5, 2.6), layout="constrained")
axes.plot(thresholds, true, "o-", label="true error")
axes.plot(thresholds, estimated, "x--", label="SURE")
axes.set(xlabel="threshold", ylabel="mean squared error", ylim=(0, None))
axes.legend()
plt.show()

# %%
panel([clean[0], noisy[0], shrink(noisy, best)[0]], ["clean", "noisy", f"threshold {best:g}, chosen by SURE"])

# %% [markdown]
# ## The same for undersampled data
# If each column was measured at random with a known probability, dividing by it gives an unbiased image, and the
# missing columns act like noise (Millard et al., 2022). SURE then asks: how does the image change when measured columns
# are left out? This is much less exact. It can be wrong by a factor of two, but it puts the weights of total variation
# in the right order. On the command line it is `uncertainty=sure`, for any method.

# %%
scan = head_example(13, (96, 84))
data = with_maps(Undersample(mask)(scan, RandomState(14)).acquisition, "espirit")
density = adapted_density(data, mask.density((96, 84)))
weights, true, estimated = [0.0003, 0.003, 0.03, 0.1], [], []
for weight in weights:
    method = TotalVariation(weight, maps="given")
    risk = sure(lambda acquisition, method=method: method(acquisition).image, data, density, n_probes=12)
    true.append(float((fftc(data.maps * risk.image[:, None]) - scan.acquisition.kspace).abs().square().sum()))
    estimated.append(float(risk.error))
assert np.argmin(true) == np.argmin(estimated) == 1
assert all(1 / 4 < e / t < 4 for e, t in zip(estimated, true, strict=True))
figure, axes = plt.subplots(figsize=(5.5, 2.6), layout="constrained")
axes.loglog(weights, true, "o-", label="true squared error")
axes.loglog(weights, estimated, "x--", label="SURE, without the truth")
axes.set(xlabel="weight of total variation", ylabel="squared error")
axes.legend()
plt.show()

# %% [markdown]
# Three warnings remain. A small deviation is no proof: a prior that has never seen a tumour may be sure that there is
# none. Coverage counts pixels, and a lesion has few. And all of this must be measured again for every new kind of data;
# `evaluate.py` does it for every method that predicts a deviation.
