"""The inverse Fourier transform of the measured k-space, zero where nothing was measured."""

from torch import Generator

from spinwarp.acquisition import Acquisition, Reconstruction
from spinwarp.coils import combine
from spinwarp.fourier import ifftc
from spinwarp.recon.base import Reconstructor


class ZeroFilled(Reconstructor):
    """Root sum of squares of the coils' inverse Fourier transforms, with the phase of their combination."""

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:  # noqa: ARG002
        """Reconstruct a batch."""
        return Reconstruction(image=combine(ifftc(acquisition.kspace), acquisition.maps))
