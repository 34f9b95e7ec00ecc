"""Stein's unbiased risk estimate (SURE): the squared error of an image, estimated without the truth.

An error e that has mean zero, as x~ = x + e, tells of the error of any h that was made from x~, since

    E |h - x|^2 = E |h - x~|^2 - E |e|^2 + 2 E Re <e, h>.

The last term says how much of e h has taken over. For white Gaussian noise it is the divergence of h (Stein, Ann.
Statist. 1981), found by probing (Ramani, Blu and Unser, IEEE TIP 2008). Undersampling makes such an x~, too, if each
line l is measured independently with a known probability p_l and divided by it (density compensation; Millard et al.,
arXiv 2203.04180): e has the lines (m_l/p_l - 1) y_l, of variance (1 - p_l)/p_l |y_l|^2, of which
tau_l = m_l (1 - p_l)/p_l^2 |y_l|^2 is an unbiased estimate. A line is drawn whole, for all its samples and coils.

The error is taken of the k-space that the image and the maps predict for all coils, F S h, where lines are orthogonal.
Of an image under exact maps it is that of the image, and for all methods alike what no image explains: noise between
the coils and errors of the maps.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.operators.sense import coil_maps, expand, reduce

#: of the cross term: how the image changes when lines are left out, or when they are scaled a little
PROBES = ("deletion", "derivative")
# Fraction of a line's amplitude, or of the noise, over which a derivative is taken: large against rounding in float32.
_STEP = 1e-2
Method = Callable[[Acquisition], Tensor]


@dataclass(frozen=True)
class Risk:
    """What SURE says of an image.

    Parameters
    ----------
    image : ``(batch, h, w)`` complex, that is judged.
    error : ``(batch,)`` estimate of |F S image - y|^2, y the complete k-space; may be negative by chance.
    energy : ``(batch,)`` estimate of |y|^2.
    change : ``(batch, h, w)`` how much the probes changed each pixel, squared and summed.
    """

    image: Tensor
    error: Tensor
    energy: Tensor
    change: Tensor

    @property
    def nmse(self) -> Tensor:
        """Estimate ``(batch,)`` of the error as a fraction of the energy."""
        return self.error / self.energy

    @property
    def map(self) -> Tensor:
        """Squared error ``(batch, h, w)``: the estimate, at least zero, spread as the probes changed the image.

        The terms of SURE pixel by pixel add up to the error, too, but they are those of x~, whose aliasing lies all
        over the image: on phantoms at 4x they hardly told where a U-Net was wrong (correlation with its errors -.1 to
        .2 in windows of 9 pixels). Where the image changes when lines are left out does (.3 to .5).
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
    """Estimate |denoise(noisy) - x|^2 in every pixel, where ``noisy`` is x and white Gaussian noise.

    Summed over N pixels it is ``|h - x~|^2 - N s^2 + 2 s^2 div h``. The divergence is found by Rademacher probes
    (Hutchinson, 1990): exact with a single one where a pixel depends on itself alone.

    Parameters
    ----------
    denoise : image to image.
    noisy : ``(batch, h, w)`` real or complex.
    noise_std : root of E|n|^2 of a pixel, of complex ones real and imaginary part together.
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
    """Image ``(batch, h, w)`` of the measured lines over their density: right in the mean; see :func:`sure`."""
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

    The truth is what a complete scan would have measured, noise included: what evaluation compares with. Where the
    level s of the noise is given it is the truth without noise; s^2/p then joins the variance tau.

    ``deletion`` finds the cross term as a finite difference. A line is drawn or it is not, with nothing between, and
    ``E Re <e_l, h> = (1 - p_l) Re <y_l, h with the line - h without it>`` holds for any h. ``n_probes`` groups of
    measured lines are left out by turns; it is unbiased if every group is one line, too high by what the lines of a
    group mean to one another otherwise. Of total variation on phantoms at 4x (some 20 such lines) it was twice the
    error with 4 groups, with 10 a quarter above it. For a method that keeps what was measured it is a
    cross-validation: the lines left out stand for the missing ones.

    ``derivative`` scales all lines a little up or down at random, as Stein's identity has it. It is right for linear h,
    and blind to what a method does about a line that is absent: one that keeps the measured lines and fills in the
    others seems better than it is.

    Parameters
    ----------
    method : acquisition to complex image ``(batch, h, w)``, the same for the same acquisition. Its phase is that of the
        acquisition's maps. Maps that it makes itself of fully sampled lines do no harm.
    acquisition : of a line mask.
    density : probability with which each line was measured, ``(w,)`` or ``(batch, w)``; one from
        :func:`spinwarp.uncertainty.density.adapted_density` makes the estimate vary less.
    probe, n_probes : of the cross term; each probe is one more evaluation of the method.
    noise_std : ``(batch,)`` root of E|n|^2 of a sample of k-space. Takes one more evaluation.
    generator : of the signs of ``derivative`` and of the noise's probe.

    Raises
    ------
    InputError : if the probe is unknown, there is none, the mask is none of lines, or a line could never be measured.
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
    """Part ``lines``, bool ``(batch, 1, 1, w)``, into at most ``n`` groups, neighbours into different ones."""
    number = lines.cumsum(-1) - 1
    parts = (lines & (number % n == i) for i in range(n))
    return [part for part in parts if part.any()]


def _check(mask: Tensor, p: Tensor, probe: str, n_probes: int) -> None:
    if probe not in PROBES:
        raise InputError(f"probe={probe!r} is not one of {', '.join(PROBES)}")
    if n_probes < 1:
        raise InputError(f"SURE takes at least one probe; got n_probes={n_probes}")
    if mask.shape[-2] != 1:
        raise InputError(
            "SURE knows masks of whole lines, and here points were sampled or rows are missing (an asymmetric echo); "
            "choose a mask such as mask=random_4x, and data with all rows"
        )
    if not ((p > 0) & (p <= 1)).all():
        raise InputError("SURE needs a probability above 0 and up to 1 for each line: what is never measured has none")


def _columns(density: Tensor) -> Tensor:
    """``(w,)`` or ``(batch, w)`` as ``(batch or 1, 1, 1, w)``."""
    return density.view(-1, 1, 1, density.shape[-1])


def _signs(like: Tensor, generator: Generator | None) -> Tensor:
    """Rademacher numbers of modulus one, the same for every item of the batch; complex ones have four values."""

    def draw() -> Tensor:
        bits = torch.randint(2, like.shape[1:], generator=generator, device=like.device)
        return (2 * bits - 1).to(like.real.dtype)

    return torch.complex(draw(), draw()) / 2**0.5 if like.is_complex() else draw()


def _product(a: Tensor, b: Tensor) -> Tensor:
    return (a.conj() * b).real


def _power(x: Tensor) -> Tensor:
    return x.abs().square()


def _sum(x: Tensor) -> Tensor:
    """Over all but the batch."""
    return x.flatten(1).sum(1)
