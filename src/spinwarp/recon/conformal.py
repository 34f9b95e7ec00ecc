"""A method whose standard deviations are scaled by a factor from calibration volumes."""

from dataclasses import dataclass, replace

from torch import Generator

from spinwarp.acquisition import Acquisition, Reconstruction
from spinwarp.errors import InputError
from spinwarp.recon.base import Reconstructor
from spinwarp.uncertainty import gaussian_factor


@dataclass(eq=False)
class Conformal(Reconstructor):
    """Scales the standard deviation: its Gaussian interval of a level becomes the conformal interval.

        std' = std lambda / z,   z the number of deviations that hold the fraction ``level`` of a Gaussian

    Whoever reads ``std'`` as a standard deviation finds the promised coverage at ``level``, since z std' = lambda std.
    Image and samples stay as they are.

    Parameters
    ----------
    method : predicts a standard deviation.
    factor : lambda, see :func:`spinwarp.uncertainty.conformal_factor`.
    level : the coverage that it promises.
    """

    method: Reconstructor
    factor: float
    level: float

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        """Reconstruct a batch and scale its deviation.

        Raises
        ------
        InputError : if the method predicts none.
        """
        result = self.method(acquisition, generator=generator)
        if result.std is None:
            raise InputError(
                "the method predicts no standard deviation here, so there is nothing to scale; let it draw more "
                "samples or leave conformal out"
            )
        return replace(result, std=result.std * (self.factor / gaussian_factor(self.level)))
