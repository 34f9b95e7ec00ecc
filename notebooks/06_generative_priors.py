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
# # Generative priors
#
# Learn what heads look like from whole images alone, without any scanner, and use that knowledge for whatever the
# scanner measures. This chapter does it with a generator $G(z)$ and with a score model, and then tries both on another
# anatomy.
#
# All images are simulated.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 72}
import logging
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.random import RandomState

from spinwarp.acquisition import Acquisition
from spinwarp.data.phantom import head_example
from spinwarp.data.simulation import acquire, loop_coil_maps, smooth_field, smooth_phase
from spinwarp.figures import comparison, panel
from spinwarp.fourier import fftc
from spinwarp.masks import RandomMask
from spinwarp.metrics import psnr
from spinwarp.models.generator import ImageGenerator
from spinwarp.models.loading import load_network
from spinwarp.recon import TotalVariation, ZeroFilled
from spinwarp.recon.latent_fit import fit_latent
from spinwarp.recon.posterior import Posterior
from spinwarp.samplers import ChainNoise, chain_generators, geometric, karras, pula
from spinwarp.samplers.unconditional import unconditional

logging.getLogger("spinwarp").setLevel(logging.ERROR)  # no remarks between the pictures

# %% [markdown]
# ## A generator
# A generator makes an image from a few random numbers $z$. The simplest one is linear: the mean of many heads, plus
# their principal components, each times one number of $z$. A VAE or a GAN bends this plane (`model=vae`, `model=gan`),
# but the idea is the same (Bora et al., ICML 2017). Ours learns from 240 small heads and their mirror images.

# %%
shape = (48, 40)
heads = torch.cat([head_example(seed, shape, n_coils=1, snr=1e6).target for seed in range(1000, 1240)])
heads = torch.cat([heads, heads.flip(-1)])
heads = heads / heads.square().mean((1, 2), keepdim=True).sqrt()
mean = heads.mean(0)
flat = (heads - mean).flatten(1)
variances, components = torch.linalg.eigh(flat.T @ flat / len(flat))
variances, components = variances.flip(0).clamp_min(0), components.flip(1)  # the largest first


class LinearGenerator(ImageGenerator):
    """G(z) = mean + sum of z_i times the i-th component; with as many components as pixels it can make any image."""

    def __init__(self, m):
        super().__init__(shape)
        scale = (variances[:m] + 1e-3 * variances.mean()).sqrt()
        self.basis = (components[:, :m] * scale).T.view(m, *shape)

    def latent_shape(self, size=None):  # noqa: ARG002
        return (len(self.basis),)

    def generate(self, z, size=None):  # noqa: ARG002
        return (mean + torch.einsum("bm,mhw->bhw", z, self.basis)).to(torch.complex64)


random = torch.Generator().manual_seed(1)
made = [LinearGenerator(m).generate(torch.randn(2, m, generator=random)).real.clamp_min(0) for m in (10, 100)]
panel(
    [heads[0], heads[1], *made[0], *made[1]],
    ["a training head", "another", "G(z), 10 numbers", "G(z), 10 numbers", "G(z), 100 numbers", "G(z), 100 numbers"],
    columns=6,
)

# %% [markdown]
# ## Few numbers: m much smaller than n
# A head of 48 x 40 has $n = 1920$ pixels. Undersampling leaves 480 measured numbers. If $G$ has only $m$ unknowns,
# there are more equations than unknowns, and we look for the $z$ that explains the measurement:
#
# $$\hat z = \arg\min_z |A\, G(z) - y|^2, \qquad \hat x = G(\hat z)$$
#
# With too few numbers $G$ cannot make this head. From some number on, more hardly change anything: the late components
# are weak.

# %%
truth = head_example(13, shape, n_coils=1, snr=1e6).target
truth = truth / truth.square().mean().sqrt()
mask = RandomMask([0.1], [4])(shape, RandomState(3))[0].view(1, 1, 1, -1)
noise = 0.1 * torch.randn(1, 1, *shape, dtype=torch.complex64, generator=random)


def measure(image):
    kspace = (fftc(image[:, None].to(torch.complex64)) + noise) * mask
    return Acquisition(kspace, mask, maps=torch.ones_like(kspace))


def decibel(image, reference=truth):
    return float(psnr(image.abs(), reference, reference.max()))


data = measure(truth)
fitted = {}
for m in (5, 20, 80, 240, 480):
    G = LinearGenerator(m)
    fitted[m] = fit_latent(G, data, torch.zeros(1, m), iterations=60, patience=None).image
curve = {m: decibel(image) for m, image in fitted.items()}
zero_filled = ZeroFilled()(data).image
peak = max(curve, key=curve.get)
assert curve[peak] > decibel(zero_filled) + 1
assert curve[5] < curve[peak] - 3 and curve[480] > curve[peak] - 1.5
titles = [f"m = {m}: {curve[m]:.1f} dB" for m in (5, 80, 480)]
panel(
    [truth[0], zero_filled[0], *(fitted[m][0] for m in (5, 80, 480))],
    ["truth", f"zero-filled: {decibel(zero_filled):.1f} dB", *titles],
    columns=5,
)

# %% [markdown]
# ## As many numbers as pixels: m = n
# Now $G$ can make *every* image, as a flow can (Asim et al., ICML 2020). Then any image has some $z$, and fitting the
# measurement seems to choose nothing. It works nevertheless, with two precautions. Start at $z = 0$, the most probable
# latent. And stop early: the probable directions are fitted first, the improbable ones and the noise last. Hiding a
# fifth of the measured columns tells when to stop.

# %%
full, start = LinearGenerator(1920), torch.zeros(1, 1920)
errors, images = [], {}


def note(i, z):
    image = full.generate(z)
    errors.append(decibel(image))
    if i in (0, 3, 100):
        images[f"iteration {i}: {errors[-1]:.1f} dB"] = image[0]


fit_latent(full, data, start, iterations=100, patience=None, trace=note)
stopped = fit_latent(full, data, start, iterations=100, patience=10).image
assert max(errors) > errors[-1] + 0.7  # it is best before the end
assert decibel(stopped) > errors[-1] and decibel(stopped) > decibel(zero_filled) + 3
figure, axes = plt.subplots(figsize=(6, 2.6), layout="constrained")
axes.plot(errors, label="all columns, to the end")
axes.axhline(decibel(stopped), color="C1", ls="--", label="stopped by hidden columns")
axes.axhline(decibel(zero_filled), color="0.6", label="zero-filled")
axes.set(xlabel="iteration", ylabel="PSNR / dB")
axes.legend()
plt.show()

# %%
images[f"stopped: {decibel(stopped):.1f} dB"] = stopped[0]
panel([truth[0], *images.values()], ["truth", *images], columns=5)

# %% [markdown]
# ## Score models
# A generator says what images *are*. A **score model** only says in which direction an image gets more probable. It is
# a denoiser $D(x, \sigma)$: given an image with noise of strength $\sigma$, it returns the mean of all clean images
# that could be below, and its answer points uphill (Tweedie's formula):
#
# $$\nabla \log p_\sigma(x) \propto \frac{D(x, \sigma) - x}{\sigma^2}$$
#
# `pretrained:heads_score` learned from magnitudes of real heads. It has never seen these phantoms.

# %%
prior, _ = load_network("pretrained:heads_score")
prior.requires_grad_(False)
example = head_example(17)
clean = (example.target / example.target.square().mean().sqrt()).to(torch.complex64)
noisy, denoised, gains = [], [], []
for sigma in (0.3, 0.7, 1.5):
    x = clean + sigma * torch.randn(clean.shape, dtype=torch.complex64, generator=random)
    noisy.append(x[0])
    denoised.append(prior(x, torch.tensor([sigma]))[0])
    gains.append(decibel(denoised[-1][None], clean.abs()) - decibel(x, clean.abs()))
assert min(gains) > 4
limit = float(clean.abs().max())
panel(
    [clean[0], *(n.abs().clamp_max(limit) for n in noisy), clean[0], *denoised],
    ["clean", "σ = 0.3", "σ = 0.7", "σ = 1.5", "clean", *(f"denoised, {g:.0f} dB better" for g in gains)],
    columns=4,
)

# %% [markdown]
# ## Samples of the prior alone
# Start from noise and denoise step by step, and an image appears from nothing (Karras et al., 2022). This prior is
# small: it was trained for an hour on one core, on patches. Its
# samples are patches: smooth regions with soft or sharp borders, unlike noise, but no head as a whole. It knows heads
# from near, not from far. That is enough to reconstruct, because the measurement says what the head looks like from
# far.

# %%
samples = unconditional(prior, ChainNoise(chain_generators([0, 1, 2])), (96, 96), schedule=karras(2.0, 0.01, 20)).abs()
grey = torch.randn(96, 96, dtype=torch.complex64, generator=random).abs()


def likeness(p):
    """Return the correlation of horizontal neighbours."""
    return float(torch.corrcoef(torch.stack([p[:, 1:].flatten(), p[:, :-1].flatten()]))[0, 1])


assert min(map(likeness, samples)) > 0.6 > abs(likeness(grey)) + 0.5
panel(
    [*(s / s.quantile(0.998) for s in samples), grey / grey.max()],
    ["sample 1", "sample 2", "sample 3", "noise"],
    columns=4,
)

# %% [markdown]
# ## Another anatomy
# What do the two priors do with something that is no head? Here is a crude abdomen: body wall, liver, kidneys, spine.
# First the generator. It is given the *complete* abdomen, nothing is missing, and looks for the best $G(z)$. It can
# only combine heads.


# %%
def abdomen(shape):
    y, x = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    image = np.zeros(shape, np.float32)
    organs = [  # centre, radii, brightness
        ((0, 0), (0.72, 0.92), 0.9), ((0, 0), (0.64, 0.85), 0.35), ((-0.1, -0.4), (0.42, 0.38), 0.6),
        ((0.0, 0.5), (0.3, 0.22), 0.5), ((0.25, 0.4), (0.18, 0.13), 0.8), ((0.28, -0.33), (0.18, 0.13), 0.8),
        ((0.42, 0.03), (0.14, 0.12), 0.55), ((0.15, 0.03), (0.06, 0.05), 1.0), ((-0.3, 0.15), (0.13, 0.2), 0.2),
    ]  # fmt: skip
    for (cy, cx), (ry, rx), value in organs:
        inside = np.clip(0.5 + (1 - np.hypot((y - cy) / ry, (x - cx) / rx)) * min(shape) / 8, 0, 1)
        image = image * (1 - inside) + value * inside
    return image * (1 + 0.03 * smooth_field(shape, 1.5, RandomState(0)))


body = torch.from_numpy(abdomen(shape)).float()[None]
body = body / body.square().mean().sqrt()
everything = torch.ones(1, 1, 1, shape[1], dtype=torch.bool)
best = {}
for name, image in {"head": truth, "abdomen": body}.items():
    kspace = fftc(image[:, None].to(torch.complex64))
    whole = Acquisition(kspace, everything, maps=torch.ones_like(kspace))
    best[name] = fit_latent(LinearGenerator(40), whole, torch.zeros(1, 40), iterations=60, patience=None).image
score = {"head": decibel(best["head"]), "abdomen": decibel(best["abdomen"], body)}
assert score["head"] > score["abdomen"] + 2
panel(
    [truth[0], best["head"][0], body[0], best["abdomen"][0]],
    ["head", f"best G(z): {score['head']:.1f} dB", "abdomen", f"best G(z): {score['abdomen']:.1f} dB"],
    columns=4,
)

# %% [markdown]
# Now the score model, with six coils and a third of the columns. Draws from the posterior combine it with the
# measurement (the chapter *How sure?* explains them). The prior was trained on heads alone, and the abdomen comes out
# well: edges and smooth organs are not special to heads. Jalal et al. (NeurIPS 2021) found the same from brains to
# knees and abdomens.

# %%
large, rng = (96, 84), RandomState(4)
image = abdomen(large)
maps = loop_coil_maps(6, large, rng)
kspace = torch.from_numpy(acquire(image * np.exp(1j * smooth_phase(large, rng)), maps, 0.01, rng))[None]
lines = RandomMask([0.1], [3])(large, RandomState(0))[0].view(1, 1, 1, -1)
scan = Acquisition(kspace * lines, lines)
reference = torch.from_numpy(image)[None]
sampler = partial(pula, schedule=geometric(2.0, 0.01, 20))
methods = {
    "zero-filled": ZeroFilled(),
    "total variation": TotalVariation(0.002),
    "score prior of heads": Posterior("pretrained:heads_score", sampler, n_samples=6),
}
images = {n: method(scan, generator=torch.Generator().manual_seed(0)).image[0] for n, method in methods.items()}
numbers = {n: {"psnr": decibel(i[None], reference)} for n, i in images.items()}
assert numbers["score prior of heads"]["psnr"] > numbers["zero-filled"]["psnr"] + 4
comparison(reference[0], images, data_range=float(reference.max()), numbers=numbers)

# %% [markdown]
# That is the strength of a score model, and a warning as well. It generalises in texture and edges, but it still
# prefers what it has seen, and its draws do not say when they leave its experience.
