"""Mean and standard deviation of several draws of one image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from spinwarp.acquisition import Reconstruction
from spinwarp.coils import with_phase_of


def from_samples(samples: Sequence[Tensor]) -> Reconstruction:
    """Return the mean of the complex images, the standard deviation of its error, and the samples themselves.

    Images are judged by their magnitude, so the standard deviation is that of the magnitudes. One of complex numbers
    would include the phase.

    If the truth is as good as one more draw, it differs from the mean of n draws by more than the draws do: the mean of
    a few is uncertain itself. With s^2 the variance of the draws, n - 1 in its denominator,

        std^2 = (1 + 1/n) s^2

    Parameters
    ----------
    samples : ``(n_samples, h, w)`` complex for each item of the batch, at least one. Mean and standard deviation use
        all samples of an item. The returned ``samples`` have as many for every item as the item with the fewest.

    Returns
    -------
    A reconstruction; without a standard deviation if an item has a single sample.

    References
    ----------
    Fortin et al., "Why should ensemble spread match the RMSE of the ensemble mean?", Journal of Hydrometeorology 2014,
    eq. 15.
    """
    n = min(len(item) for item in samples)
    return Reconstruction(
        image=torch.stack([item.mean(0) for item in samples]),
        std=torch.stack([item.abs().std(0) * (1 + 1 / len(item)) ** 0.5 for item in samples]) if n > 1 else None,
        samples=torch.stack([item[:n] for item in samples], 1),
    )


def mixture(answers: Sequence[Reconstruction]) -> Reconstruction:
    """Combine what several networks return for one acquisition, with equal weights.

    Networks are trained on magnitudes, so two good ones may differ in phase. The magnitude is therefore the mean of the
    magnitudes, which phases cannot cancel. The phase is that of the mean of the complex images. The variance is

        var = mean_m(std_m^2) + var_m(|x_m|)

    The first term is the mean over the networks that predict a standard deviation; it is left out if none does. The
    second has n - 1 in the denominator, since the networks are a few draws of all possible ones.

    Parameters
    ----------
    answers : at least two, of one shape.

    References
    ----------
    Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep ensembles", NeurIPS 2017,
    section 2.4. Kendall and Gal, NeurIPS 2017, eq. 9, for dropout.
    """
    images = torch.stack([answer.image for answer in answers])
    std = images.abs().std(0)
    own = [answer.std.square() for answer in answers if answer.std is not None]
    if own:
        std = (torch.stack(own).mean(0) + std.square()).sqrt()
    return Reconstruction(image=with_phase_of(images.abs().mean(0), images.mean(0)), std=std, samples=images)


def join(items: Sequence[Reconstruction]) -> Reconstruction:
    """Collate reconstructions of single items, all with standard deviation and samples, into a batch."""
    return Reconstruction(
        image=torch.cat([item.image for item in items]),
        std=torch.cat([item.std for item in items if item.std is not None]),
        samples=torch.cat([item.samples for item in items if item.samples is not None], 1),
    )
