"""Untrained networks: the structure of a network is the prior, and its weights are fitted to one acquisition."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from spinwarp.acquisition import Acquisition, Reconstruction, item_acquisition
from spinwarp.channels import to_complex
from spinwarp.coils import combine
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.masks import hold_out
from spinwarp.operators.samples import in_samples, sampler
from spinwarp.operators.sense import coil_maps, expand
from spinwarp.recon.base import Reconstructor
from spinwarp.recon.network_fit import STOPS, OnIterate, fit

OUTPUTS = ("image", "coils")
PRECISIONS = ("32", "bf16")
Factory = Callable[[tuple[int, int], int], nn.Module]


class UntrainedNetwork(Reconstructor):
    """Fit theta to ``|A G_theta(z) - y|^2`` of each slice from random weights, then put the measured k-space back.

    No training data at all: a convolutional network fits an image sooner than aliasing and noise, so that the fit has
    to be stopped in time. The weights come from the generator alone; every item of a batch starts from the same ones,
    so that it does not depend on its neighbours, and nothing stays from one call to the next.

    Parameters
    ----------
    network : makes a module that without an argument gives its picture ``(1, channels, h, w)``; called with the size
        and the number of channels, such as :class:`spinwarp.models.conv_decoder.ConvDecoder`.
    output : ``image``, one complex image seen through the coil maps, or ``coils``, one for every coil, as the
        ConvDecoder's authors do; that needs no maps.
    iterations : of Adam, at most.
    learning_rate : of Adam.
    stop : ``held_out`` keeps the iterate with the least error on measured samples that were not fitted and ends when
        ``patience`` iterations brought none better; ``authors`` goes by the fitted ones; ``fixed`` keeps the last. See
        :func:`spinwarp.recon.network_fit.fit`.
    patience : iterations.
    share : of the samples outside the autocalibration lines, held out where ``stop`` asks for it.
    n_seeds : fits from so many random weights; more than one: their mean, and their standard deviation beside it.
    data_consistency : put the measured k-space back in the end, what was held out too.
    amplitude : brightness of the picture in the network's own units, of which it starts near 0.1. One far above makes
        the last layer, which has the way to go, slow beside the others, and they find the structure meanwhile.
    precision : ``32``, or ``bf16`` for the network's inside, faster where the processor has it.

    Raises
    ------
    InputError : if an option cannot be.

    References
    ----------
    Ulyanov, Vedaldi and Lempitsky, "Deep image prior", CVPR 2018.
    Darestani and Heckel, "Accelerated MRI with un-trained neural networks", IEEE TCI 2021; they take the scale from the
    full k-space, here it is from the measured one.
    """

    def __init__(
        self,
        network: Factory,
        output: str = "image",
        iterations: int = 800,
        learning_rate: float = 0.008,
        stop: str = "held_out",
        patience: int = 250,
        share: float = 0.1,
        n_seeds: int = 1,
        data_consistency: bool = True,
        amplitude: float = 30.0,
        precision: str = "32",
    ) -> None:
        self.network = network
        self.output = output
        self.iterations = iterations
        self.learning_rate = learning_rate
        self.stop = stop
        self.patience = patience
        self.share = share
        self.n_seeds = n_seeds
        self.data_consistency = data_consistency
        self.amplitude = amplitude
        self.precision = str(precision)  # YAML reads 32 as a number
        self._check()

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        """Reconstruct a batch, one item after the other."""
        source = generator or torch.Generator().manual_seed(0)
        seeds = torch.randint(2**62, (self.n_seeds,), generator=source, device=source.device).tolist()
        items = [item_acquisition(acquisition, i) for i in range(len(acquisition.kspace))]
        images = torch.stack([torch.cat([self.reconstruct(item, seed) for item in items]) for seed in seeds])
        if self.n_seeds == 1:
            return Reconstruction(image=images[0])
        return Reconstruction(image=images.mean(0), std=images.std(0), samples=images)

    def reconstruct(self, acquisition: Acquisition, seed: int = 0, on_iterate: OnIterate | None = None) -> Tensor:
        """Reconstruct a batch of one from one draw of random weights.

        Parameters
        ----------
        acquisition : a batch of one.
        seed : of the weights and of z.
        on_iterate : called after every iteration with its :class:`spinwarp.recon.network_fit.Iterate`, whose output is
            the finished image in the units of the data: draws the error against the iteration, the stop marked.

        Returns
        -------
        image : ``(1, h, w)`` complex.
        """
        # evaluation may run in inference mode, whose tensors know no gradient: clones made outside of it do
        with torch.inference_mode(False), torch.enable_grad():
            kspace, mask = acquisition.kspace.clone(), acquisition.mask.clone()
            maps = None if acquisition.maps is None else acquisition.maps.clone()
            scale = _brightness(combine(ifftc(kspace), maps)) / self.amplitude
            # an acquisition of zeros stays one, and its image is the network's times a scale of zero
            scaled = replace(acquisition, kspace=kspace * (1 / scale).nan_to_num(posinf=1), mask=mask, maps=maps)
            through = coil_maps(scaled) if self.output == "image" else None
            sample = sampler(mask)

            def coil_images(output: Tensor) -> Tensor:
                images = to_complex(output)  # (1, 1 or coil, h, w)
                return images if through is None else expand(images[:, 0], through)

            @torch.no_grad()
            def finish(output: Tensor) -> Tensor:
                images = coil_images(output)
                return combine(put_back(images, scaled) if self.data_consistency else images, maps) * scale

            held_out = hold_out(mask, self.share if self.stop == "held_out" else 0, acquisition.n_acs)
            picture = fit(
                _fresh(self.network, kspace, kspace.shape[1] if through is None else 1, seed),
                lambda output: sample(coil_images(output)),
                sample(ifftc(scaled.kspace)),
                in_samples(held_out, mask),
                iterations=self.iterations,
                learning_rate=self.learning_rate,
                stop=self.stop,
                patience=self.patience,
                precision=self.precision,
                on_iterate=None if on_iterate is None else lambda i: on_iterate(replace(i, output=finish(i.output))),
            )
            return finish(picture)

    def _check(self) -> None:
        choices = {"output": OUTPUTS, "stop": STOPS, "precision": PRECISIONS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}")
        for name in ("iterations", "patience", "n_seeds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("learning_rate", "amplitude"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name}={getattr(self, name)} must be above 0")
        if not 0 <= self.share < 1:
            raise InputError(f"share={self.share} must be at least 0 and below 1")


def put_back(images: Tensor, acquisition: Acquisition) -> Tensor:
    """Replace what coil images ``(batch, coil, h, w)`` say of the measured k-space by what was measured."""
    return ifftc(torch.where(acquisition.mask, acquisition.kspace, fftc(images)))


def _fresh(factory: Factory, kspace: Tensor, n_images: int, seed: int) -> nn.Module:
    """Make a network with the weights of ``seed``, the same on every device; torch's own generator stays as it was."""
    h, w = kspace.shape[-2:]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = factory((h, w), 2 * n_images)
    # channels last: the layout of the fast convolutions
    return network.to(kspace.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _brightness(image: Tensor) -> Tensor:
    """What all but a hundredth of an image is darker than."""
    return torch.quantile(image.abs(), 0.99)
