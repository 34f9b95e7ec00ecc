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
# # What SSIM sees and misses
#
# Almost every paper on MRI reconstruction reports the structural similarity, SSIM. This chapter builds it by hand, and
# shows three things that it gets wrong, a lost lesion among them.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 72}
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from scipy.ndimage import gaussian_filter

from spinwarp.acquisition import Acquisition
from spinwarp.coils import root_sum_of_squares
from spinwarp.data.phantom import head_example
from spinwarp.data.undersample import Undersample
from spinwarp.figures import panel
from spinwarp.fourier import fftc, ifftc
from spinwarp.masks import EquispacedMask
from spinwarp.metrics import foreground, psnr, ssim
from spinwarp.metrics.functional import ssim_in, ssim_map
from spinwarp.recon import CGSense, TotalVariation, ZeroFilled
from spinwarp.recon.checkpoint import Checkpoint

# %% [markdown]
# ## Three comparisons in a small window
# SSIM (Wang et al., IEEE TIP 2004) slides a window of 7x7 pixels over image $x$ and reference $y$. In each window it
# compares the mean (**luminance**), the standard deviation (**contrast**) and the correlation (**structure**):
#
# $$\mathrm{SSIM} = \underbrace{\frac{2 \mu_x \mu_y + c_1}{\mu_x^2 + \mu_y^2 + c_1}}_{\text{luminance}} \cdot
# \underbrace{\frac{2 \sigma_x \sigma_y + c_2}{\sigma_x^2 + \sigma_y^2 + c_2}}_{\text{contrast}} \cdot
# \underbrace{\frac{\sigma_{xy} + c_2 / 2}{\sigma_x \sigma_y + c_2 / 2}}_{\text{structure}}$$
#
# The small $c_1 = (0.01 L)^2$ and $c_2 = (0.03 L)^2$ depend on the **data range** $L$, the largest value of the
# reference. The score of an image is the mean over all windows, at most 1.

# %%
example = head_example(13)
target, L = example.target, example.data_range
measured = Undersample(EquispacedMask([0.08], [4]))(example, RandomState(0)).acquisition
image = ZeroFilled()(measured).image.abs()


def mean(a):
    return F.avg_pool2d(a[:, None], 7, stride=1)[:, 0]


unbiased = 49 / 48  # the sample variance of 49 pixels
variance_x = (mean(image**2) - mean(image) ** 2) * unbiased
variance_y = (mean(target**2) - mean(target) ** 2) * unbiased
covariance = (mean(image * target) - mean(image) * mean(target)) * unbiased
product = (variance_x * variance_y).clamp_min(0).sqrt()
c1, c2 = (0.01 * L) ** 2, (0.03 * L) ** 2
luminance = (2 * mean(image) * mean(target) + c1) / (mean(image) ** 2 + mean(target) ** 2 + c1)
contrast = (2 * product + c2) / (variance_x + variance_y + c2)
structure = (covariance + c2 / 2) / (product + c2 / 2)
by_hand = luminance * contrast * structure
assert torch.allclose(by_hand, ssim_map(image, target, L), atol=1e-3)

panel([target[0], image[0]], ["reference", f"zero-filled: SSIM {float(ssim(image, target, L)):.2f}"], columns=2)

# %% [markdown]
# The zero-filled image has the right brightness almost everywhere inside the head, but not the right structure: it is
# blurred. White is one, black is zero.

# %%
head = foreground(target, L)[0, 3:-3, 3:-3]  # where the reference is not air
assert luminance[0][head].mean() > structure[0][head].mean() + 0.1
maps = {"SSIM": by_hand, "luminance": luminance, "contrast": contrast, "structure": structure}
panel([m[0].clamp_min(0) for m in maps.values()], list(maps), columns=4)

# %% [markdown]
# ## It sees structure, not error
# These five images are all **equally far** from the reference: their mean squared error, and so their PSNR, is the
# same. SSIM rates them very differently. A brighter head is almost perfect to it, noise is bad, and it looks at every
# window alike: most of the damage of the noise is in the air.

# %%
random = torch.Generator().manual_seed(0)
inside = foreground(target, L)
errors = {
    "brighter": inside.float(),
    "more contrast": inside * (target - target[inside].mean()),
    "shifted": target.roll(1, -1) - target,
    "blurred": torch.from_numpy(gaussian_filter(target.numpy(), (0, 2, 2))) - target,
    "noisy": torch.randn(target.shape, generator=random),
}
power = 0.001 * L**2
distorted = {name: target + e * (power / e.square().mean()).sqrt() for name, e in errors.items()}
scores = {name: float(ssim(i, target, L)) for name, i in distorted.items()}
assert all(abs(float(psnr(i, target, L)) - 30) < 0.01 for i in distorted.values())
lost = 1 - ssim_map(distorted["noisy"], target, L)[0]
assert lost[~head].sum() > lost[head].sum()  # most of what the noise costs is in the air
assert scores["brighter"] > 0.95 and scores["noisy"] < scores["blurred"] - 0.1
panel([i[0] for i in distorted.values()], [f"{n}: 30 dB, SSIM {s:.2f}" for n, s in scores.items()], columns=5)

# %% [markdown]
# ## It wants the noise of the reference
# The reference of a real scan is noisy, in the air too. A simulation can do what no scanner can: show the same head
# without noise. That **perfect image** gets a lower score than a blurred copy of the noisy reference.

# %%
noisy = head_example(13, snr=15)
perfect = head_example(13, snr=1e6).target  # the same head
reference, L_noisy = noisy.target, noisy.data_range
copy = torch.from_numpy(gaussian_filter(reference.numpy(), (0, 0.6, 0.6)))
score = {"the head without noise": perfect, "a blurred copy of the reference": copy}
score = {name: (i, float(ssim(i, reference, L_noisy))) for name, i in score.items()}
values = [s for _, s in score.values()]
assert values[0] < 0.75 < 0.85 < values[1]
titles = ["the noisy reference", *(f"{name}: SSIM {s:.2f}" for name, (_, s) in score.items())]
panel([reference[0], *(i[0] for i, _ in score.values())], titles)

# %% [markdown]
# A network that is trained on SSIM learns this: it saves no effort on the air. So spinwarp also reports SSIM over the
# foreground, `ssim_foreground`, where the reference is brighter than 5 % of its maximum.

# %% [markdown]
# ## It depends on conventions
# The same two images, five numbers. The data range may be the maximum of the slice or of the whole volume, whose
# brightest slice may be twice as bright. The image may be cropped or not, the air may count or not. Numbers of two
# papers can only be compared if all of this is equal. spinwarp follows fastMRI, and writes the protocol beside the
# results.

# %%
tv = TotalVariation(weight=0.002)(measured).image.abs()
total, pixels = ssim_in(foreground(target, L), ssim_map(tv, target, L))
conventions = {
    "range of the slice": ssim(tv, target, L),
    "range of a volume twice as bright": ssim(tv, target, 2 * L),
    "range half as large": ssim(tv, target, L / 2),
    "central 96x96 pixels": ssim(tv[:, 32:128, 24:120], target[:, 32:128, 24:120], L),
    "foreground only": total / pixels,
}
conventions = {name: float(value) for name, value in conventions.items()}
assert max(conventions.values()) - min(conventions.values()) > 0.1
figure, axes = plt.subplots(figsize=(6.5, 2.3), layout="constrained")
bars = axes.barh(list(conventions), list(conventions.values()), color="0.6")
axes.bar_label(bars, fmt=" %.3f")
axes.invert_yaxis()
axes.set(xlim=(0.5, 1.05), title="SSIM of the same reconstruction")
plt.show()

# %% [markdown]
# ## A lesion lost at a good score
# Now the serious case. We add a faint lesion to a head, five pixels wide and a fifth brighter than its surroundings.
# First the simplest test: an image that is perfect but for the lesion, which it does not have.

# %%
example = head_example(17)
row, column = 75, 97
y, x = torch.meshgrid(torch.arange(160.0), torch.arange(144.0), indexing="ij")
lesion = (2.5 - torch.hypot(y - row, x - column)).clamp(0, 1)  # with a soft edge
coil_images = ifftc(example.acquisition.kspace)
with_lesion = coil_images * (1 + 0.04 * lesion / example.target[:, None])  # each coil sees it as it sees the tissue
target = root_sum_of_squares(with_lesion)
L = target.amax((1, 2))
without = float(ssim(example.target, target, L))
assert without > 0.999
zoom = (slice(row - 20, row + 21), slice(column - 20, column + 21))
titles = ["with the lesion", f"without: SSIM {without:.4f}"]
panel([i[0][zoom].clamp_max(0.4) for i in (target, example.target)], titles, columns=2)

# %% [markdown]
# Losing the lesion costs a score nothing: it covers a thousandth of the pixels. Does it happen? We undersample four
# times and reconstruct the head with and without the lesion. Their difference shows how much of it arrives.

# %%
mask = EquispacedMask([0.08], [4])((160, 144), RandomState(0))[0].view(1, 1, 1, 144)
healthy, ill = (Acquisition(fftc(coils) * mask, mask) for coils in (coil_images, with_lesion))
methods = {
    "CG-SENSE": CGSense(),
    "total variation": TotalVariation(weight=0.002),
    "pretrained network": Checkpoint("pretrained:heads"),
}
centre = lesion > 0.9
true_difference = (target - example.target)[0]
images, differences, table = [target[0][zoom].clamp_max(0.4)], [true_difference[zoom]], {}
for name, method in methods.items():
    image = method(ill).image.abs()
    difference = (image - method(healthy).image.abs())[0]
    total, pixels = ssim_in(foreground(target, L), ssim_map(image, target, L))
    arrived = float(difference[centre].mean() / true_difference[centre].mean())
    table[name] = (float(total / pixels), arrived)
    images.append(image[0][zoom].clamp_max(0.4))
    differences.append(difference[zoom])
titles = ["truth: the lesion"] + [f"{name}: SSIM {s:.2f}, lesion {a:.0%}" for name, (s, a) in table.items()]
panel(images + [d.clamp_min(0) for d in differences], titles + ["what the lesion changes"] * 4, columns=4)

# %% [markdown]
# The scores lie far apart, from .78 to .98. The parts of the lesion that arrive do not: every method loses a quarter or
# more of it, the network with the nearly perfect score too. Nothing in a score tells.

# %%
quality = {name: s for name, (s, _) in table.items()}
arrived = {name: a for name, (_, a) in table.items()}
assert quality["pretrained network"] > quality["total variation"] > quality["CG-SENSE"] + 0.1
assert max(arrived.values()) < 0.75
assert max(arrived.values()) - min(arrived.values()) < 0.1 < max(quality.values()) - min(quality.values())
figure, axes = plt.subplots(figsize=(5.5, 3), layout="constrained")
for name in methods:
    axes.plot(quality[name], 100 * arrived[name], "o", ms=9, label=name)
axes.set(xlabel="SSIM in the foreground", ylabel="part of the lesion that arrives / %", ylim=(0, 110))
axes.grid(alpha=0.3)
axes.legend(loc="lower left")
assert lesion.sum() < 0.001 * lesion.numel()
plt.show()

# %% [markdown]
# So use SSIM to compare methods, with one protocol, and never as proof that an image is safe to read. Look at the
# images, at error maps, and at the uncertainty, which is the subject of the chapter *How sure?*
