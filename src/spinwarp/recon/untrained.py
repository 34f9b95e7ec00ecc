"""Untrained networks: the structure of a network is the prior; its weights are fitted to one acquisition."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from spinwarp.acquisition import Acquisition, Reconstruction, collate_acquisitions, item_acquisition
from spinwarp.channels import PRECISIONS, to_complex
from spinwarp.coils import combine
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.masks import hold_out
from spinwarp.operators import sense
from spinwarp.operators.measured import in_samples, sampling_operator
from spinwarp.operators.sense import coil_maps, expand
from spinwarp.preparation import check_preparation, data_scale, prepared
from spinwarp.progress import part
from spinwarp.recon.base import Reconstructor
from spinwarp.recon.network_fit import STOPS, BatchedNetworks, Iterate, OnIterate, fit
from spinwarp.recon.samples import from_samples
from spinwarp.solvers import per_item

OUTPUTS = ("image", "coils")
Factory = Callable[[tuple[int, int], int], nn.Module]


@dataclass(eq=False)
class UntrainedNetwork(Reconstructor):
    """Fit theta to ``|A G_theta(z) - y|^2`` of each slice, from random weights, then restore the measured k-space.

    It needs no training data. A convolutional network fits an image faster than aliasing and noise, so the fit must
    stop in time. The random weights depend on the generator alone. Every item of a batch starts from the same ones and
    does not depend on its neighbours. A call keeps nothing for the next.

    Parameters
    ----------
    network : called with the size and the number of channels. Returns a module that takes no argument and returns its
        picture ``(1, channels, h, w)``, such as :class:`spinwarp.models.conv_decoder.ConvDecoder`.
    output : ``image``: one complex image, seen through the coil maps. ``coils``: one image for each coil, combined by
        root sum of squares, as the ConvDecoder's authors do; it needs no maps.
    maps, whiten, virtual_coils : for ``image``; see :class:`spinwarp.recon.regularised.Regularised`.
    iterations : of Adam, at most.
    learning_rate : of Adam.
    stop : which iterate to keep. ``held_out``: the one with the smallest error on measured lines that were held out.
        ``authors``: the one with the smallest error on the fitted lines. ``fixed``: the last. See
        :func:`spinwarp.recon.network_fit.fit`.
    patience : ``held_out`` ends after this many iterations without a better one.
    holdout_every : ``held_out`` holds out one in this many lines outside the centre.
    n_seeds : number of fits, each from other random weights. Several give their mean and standard deviation.
    warm_start : start each slice of a batch except the first from the weights of the slice before it, and take at most
        this many iterations. This suits batches of neighbouring slices. None: every slice starts from random weights.
    at_once : slices and seeds that are fitted as one batched problem.
    data_consistency : restore the measured k-space at the end, held-out lines included.
    amplitude : level of the bright parts of the image in the network's units; the network starts near 0.1. With a much
        higher level the last layer must grow a lot, which takes many iterations; the other layers meanwhile find the
        structure.
    precision : inside the network: ``32``, ``bf16``, or ``auto``, which is bf16 on devices that support it natively.
    one_in : old name of ``holdout_every``, for one version.

    Raises
    ------
    InputError : if an option is out of range.

    References
    ----------
    Ulyanov, Vedaldi and Lempitsky, "Deep image prior", CVPR 2018. Darestani and Heckel, "Accelerated MRI with
    un-trained neural networks", IEEE TCI 2021; they take the scale from the full k-space, here it comes from the
    measured one.
    """

    network: Factory
    output: str = "image"
    maps: str = "espirit"
    whiten: bool = False
    virtual_coils: int | None = None
    iterations: int = 1500
    learning_rate: float = 0.008
    stop: str = "held_out"
    patience: int = 250
    holdout_every: int = 5
    n_seeds: int = 1
    warm_start: int | None = None
    at_once: int = 1
    data_consistency: bool = True
    amplitude: float = 30.0
    precision: str | int = "32"  # YAML reads 32 as a number
    one_in: int | None = None

    def __post_init__(self) -> None:
        self.precision = str(self.precision)
        if self.one_in is not None:
            warnings.warn(
                "recon.one_in is now recon.holdout_every; the next version drops it", FutureWarning, stacklevel=3
            )
            self.holdout_every, self.one_in = self.one_in, None
        check_preparation(self.maps, self.virtual_coils)
        choices = {"output": OUTPUTS, "stop": STOPS, "precision": PRECISIONS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}")
        least = {"iterations": 1, "patience": 1, "holdout_every": 2, "n_seeds": 1, "at_once": 1}
        for name, number in least.items():
            if getattr(self, name) < number:
                raise InputError(f"{name}={getattr(self, name)} must be at least {number}")
        for name in ("learning_rate", "amplitude"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name}={getattr(self, name)} must be above 0")
        if self.output == "coils" and (self.whiten or self.virtual_coils is not None):
            raise InputError(
                "output=coils fits the coils as they are; whiten and virtual_coils need recon.output=image"
            )
        if self.warm_start is not None and (self.warm_start < 1 or self.at_once > 1):
            raise InputError(
                f"warm_start={self.warm_start} must be at least 1, and at_once={self.at_once} must be 1 with it"
            )

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        """Reconstruct a batch."""
        source = generator or torch.Generator().manual_seed(0)
        seeds = torch.randint(2**62, (self.n_seeds,), generator=source, device=source.device).tolist()
        return from_samples(self.reconstruct(acquisition, seeds).unbind(1))

    def reconstruct(
        self, acquisition: Acquisition, seeds: Sequence[int] = (0,), on_iterate: OnIterate | None = None
    ) -> Tensor:
        """Reconstruct a batch from several draws of random weights.

        Parameters
        ----------
        acquisition : a batch.
        seeds : of the weights and of z, one for each fit.
        on_iterate : called after every iteration of every fit with its :class:`spinwarp.recon.network_fit.Iterate`,
            whose picture is the finished image in the units of the data; for example to plot the error over the
            iterations.

        Returns
        -------
        images : ``(seeds, batch, h, w)`` complex.
        """
        # a tensor that was made in inference mode takes no gradient, but its copy does
        with torch.inference_mode(False), torch.enable_grad():
            problem = acquisition.to(acquisition.kspace.device, copy=True)
            if self.output == "image":
                # one by one: rounding of the maps can flip the signs of gradients, which Adam's first steps follow
                alone = [item_acquisition(problem, i).to(copy=True) for i in range(len(problem.kspace))]
                options = self.maps, self.whiten, self.virtual_coils
                problem = collate_acquisitions([prepared(one, *options) for one in alone])
            scale = data_scale(problem) / self.amplitude
            problem = replace(problem, kspace=problem.kspace / per_item(scale, problem.kspace))
            # an item without measured data gets an image of zeros
            scale = scale * (problem.kspace != 0).flatten(1).any(1)
            pairs = [(seed, i) for seed in seeds for i in range(len(scale))]
            images: list[Tensor] = []
            network: nn.Module | None = None
            for start in range(0, len(pairs), self.at_once):
                drawn, items = zip(*pairs[start : start + self.at_once], strict=True)
                warm = self.warm_start if items[0] > 0 else None
                if network is None or warm is None:
                    network = self._fresh(problem, drawn)
                batch, level = _pick(problem, list(items)), scale[list(items)]
                with part(start, len(pairs), len(items)):
                    images += self._fit(network, batch, level, warm or self.iterations, on_iterate)
            return torch.stack(images).view(len(seeds), len(scale), *images[0].shape)

    def _fresh(self, problem: Acquisition, seeds: Sequence[int]) -> nn.Module:
        """Make one network per seed, the same on every device; torch's global generator keeps its state."""
        h, w = problem.kspace.shape[-2:]
        n_images = 1 if self.output == "image" else problem.kspace.shape[1]
        networks = []
        with torch.random.fork_rng(devices=[]):
            for seed in seeds:
                torch.default_generator.manual_seed(seed)
                made = self.network((h, w), 2 * n_images).to(problem.kspace.device)
                # channels last: the layout of the fast convolutions
                networks.append(made.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        return networks[0] if len(networks) == 1 else BatchedNetworks(networks)

    def _fit(
        self, network: nn.Module, problem: Acquisition, scale: Tensor, iterations: int, on_iterate: OnIterate | None
    ) -> Tensor:
        """Fit one batched problem."""
        sample = sampling_operator(problem.mask)
        held = hold_out(problem, self.holdout_every) if self.stop == "held_out" else torch.zeros_like(problem.mask)

        def follow(iterate: Iterate) -> None:
            if on_iterate is not None:
                on_iterate(replace(iterate, picture=self._finish(iterate.picture, problem, scale)))

        pictures = fit(
            network,
            lambda picture: sample(self._coil_images(picture, problem)),
            sample(ifftc(problem.kspace)),
            in_samples(held, problem.mask),
            sampled=in_samples(problem.mask, problem.mask),
            iterations=iterations,
            learning_rate=self.learning_rate,
            stop=self.stop,
            patience=self.patience,
            precision=str(self.precision),
            on_iterate=follow,
        )
        return self._finish(pictures, problem, scale)

    def _coil_images(self, picture: Tensor, problem: Acquisition) -> Tensor:
        images = to_complex(picture)  # (b, 1 or coil, h, w)
        return images if self.output == "coils" else expand(images[:, 0], coil_maps(problem))

    @torch.no_grad()
    def _finish(self, picture: Tensor, problem: Acquisition, scale: Tensor) -> Tensor:
        """Turn the networks' pictures into images ``(batch, h, w)`` in the units of the data."""
        if self.output == "coils":
            images = to_complex(picture)
            images = put_back(images, problem) if self.data_consistency else images
            return combine(images, problem.maps) * per_item(scale, picture[:, 0])
        # where the maps are zero no coil sees the picture, so its values there are arbitrary
        image, operator = to_complex(picture)[:, 0] * (coil_maps(problem) != 0).any(1), sense(problem)
        if self.data_consistency:
            image = image + operator.adjoint(problem.kspace - operator(image))
        return image * per_item(scale, image)


def put_back(images: Tensor, acquisition: Acquisition) -> Tensor:
    """Put the measured samples into the k-space of coil images ``(batch, coil, h, w)``."""
    return ifftc(torch.where(acquisition.mask, acquisition.kspace, fftc(images)))


def _pick(acquisition: Acquisition, indices: list[int]) -> Acquisition:
    """Return the items with these indices, which may repeat."""
    fields = {name: getattr(acquisition, name) for name in ("kspace", "mask", "maps", "n_acs")}
    return Acquisition(**{name: value[indices] for name, value in fields.items() if value is not None})
