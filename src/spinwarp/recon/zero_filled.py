"""The inverse Fourier transform of the measured k-space, zero where nothing was measured."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from spinwarp.acquisition import Acquisition, Reconstruction
from spinwarp.coils import combine
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.recon.base import Reconstructor

_FEWEST = 2  # lines beyond the centre on the side where k-space ends early


@dataclass(eq=False)
class ZeroFilled(Reconstructor):
    """Root sum of squares of the coils' inverse Fourier transforms, with the phase of their combination.

    Parameters
    ----------
    pocs : iterations of :func:`pocs` for a scan with partial Fourier or asymmetric echoes; 0: the rest stays zero.

    Raises
    ------
    InputError : if the number is negative.
    """

    pocs: int = 0

    def __post_init__(self) -> None:
        if self.pocs < 0:
            raise InputError(f"recon.pocs={self.pocs} is a number of iterations; give 0 or more, such as 20")

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:  # noqa: ARG002
        """Reconstruct a batch."""
        kspace = acquisition.kspace
        if self.pocs:
            items = zip(kspace, acquisition.mask, strict=True)
            kspace = torch.stack([pocs(one, mask[0], self.pocs) for one, mask in items])
        return Reconstruction(image=combine(ifftc(kspace), acquisition.maps))


def pocs(kspace: Tensor, mask: Tensor, iterations: int) -> Tensor:
    """Fill the end of k-space that partial Fourier leaves out, by projection onto convex sets.

    Each coil image is given the phase of its low-resolution image, which the symmetric centre of k-space makes; then
    the measured samples are put back. Only samples whose mirror image was measured are filled.

    Parameters
    ----------
    kspace : ``(coil, h, w)`` complex, zero where nothing was measured.
    mask : ``(1 or h, w)`` bool; the measured samples form one rectangle that holds the centre.
    iterations : number of times that the image is given its phase; ten to twenty are enough.

    Returns
    -------
    ``(coil, h, w)``; the measured samples are unchanged.

    Raises
    ------
    InputError : if single lines are missing, or too few lie beyond the centre to tell the phase.

    References
    ----------
    Haacke, Lindskog, Lin, "A fast, iterative, partial-Fourier technique capable of local phase recovery", JMR 1991.
    """
    mask = mask.expand(kspace.shape[-2:])
    rows, columns = mask.any(1), mask.any(0)
    if not (_is_run(rows) and _is_run(columns) and bool((rows[:, None] & columns == mask).all())):
        raise InputError(
            "recon.pocs fills one end of k-space, but single lines or points are missing too; use pocs on scans that "
            "are not undersampled, or recon=cg_sense, which needs no such end"
        )
    window = _phase_window(rows, "rows")[:, None] * _phase_window(columns, "columns")
    low = ifftc(kspace * window)
    phase = torch.where(low == 0, 1, torch.sgn(low))
    mirrored = _mirrored(rows)[:, None] & _mirrored(columns)
    missing = mirrored & ~mask
    filled = kspace
    for _ in range(iterations if bool(missing.any()) else 0):
        image = ifftc(filled).abs() * phase
        filled = torch.where(missing, fftc(image), kspace)
    return filled


def _is_run(sampled: Tensor) -> bool:
    """Whether what is sampled is one run that holds the centre."""
    found = sampled.nonzero()[:, 0]
    centre = len(sampled) // 2
    return bool(len(found)) and bool(found[-1] - found[0] + 1 == len(found)) and bool(sampled[centre])


def _phase_window(sampled: Tensor, name: str) -> Tensor:
    """Return a Hann window over the part that is sampled on both sides of the centre; ones if no side ends early."""
    n, centre = len(sampled), len(sampled) // 2
    found = sampled.nonzero()[:, 0]
    before, after = centre - int(found[0]), int(found[-1]) - centre
    # an even number of samples has one more before the centre than after it
    if abs(before - after) <= 1:
        return torch.ones(n, device=sampled.device)
    half = min(before, after)
    if half < _FEWEST:
        raise InputError(
            f"recon.pocs takes the phase from {name} of k-space on both sides of its centre, of which {half} lie on "
            f"one side; it needs at least {_FEWEST}"
        )
    distance = (torch.arange(n, device=sampled.device) - centre) / (half + 1)
    return torch.where(distance.abs() < 1, torch.cos(distance * torch.pi / 2).square(), 0)


def _mirrored(sampled: Tensor) -> Tensor:
    """Return what is sampled or lies opposite to a sample about the centre."""
    n = len(sampled)
    opposite = (2 * (n // 2) - torch.arange(n, device=sampled.device)) % n
    return sampled | sampled[opposite]
