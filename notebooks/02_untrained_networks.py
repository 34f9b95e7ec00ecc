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
# # A network that has seen nothing is a prior
#
# A convolutional network with random weights and a fixed random input makes some picture. Fit its weights to a
# measurement of an image, and it takes to the image sooner than to noise and gaps: no training data at all. What is
# measured is said by an operator alone, so the same three networks and the same fit denoise, fill gaps, sharpen, and
# reconstruct MRI.

# %%
from functools import partial

import torch
import torch.nn.functional as F
from numpy.random import RandomState

from spinwarp.acquisition import Acquisition
from spinwarp.data.phantom.anatomy import head_volume
from spinwarp.figures import comparison, panel
from spinwarp.fourier import fftc
from spinwarp.masks import RandomMask
from spinwarp.metrics import psnr
from spinwarp.models.conv_decoder import ConvDecoder
from spinwarp.models.deep_decoder import DeepDecoder
from spinwarp.models.skip_net import SkipNet
from spinwarp.recon import ZeroFilled
from spinwarp.recon.network_fit import fit
from spinwarp.recon.untrained import UntrainedNetwork

size = (64, 56)
volume, _ = head_volume(1, (128, 112), RandomState(4))
truth = F.avg_pool2d(torch.from_numpy(volume).float()[None], 2)  # (1, 1, h, w), without jagged edges
# as bright as ten, where a network starts near a tenth: its last layer then has the way to go and lets the others work
truth = 10 * truth / truth.max()
random = torch.Generator().manual_seed(0)
networks = {
    "ConvDecoder": partial(ConvDecoder, channels=24, layers=5, input_size=(8, 7)),
    "Deep Decoder": partial(DeepDecoder, channels=64, layers=3, input_size=(16, 14)),
    "deep image prior": partial(SkipNet, channels=16, levels=3),
}

# %% [markdown]
# ## Three problems, three operators
# Each is a function from the picture to what is measured of it.

# %%
seen = torch.rand(truth.shape, generator=random) < 0.4
operators = {
    "denoising": lambda picture: picture,
    "inpainting": lambda picture: picture * seen,
    "super-resolution": lambda picture: F.avg_pool2d(picture, 2),
}
noise = {"denoising": 1.5, "inpainting": 0.0, "super-resolution": 0.0}
measured = {
    name: operator(truth + noise[name] * torch.randn(truth.shape, generator=random))
    for name, operator in operators.items()
}

# %% [markdown]
# A tenth of what was measured is held out. Where the picture predicts it best, the fit stops; nobody guesses the
# number of iterations. The structures differ: what the ConvDecoder prefers suits this head, and the skip connections of
# the deep image prior let more of the noise and the gaps through.

# %%
options = {"iterations": 200, "patience": 60, "learning_rate": 0.02}
images = []
for problem, operator in operators.items():
    y = measured[problem]
    shown = F.interpolate(y, size=size, mode="nearest")
    print(f"{problem:17s} measured {float(psnr(shown[0], truth[0], truth.max())):.1f} dB", end="")
    images += [truth[0, 0].numpy(), shown[0, 0].numpy()]
    sampled = seen if problem == "inpainting" else torch.ones_like(y, dtype=torch.bool)
    held_out = sampled & (torch.rand(y.shape, generator=random) < 0.1)
    for name, network in networks.items():
        torch.manual_seed(0)
        picture = fit(network(size, 1), operator, y, held_out, sampled=sampled, stop="held_out", **options)
        images.append(picture[0, 0].numpy())
        print(f", {name} {float(psnr(picture[0], truth[0], truth.max())):.1f} dB", end="")
    print()
panel(images, ["truth", "measured", *networks], columns=5)

# %% [markdown]
# ## And MRI
# The operator is $MF$ here, two fifths of the lines of one coil; `UntrainedNetwork` wraps the same fit: it scales the
# data, holds out lines, and puts the measured ones back in the end. On the command line it is
# `python evaluate.py recon=convdecoder`.

# %%
columns, n_center = RandomMask([0.12], [2.5])(size, RandomState(1))
kspace = fftc(truth.to(torch.complex64)) * columns
acquisition = Acquisition(kspace, columns.view(1, 1, 1, -1), n_acs=torch.tensor([n_center]))
reconstructions = {"zero-filled": ZeroFilled()(acquisition).image[0].abs().numpy()}
image = UntrainedNetwork(networks["ConvDecoder"], **options)(acquisition).image[0]
reconstructions["ConvDecoder"] = image.abs().numpy()
numbers = {
    name: {"psnr": float(psnr(torch.from_numpy(image)[None], truth[0], truth.max()))}
    for name, image in reconstructions.items()
}
comparison(truth[0, 0].numpy(), reconstructions, data_range=float(truth.max()), numbers=numbers)
