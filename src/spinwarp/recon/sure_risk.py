"""A standard deviation for any method, from an estimate of its error without the truth."""

import itertools

import torch.nn.functional as F
from torch import Generator, Tensor

from spinwarp.acquisition import Acquisition, Reconstruction
from spinwarp.errors import InputError
from spinwarp.masks import IndependentMask, Mask, RandomMask
from spinwarp.progress import part
from spinwarp.recon.base import Reconstructor
from spinwarp.uncertainty import adapted_density, sure

_WINDOW = 5  # pixels, odd, over which the map of the risk is averaged


class SureRisk(Reconstructor):
    """A method with the root of its risk as standard deviation, see :func:`spinwarp.uncertainty.sure.sure`.

    The image is the method's own. The standard deviation is that of the magnitude, which has half the variance of a
    complex error that is small. SURE estimates the total over the slice; the change of the image when measured lines
    are left out distributes it over the pixels. For a linear method and one coil this distribution is constant along
    the phase direction: the change of a line spreads evenly there, so the map only distinguishes rows.

    Parameters
    ----------
    reconstructor : the method; it runs ``n_probes`` times more.
    mask : the one that undersamples the data.
    n_probes : groups of measured lines that are left out, one group at a time.

    Raises
    ------
    InputError : if the mask does not draw lines independently with known probabilities, or ``n_probes`` is below 1.
    """

    def __init__(self, reconstructor: Reconstructor, mask: Mask | None, n_probes: int = 8) -> None:
        if n_probes < 1:
            raise InputError(f"uncertainty.n_probes is at least 1; got {n_probes}")
        self.reconstructor = reconstructor
        self.mask = independent(mask)
        self.n_probes = n_probes

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        """Reconstruct a batch, and again without each group of lines."""
        h, w = acquisition.kspace.shape[-2:]
        density = self.mask.density((h, w)).to(acquisition.kspace.device)
        runs = itertools.count()

        def method(data: Acquisition) -> Tensor:
            # the method repeats its random draws, so only the missing lines change the image
            again = None if generator is None else generator.clone_state()
            with part(next(runs), 1 + self.n_probes):
                return self.reconstructor(data, generator=again).image

        risk = sure(method, acquisition, adapted_density(acquisition, density), n_probes=self.n_probes)
        pad = _WINDOW // 2
        padded = F.pad(risk.map[:, None], [pad] * 4, mode="circular")  # keeps the mean
        variance = F.avg_pool2d(padded, _WINDOW, stride=1)[:, 0]
        return Reconstruction(image=risk.image, std=(variance.clamp_min(0) / 2).sqrt())


def independent(mask: Mask | None) -> IndependentMask:
    """Return the mask if it knows the density of its lines.

    Raises
    ------
    InputError : if it does not, or if it is a mix of masks.
    """
    if not isinstance(mask, IndependentMask):
        what = "there is no mask" if mask is None else f"{type(mask).__name__} does not draw them so"
        raise InputError(
            f"uncertainty=sure needs lines that are drawn independently of each other, but {what}; choose a random "
            f"mask, such as mask=random_4x"
        )
    if isinstance(mask, RandomMask):
        mask.check_one_pair()
    return mask
