"""A score model is a denoiser: score = (D(x, sigma) - x) / sigma^2."""

import torch
from torch import Tensor, nn

from spinwarp.channels import to_channels, to_complex
from spinwarp.errors import InputError
from spinwarp.models.complex_network import ComplexNetwork

CHANNELS = {"complex": 2, "magnitude": 1}


class Denoiser(ComplexNetwork):
    """``D(x, sigma)``: the mean of all images that could have become x by adding noise of standard deviation sigma.

    ``sigma`` always refers to complex noise: ``E |n|^2 = sigma^2``, half of it in the real and half in the imaginary
    part. At every noise level, the network's input has variance one and its target is a mixture of noise and image with
    variance one. The coefficients of Karras et al. follow from this.

    Parameters
    ----------
    network : from ``(batch, channels, h, w)`` and the logarithm of the noise level ``(batch,)`` to the first shape.
    channels : ``complex``, two channels; or ``magnitude``, one channel: a prior for images without phase, applied to
        real and imaginary parts separately, as in score-MRI. :mod:`spinwarp.recon.posterior` removes the phase first.
    sigma_data : root mean square of the images; about one in the units of :func:`spinwarp.preparation.prior_scale`.

    Raises
    ------
    InputError : if ``channels`` is unknown or does not fit the channels of the network.

    References
    ----------
    Karras et al., "Elucidating the design space of diffusion-based generative models" (EDM), arXiv 2206.00364, table 1.
    Chung and Ye, "Score-based diffusion models for accelerated MRI" (score-MRI), arXiv 2110.05243.
    """

    def __init__(self, network: nn.Module, channels: str = "complex", sigma_data: float = 1.0) -> None:
        super().__init__()
        if channels not in CHANNELS:
            raise InputError(f"channels={channels!r} is not one of {', '.join(CHANNELS)}")
        n_channels = getattr(network, "channels", CHANNELS[channels])
        if n_channels != CHANNELS[channels]:
            raise InputError(
                f"a denoiser of {channels} images needs a network with {CHANNELS[channels]} channels, but this one has "
                f"{n_channels}; set model.net.network.channels={CHANNELS[channels]}"
            )
        self.network = network
        self.channels = channels
        self.sigma_data = sigma_data

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise images.

        Parameters
        ----------
        x : ``(batch, h, w)`` complex, or real images of a prior without phase.
        sigma : ``(batch,)``, or one number for all items.
        """
        sigma = sigma.to(x.real.dtype).expand(len(x))
        if not x.is_complex():
            return self._denoise(x[:, None], sigma, self.sigma_data)[:, 0]
        if self.channels == "complex":
            # real and imaginary part each have half the variance of noise and image
            return to_complex(self._denoise(to_channels(x[:, None]), sigma / 2**0.5, self.sigma_data / 2**0.5))[:, 0]
        parts = torch.cat([x.real, x.imag])[:, None]
        real, imag = self._denoise(parts, sigma.repeat(2) / 2**0.5, self.sigma_data)[:, 0].chunk(2)
        return torch.complex(real.contiguous(), imag.contiguous())

    def _denoise(self, x: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
        """Denoise real channels ``(batch, channel, h, w)``; ``sigma`` and ``sigma_data`` are per channel."""
        sigma = sigma.view(-1, 1, 1, 1)
        total = (sigma.square() + sigma_data**2).sqrt()
        skip, out = sigma_data**2 / total.square(), sigma * sigma_data / total
        # under autocast the network returns half precision; the sum is float32 again
        return skip * x + out * self.network(x / total, sigma.flatten().log())
