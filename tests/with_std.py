"""A method that predicts a standard deviation, for tests."""

from torch import Generator

from spinwarp.acquisition import Acquisition, Reconstruction
from spinwarp.recon import Reconstructor, ZeroFilled


class WithStd(Reconstructor):
    """Zero-filled, with a standard deviation that depends on the image alone."""

    def __init__(self, pocs: int = 0) -> None:
        """Take the options of zero_filled, whose place it takes."""

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        image = ZeroFilled()(acquisition).image
        return Reconstruction(image, 0.05 * image.abs())
