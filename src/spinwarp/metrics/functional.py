"""SSIM, PSNR and NMSE as fastMRI's evaluation defines them (``fastmri/evaluate.py``, scikit-image's SSIM)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from spinwarp.errors import InputError

_WINDOW = 7
#: pixels above this fraction of the volume's data range are foreground
FOREGROUND = 0.05


def ssim(image: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
    """Structural similarity of each image, ``(batch,)``: uniform 7x7 window, K = .01/.03, sample covariance.

    Equals scikit-image's ``structural_similarity`` with its defaults, whose mean leaves out half a window at the
    border. Differentiable.

    Parameters
    ----------
    image, target : ``(batch, h, w)`` real.
    data_range : ``(batch,)``; fastMRI uses the largest value of the volume.

    Raises
    ------
    InputError : if the shapes differ or an image is smaller than the window.

    References
    ----------
    Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP 2004.
    """
    return ssim_map(image, target, data_range).mean((-2, -1))


def ssim_map(image: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
    """Structural similarity in every full window, ``(batch, h - 6, w - 6)``; arguments as for :func:`ssim`."""
    if image.shape != target.shape:
        raise InputError(f"image {tuple(image.shape)} and target {tuple(target.shape)} must have the same shape")
    if min(image.shape[-2:]) < _WINDOW:
        raise InputError(f"SSIM needs images of at least {_WINDOW}x{_WINDOW} pixels; got {tuple(image.shape[-2:])}")
    # in units of the data range the constants are C1 = K1^2 and C2 = K2^2, and single precision is enough
    scale = data_range.to(image.dtype).clamp_min(torch.finfo(image.dtype).tiny).view(-1, 1, 1)
    target = target.to(image.dtype)
    if image.requires_grad or target.requires_grad or image.device.type != "cpu":
        return _similarity(image / scale, target / scale)
    parts = (part.split(1) for part in (image, target, scale.expand(len(image), 1, 1)))
    # one image at a time stays in the cache
    return torch.cat([_similarity(x / r, y / r) for x, y, r in zip(*parts, strict=True)])


def _similarity(x: Tensor, y: Tensor) -> Tensor:
    """SSIM map of images in units of the data range."""
    mx, my, squares, product = (_window_mean(part) for part in (x, y, x * x + y * y, x * y))
    # covariance and sum of the variances, by n over n - 1 pixels of the window
    unbiased, c1, c2 = _WINDOW**2 / (_WINDOW**2 - 1), 0.01**2, 0.03**2
    p, q = mx * my, torch.addcmul(mx * mx, my, my)
    above = (2 * p + c1) * torch.add((2 * unbiased) * (product - p), c2)
    return above / ((q + c1) * torch.add(unbiased * (squares - q), c2))


def ssim_in(where: Tensor, similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Sum an SSIM map over a part of the image; return the sum and the number of pixels, ``(batch,)`` each.

    Pixels within half a window of the border are left out, as in the mean of :func:`ssim`.

    Parameters
    ----------
    where : ``(batch, h, w)`` bool.
    similarity : ``(batch, h - 6, w - 6)``, from :func:`ssim_map`.
    """
    half = _WINDOW // 2
    inside = where[..., half:-half, half:-half]
    return torch.where(inside, similarity, 0.0).sum((-2, -1)), inside.sum((-2, -1))


def foreground(target: Tensor, data_range: Tensor) -> Tensor:
    """Return where the object is: the target above 5 % of the volume's data range.

    The rest is air, often most of the image, and says little about a method. Both the error and the predicted standard
    deviation are tiny there, which alone makes them correlate and flatters a method. And a method that leaves the air
    black has a low SSIM and coverage against a noisy reference, although its image is better.

    Parameters
    ----------
    target : ``(batch, h, w)`` magnitudes.
    data_range : ``(batch,)`` the largest value of each item's volume.
    """
    return target > FOREGROUND * data_range.view(-1, *(1 for _ in target.shape[1:]))


def _window_mean(x: Tensor) -> Tensor:
    """Mean over the window about each pixel that has a whole one; two one-dimensional means."""
    if x.requires_grad or x.device.type != "cpu":
        return F.avg_pool2d(F.avg_pool2d(x, (_WINDOW, 1), stride=1), (1, _WINDOW), stride=1)
    # seven shifted images are four additions, and torch's pooling on a CPU takes seven times as long as these
    for dim in (-2, -1):
        n = x.shape[dim]
        two = x.narrow(dim, 0, n - 1) + x.narrow(dim, 1, n - 1)
        four = two.narrow(dim, 0, n - 3) + two.narrow(dim, 2, n - 3)
        x = four.narrow(dim, 0, n - 6).add_(two.narrow(dim, 4, n - 6)).add_(x.narrow(dim, 6, n - 6))
    return x * (1 / _WINDOW**2)


def nmse(image: Tensor, target: Tensor) -> Tensor:
    """|image - target|^2 / |target|^2 over the whole volume, a scalar."""
    return (image - target).square().sum() / target.square().sum()


def psnr(image: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
    """10 log10(data_range^2 / mean squared error) over the whole volume, in dB, a scalar."""
    return 10 * torch.log10(data_range**2 / (image - target).square().mean())
