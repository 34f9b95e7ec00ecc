"""Several draws of one image, summed up."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from spinwarp.acquisition import Reconstruction
from spinwarp.coils import with_phase_of


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


def mixture(answers: Sequence[Reconstruction]) -> Reconstruction:
    """Sum up what several networks answer to one acquisition, each as likely as the others.

    Networks are trained on magnitudes, and two good ones may differ in phase. So the mean is that of the magnitudes,
    which phases cannot cancel; its phase is that of the mean of the complex images. The variance is

    var = mean_m(std_m^2) + var_m(|x_m|)

    the first over the answers with a deviation of their own, and left out where none has one. The second has n - 1 in
    the denominator, not n as for the mixture of these answers alone: they are a few draws of all that could be given.

    Parameters
    ----------
    answers : at least two, of one shape.

    References
    ----------
    Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep ensembles", NeurIPS 2017,
    section 2.4. Kendall and Gal, NeurIPS 2017, eq. 9, for dropout.
    """
    summed = from_samples(torch.stack([answer.image for answer in answers], 1).unbind())
    magnitude = torch.stack([answer.image.abs() for answer in answers]).mean(0)
    own = [answer.std.square() for answer in answers if answer.std is not None]
    std = summed.std
    if own and std is not None:
        std = (torch.stack(own).mean(0) + std.square()).sqrt()
    return replace(summed, image=with_phase_of(magnitude, summed.image), std=std)


def join(items: Sequence[Reconstruction]) -> Reconstruction:
    """Join reconstructions of single items, all with deviation and samples, into that of their batch."""
    return Reconstruction(
        image=torch.cat([item.image for item in items]),
        std=torch.cat([item.std for item in items if item.std is not None]),
        samples=torch.cat([item.samples for item in items if item.samples is not None], 1),
    )
