"""Stein's unbiased risk estimate (SURE): the squared error of an image, estimated without the truth.

Let x~ = x + e with an error e of mean zero, and h an image that a method makes from x~. Then

    E |h - x|^2 = E |h - x~|^2 - E |e|^2 + 2 E Re <e, h>.

The last term says how much of e is in h. For white Gaussian noise it is the divergence of h (Stein, Ann. Statist.
1981), which probing estimates (Ramani, Blu and Unser, IEEE TIP 2008). Undersampling gives such an x~ too, if each line
l is measured independently with a known probability p_l and divided by it (density compensation; Millard et al.,
arXiv 2203.04180). Then e has the lines (m_l/p_l - 1) y_l of variance (1 - p_l)/p_l |y_l|^2, of which
tau_l = m_l (1 - p_l)/p_l^2 |y_l|^2 is an unbiased estimate. A line is drawn as a whole, with all its samples and coils.

The error is measured in the k-space F S h that the image and the maps predict for all coils, where lines are
orthogonal. With exact maps it is the error of the image, plus a part that no image can explain and that is the same for
all methods: noise between the coils and errors of the maps.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.operators.sense import coil_maps, expand, reduce

#: how the cross term is found: from the change of the image when lines are left out, or when they are scaled a little
PROBES = ("deletion", "derivative")
# Step of a derivative, as a fraction of a line's amplitude or of the noise: large against rounding in float32.
_STEP = 1e-2
Method = Callable[[Acquisition], Tensor]


@dataclass(frozen=True)
class Risk:
    """What SURE estimates about an image.

    Parameters
    ----------
    image : ``(batch, h, w)`` complex, the image itself.
    error : ``(batch,)`` estimate of |F S image - y|^2, y the complete k-space; may be negative by chance.
    energy : ``(batch,)`` estimate of |y|^2.
    change : ``(batch, h, w)`` squared change of each pixel, summed over the probes.
    """

    image: Tensor
    error: Tensor
    energy: Tensor
    change: Tensor

    @property
    def nmse(self) -> Tensor:
        """Return ``(batch,)`` the error as a fraction of the energy."""
        return self.error / self.energy

    @property
    def map(self) -> Tensor:
        """Squared error ``(batch, h, w)``: the estimate, at least zero, distributed as the probes changed the image.

        The terms of SURE also sum to the error pixel by pixel. But they follow x~, whose aliasing covers the whole
        image: on phantoms at 4x they hardly showed where a U-Net was wrong (correlation with its errors -.1 to .2 in
        windows of 9 pixels). The change of the image when lines are left out does show it (.3 to .5).
        """
        total = self.change.sum((-2, -1), keepdim=True)
        fraction = torch.where(total > 0, self.change / total, 1 / self.change[0].numel())
        return fraction * self.error.clamp_min(0).view(-1, 1, 1)


def white_sure(
    denoise: Callable[[Tensor], Tensor],
    noisy: Tensor,
    noise_std: float,
    *,
    n_probes: int = 1,
    generator: Generator | None = None,
) -> Tensor:
    """Estimate |denoise(noisy) - x|^2 in every pixel, where ``noisy`` is x plus white Gaussian noise.

    Summed over N pixels it is ``|h - x~|^2 - N s^2 + 2 s^2 div h``. Rademacher probes estimate the divergence
    (Hutchinson, 1990). A single one is exact if each pixel of the result depends on the same pixel alone.

    Parameters
    ----------
    denoise : image to image.
    noisy : ``(batch, h, w)`` real or complex.
    noise_std : root of E|n|^2 of a pixel; of a complex one, real and imaginary part together.
    n_probes : evaluations of ``denoise`` beside the first.
    generator : of the probes.
    """
    image = denoise(noisy)
    fraction = torch.zeros_like(image.real)
    for _ in range(n_probes):
        probe = _signs(noisy, generator)
        change = (denoise(noisy + _STEP * noise_std * probe) - image) / (_STEP * noise_std)
        fraction += _product(probe, change) / n_probes
    return _power(image - noisy) + noise_std**2 * (2 * fraction - 1)


def compensated(acquisition: Acquisition, density: Tensor) -> Tensor:
    """Return the image ``(batch, h, w)`` of the measured lines over their density: unbiased; see :func:`sure`."""
    return reduce(ifftc(acquisition.kspace / _columns(density)), coil_maps(acquisition))


def sure(
    method: Method,
    acquisition: Acquisition,
    density: Tensor,
    *,
    probe: str = "deletion",
    n_probes: int = 8,
    noise_std: Tensor | None = None,
    generator: Generator | None = None,
) -> Risk:
    """Estimate the error of ``method(acquisition)`` from undersampled data alone.

    The truth is what a complete scan would have measured, noise included, as in an evaluation. If ``noise_std`` is
    given, the truth is without noise; s^2/p then adds to the variance tau.

    ``deletion`` finds the cross term as a finite difference. For any h, ``E Re <e_l, h> = (1 - p_l) Re <y_l, h with the
    line - h without it>``. The measured lines are left out in ``n_probes`` groups, one group at a time. With one line
    per group the estimate is unbiased; with more it is too high, since the lines of a group depend on each other. For
    total variation on phantoms at 4x (about 20 such lines) it was twice the error with 4 groups, and a quarter too high
    with 10. For a method that keeps the measured lines it is a cross-validation: the lines left out stand for the
    missing ones.

    ``derivative`` scales all lines a little up or down at random, as in Stein's identity. It is right for linear h. It
    does not see what a method does about missing lines: one that keeps the measured lines and fills in the others seems
    better than it is.

    Parameters
    ----------
    method : acquisition to complex image ``(batch, h, w)``, always the same for the same acquisition. The phase of the
        image is that of the acquisition's maps. The method may make its own maps from fully sampled lines.
    acquisition : of a line mask.
    density : probability with which each line was measured, ``(w,)`` or ``(batch, w)``. With that of
        :func:`spinwarp.uncertainty.density.adapted_density` the estimate varies less.
    probe, n_probes : of the cross term; each probe evaluates the method once more.
    noise_std : ``(batch,)`` root of E|n|^2 of a sample of k-space. Takes one more evaluation.
    generator : of the signs of ``derivative`` and of the probe of the noise.

    Raises
    ------
    InputError : if the probe is unknown, ``n_probes`` is below 1, the mask is not one of lines, or the density of a
        line is not above 0 and at most 1.
    """
    kspace, mask, p = acquisition.kspace, acquisition.mask, _columns(density)
    _check(mask, p, probe, n_probes)
    maps, odds = coil_maps(acquisition), (1 - p) / p
    image = method(acquisition)
    variance = _power(kspace) * (odds / p)
    error = _sum(_power(fftc(expand(image, maps)) - kspace / p) - variance)
    change = torch.zeros_like(image.real)
    if probe == "deletion":
        for group in groups(mask & (p < 1), n_probes):
            moved = method(replace(acquisition, kspace=kspace * ~group, mask=mask & ~group)) - image
            error -= 2 * _sum(_product(reduce(ifftc(kspace * (group * odds)), maps), moved))
            change += _power(moved)
    else:
        for _ in range(n_probes):
            signed = kspace * (odds.sqrt() * _signs(p[:1], generator))
            moved = (method(replace(acquisition, kspace=kspace + _STEP * signed)) - image) / _STEP
            error += 2 / n_probes * _sum(_product(reduce(ifftc(signed), maps), moved))
            change += _power(moved) / n_probes
    energy = _sum(_power(kspace) / p)
    if noise_std is not None:
        step = _STEP * noise_std.view(-1, 1, 1, 1)
        signs = _signs(kspace, generator)
        moved = (method(replace(acquisition, kspace=kspace + step * signs * mask)) - image) / step[:, 0]
        fraction = _sum(_product(reduce(ifftc(signs), maps), moved))
        error += noise_std**2 * (2 * fraction - kspace[0].numel())
        energy -= noise_std**2 * kspace[0].numel()
    return Risk(image, error, energy, change)


def groups(lines: Tensor, n: int) -> list[Tensor]:
    """Divide ``lines``, bool ``(batch, 1, 1, w)``, into at most ``n`` groups; neighbours go into different ones."""
    number = lines.cumsum(-1) - 1
    parts = (lines & (number % n == i) for i in range(n))
    return [part for part in parts if part.any()]


def _check(mask: Tensor, p: Tensor, probe: str, n_probes: int) -> None:
    if probe not in PROBES:
        raise InputError(f"probe={probe!r} is not one of {', '.join(PROBES)}")
    if n_probes < 1:
        raise InputError(f"SURE needs at least one probe; got n_probes={n_probes}")
    if mask.shape[-2] != 1:
        raise InputError(
            "SURE needs a mask of whole lines, but here points were sampled or rows are missing (an asymmetric echo); "
            "choose a mask such as mask=random_4x, and data with all rows"
        )
    if not ((p > 0) & (p <= 1)).all():
        raise InputError("SURE needs a probability above 0 and up to 1 for each line, also for those not measured here")


def _columns(density: Tensor) -> Tensor:
    """``(w,)`` or ``(batch, w)`` as ``(batch or 1, 1, 1, w)``."""
    return density.view(-1, 1, 1, density.shape[-1])


def _signs(like: Tensor, generator: Generator | None) -> Tensor:
    """Draw Rademacher numbers of modulus one, the same for every item of the batch; complex ones have four values."""

    def draw() -> Tensor:
        bits = torch.randint(2, like.shape[1:], generator=generator, device=like.device)
        return (2 * bits - 1).to(like.real.dtype)

    return torch.complex(draw(), draw()) / 2**0.5 if like.is_complex() else draw()


def _product(a: Tensor, b: Tensor) -> Tensor:
    return (a.conj() * b).real


def _power(x: Tensor) -> Tensor:
    return x.abs().square()


def _sum(x: Tensor) -> Tensor:
    """Sum over all but the batch."""
    return x.flatten(1).sum(1)
