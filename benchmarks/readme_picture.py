"""The picture of the README: ``python benchmarks/readme_picture.py CHENG docs/figures/methods.png``.

``CHENG`` is a folder of slices of Cheng, "brain tumor dataset", figshare 1512427, 2017 (CC BY 4.0). One slice that no
weights were trained on, with 8 simulated coils, is undersampled eight times and reconstructed by four methods.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from matplotlib import pyplot as plt
from numpy.random import RandomState

from spinwarp.cli.app import conf_folder
from spinwarp.data.undersample import Undersample
from spinwarp.figures import save
from spinwarp.metrics import psnr

METHODS = {
    "total variation": ["recon=tv"],
    "pretrained": ["recon=pretrained"],
    "posterior mean": ["recon=posterior", "recon.n_samples=8"],
}


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cheng", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--slice", default="2230", help="number of the slice; the test blocks are in conf/data")
    arguments = parser.parse_args()
    with initialize_config_dir(str(conf_folder()), version_base=None):
        data = compose(
            "evaluate",
            [
                "data=simulated_heads", f"data.source.path={arguments.cheng}", "data.source.coils=[8]",
                "data.source.matrices=[[192,192]]", "data.source.snr=[40,40]", "data.source.n_test=1000",
                "mask=equispaced_8x",
            ],
        )  # fmt: skip
        methods = {name: instantiate(compose("evaluate", options).recon) for name, options in METHODS.items()}
    source = instantiate(data.data.source, _convert_="all")
    volume = next(v for v in source.volumes("test") if arguments.slice in v.name)
    whole = source.read(volume, 0)
    example = Undersample(instantiate(data.mask, _convert_="all"))(whole, RandomState(0))
    assert whole.target is not None
    target, limit = whole.target, whole.data_range
    images = {"fully sampled": target[0], "zero-filled, R = 8": zero_filled(example.acquisition.kspace)}
    std = None
    for name, method in methods.items():
        result = method(example.acquisition, generator=torch.Generator().manual_seed(0))
        images[name] = result.image.abs()[0]
        std = result.std if result.std is not None else std
    assert std is not None
    head = (target[0] > 0.05 * limit).nonzero()
    (top, left), (bottom, right) = (head.amin(0) - 4).clamp_min(0).tolist(), (head.amax(0) + 5).tolist()
    figure, axes = plt.subplots(1, 6, figsize=(12, 3.0), facecolor="black")
    for axis, (name, image) in zip(axes, [*images.items(), ("its std, x 10", 10 * std[0])], strict=True):
        upright = np.rot90(np.asarray(image)[top:bottom, left:right], -1)  # the nose is on the left of this slice
        axis.imshow(upright, cmap="gray", vmin=0, vmax=0.85 * float(limit))
        compared = name in images and name != "fully sampled"
        score = f"\n{float(psnr(image[None], target, limit)):.1f} dB" if compared else "\n"
        axis.set_title(name + score, color="white", fontsize=9)
        axis.axis("off")
    figure.subplots_adjust(0.005, 0.01, 0.995, 0.85, 0.02)
    save(figure, arguments.picture)


def zero_filled(kspace: torch.Tensor) -> torch.Tensor:
    """Root sum of squares ``(h, w)`` of the coil images."""
    shifted = torch.fft.ifftshift(kspace[0], (-2, -1))
    return torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), (-2, -1)).abs().square().sum(0).sqrt()


if __name__ == "__main__":
    main()
