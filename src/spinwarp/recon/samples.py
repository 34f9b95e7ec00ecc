"""Several draws of one image, summed up."""

from collections.abc import Sequence

import torch
from torch import Tensor

from spinwarp.acquisition import Reconstruction


def from_samples(samples: Sequence[Tensor]) -> Reconstruction:
    """Mean of the complex images, standard deviation of their magnitudes, and the samples themselves.

    The image is judged by its magnitude, so its deviation is that of the magnitudes; a complex deviation would count
    that of the phase.

    Parameters
    ----------
    samples : ``(n_samples, h, w)`` complex of each item of the batch, at least one. Mean and deviation are of all
        samples of an item; as ``samples`` every item keeps as many as the one that has the fewest.

    Returns
    -------
    A reconstruction without a deviation where an item has a single sample.
    """
    n = min(len(item) for item in samples)
    return Reconstruction(
        image=torch.stack([item.mean(0) for item in samples]),
        std=torch.stack([item.abs().std(0) for item in samples]) if n > 1 else None,
        samples=torch.stack([item[:n] for item in samples], 1),
    )
