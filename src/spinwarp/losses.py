"""Training losses on magnitude images: ``loss(image, target, data_range)`` returns a scalar.

The likelihoods take the standard deviation of each pixel instead of the data range. The losses on k-space take complex
``(batch, coil, h, w)`` and the strongest measured sample of each slice ``(batch,)``.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spinwarp.errors import InputError
from spinwarp.metrics.functional import foreground, ssim, ssim_in, ssim_map, structure_map


class L1Loss(nn.Module):
    """Mean absolute error divided by the data range; its value does not depend on the scanner's scale."""

    def forward(self, image: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
        """Return the loss of images against targets, both ``(batch, h, w)``; the data range is ``(batch,)``."""
        scale = data_range.view(-1, 1, 1)
        return F.l1_loss(image / scale, target / scale)


class SSIMLoss(nn.Module):
    """1 - SSIM, the loss of the E2E-VarNet."""

    def forward(self, image: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
        """Return the loss of images against targets, both ``(batch, h, w)``; the data range is ``(batch,)``."""
        return 1 - ssim(image, target, data_range).mean()


class MixedLoss(nn.Module):
    """``ssim_weight * (1 - SSIM) + (1 - ssim_weight) * L1`` (Zhao et al., IEEE TCI 2017, with single-scale SSIM).

    Raises
    ------
    InputError : if ``ssim_weight`` is not in [0, 1].
    """

    def __init__(self, ssim_weight: float = 0.84) -> None:
        super().__init__()
        self.ssim_weight = _fraction(ssim_weight, "ssim_weight")
        self.ssim = SSIMLoss()
        self.l1 = L1Loss()

    def forward(self, image: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
        """Return the loss of images against targets, both ``(batch, h, w)``; the data range is ``(batch,)``."""
        weight = self.ssim_weight
        return weight * self.ssim(image, target, data_range) + (1 - weight) * self.l1(image, target, data_range)


class MultiScaleLoss(nn.Module):
    """``ssim_weight * (1 - MS-SSIM) + (1 - ssim_weight) * L1``: the "mix" of Zhao et al. with windows of 7x7.

    MS-SSIM is a weighted geometric mean over up to five scales, each half the size of the one before. Images too small
    for five windows use fewer scales, whose weights are scaled to a sum of one.

    Raises
    ------
    InputError : if ``ssim_weight`` is not in [0, 1].

    References
    ----------
    Zhao, Gallo, Frosio and Kautz, "Loss functions for image restoration with neural networks", IEEE TCI 2017.
    Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment", Asilomar 2003.
    """

    _WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    _SMALLEST = 14  # pixels a side of the coarsest scale: two windows

    def __init__(self, ssim_weight: float = 0.84) -> None:
        super().__init__()
        self.ssim_weight = _fraction(ssim_weight, "ssim_weight")
        self.l1 = L1Loss()

    def forward(self, image: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
        """Return the loss of images against targets, both ``(batch, h, w)``; the data range is ``(batch,)``."""
        weight = self.ssim_weight
        similar = self._multi_scale(image, target, data_range)
        return weight * (1 - similar).mean() + (1 - weight) * self.l1(image, target, data_range)

    def _multi_scale(self, image: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
        """Return the MS-SSIM of each image, ``(batch,)``."""
        n = 1
        while n < len(self._WEIGHTS) and min(image.shape[-2:]) >> n >= self._SMALLEST:
            n += 1
        total = sum(self._WEIGHTS[:n])
        product = torch.ones_like(data_range)
        for scale, weight in enumerate(self._WEIGHTS[:n]):
            compare = ssim_map if scale == n - 1 else structure_map
            # a negative similarity has no root
            similar = compare(image, target, data_range).mean((-2, -1)).clamp_min(1e-4)
            product = product * similar ** (weight / total)
            image, target = F.avg_pool2d(image, 2), F.avg_pool2d(target, 2)
        return product


class ForegroundLoss(nn.Module):
    """``ssim_weight * (1 - SSIM in the foreground) + (1 - ssim_weight) * RMSE / data range``, mean over the batch.

    The air of a noise-free target is exactly black. A mean over all pixels of the SSIM would reward black air before
    anything else. The root mean square error has all pixels; its logarithm is the PSNR.

    Raises
    ------
    InputError : if ``ssim_weight`` is not in [0, 1].
    """

    def __init__(self, ssim_weight: float = 0.3) -> None:
        super().__init__()
        self.ssim_weight = _fraction(ssim_weight, "ssim_weight")

    def forward(self, image: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
        """``(batch, h, w)`` against ``(batch, h, w)``, data range ``(batch,)``."""
        inside, n = ssim_in(foreground(target, data_range), ssim_map(image, target, data_range))
        error = ((image - target) / data_range.view(-1, 1, 1)).square().mean((-2, -1))
        # the root has an infinite gradient at zero; the constant lies far below any error
        root = (error + 1e-8).sqrt()
        return (self.ssim_weight * (1 - inside / n.clamp_min(1)) + (1 - self.ssim_weight) * root).mean()


class GaussianNLL(nn.Module):
    """Negative log likelihood of errors from N(0, std^2), mean over pixels (Nix and Weigend, ICNN 1994).

    log(std) + (image - target)^2 / (2 std^2) + log(2 pi) / 2

    Its gradient gives the worst pixels the least weight, and they stay bad. In training each pixel is therefore
    weighted by std^(2 beta), through which no gradient flows.

    Parameters
    ----------
    beta : 0 is the likelihood; with 1 the image learns as with the mean squared error.

    Raises
    ------
    InputError : if ``beta`` is not in [0, 1].

    References
    ----------
    Seitzer et al., "On the pitfalls of heteroscedastic uncertainty estimation with probabilistic neural networks",
    ICLR 2022, eq. 5.
    """

    def __init__(self, beta: float = 0.0) -> None:
        super().__init__()
        self.beta = _fraction(beta, "beta")

    def forward(self, image: Tensor, target: Tensor, std: Tensor) -> Tensor:
        """Return the scalar loss; all three have one shape, ``std`` is above 0."""
        nll = std.log() + 0.5 * ((image - target) / std).square() + 0.5 * math.log(2 * math.pi)
        return (nll * std.detach() ** (2 * self.beta)).mean() if self.training else nll.mean()


class LaplaceNLL(nn.Module):
    """Negative log likelihood of errors from a Laplace distribution, mean over pixels: a weighted L1.

    log(2 b) + |image - target| / b    with the scale b = std / sqrt(2)

    In training each pixel is weighted by b^beta, as in :class:`GaussianNLL`.

    Parameters
    ----------
    beta : 0 is the likelihood; with 1 the image learns as with the mean absolute error.

    Raises
    ------
    InputError : if ``beta`` is not in [0, 1].
    """

    def __init__(self, beta: float = 0.0) -> None:
        super().__init__()
        self.beta = _fraction(beta, "beta")

    def forward(self, image: Tensor, target: Tensor, std: Tensor) -> Tensor:
        """Return the scalar loss; all three have one shape, ``std`` is above 0."""
        scale = std / math.sqrt(2)
        nll = (2 * scale).log() + (image - target).abs() / scale
        return (nll * scale.detach() ** self.beta).mean() if self.training else nll.mean()


class NormalisedL1L2(nn.Module):
    """``|k - y|_2 / (2 |y|_2) + |k - y|_1 / (2 |y|_1)`` of k-space, mean over slices: the loss of SSDU.

    References
    ----------
    Yaman et al., "Self-supervised learning of physics-guided reconstruction neural networks without fully sampled
    reference data", MRM 2020.
    """

    def forward(self, kspace: Tensor, measured: Tensor, peak: Tensor) -> Tensor:
        """Return the loss of k-space ``(batch, coil, h, w)`` against what was measured; 0 for a slice of zeros."""
        error, energy = (kspace - measured).flatten(1), measured.flatten(1)
        norm = torch.linalg.vector_norm
        parts = [norm(error, order, 1) / _or_endless(norm(energy, order, 1)) for order in (2, 1)]
        return (0.5 * sum(parts, torch.zeros_like(peak))).mean()


class SquaredError(nn.Module):
    """``|k - y|_2^2 / peak^2`` of k-space, mean over slices.

    The unit depends on no mask: the strongest sample lies in the centre, which masks and splits keep. Weighted sums of
    squares have the expectation that their weights promise only if nothing else in them is random.
    """

    def forward(self, kspace: Tensor, measured: Tensor, peak: Tensor) -> Tensor:
        """Return the loss of k-space ``(batch, coil, h, w)`` against what was measured; 0 for a slice of zeros."""
        unit = _or_endless(peak).view(-1, 1, 1, 1)
        return ((kspace - measured) / unit).abs().square().flatten(1).sum(1).mean()


def _or_endless(unit: Tensor) -> Tensor:
    """Replace a unit of zero by infinity: an empty slice adds nothing to a loss."""
    return torch.where(unit > 0, unit, torch.inf)


def _fraction(value: float, name: str) -> float:
    if not 0 <= value <= 1:
        raise InputError(f"{name} is a fraction between 0 and 1; got {value}")
    return value
