"""Untrained networks: the structure of a network is the prior, and its weights are fitted to one acquisition."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from spinwarp.acquisition import Acquisition, Reconstruction, collate_acquisitions, item_acquisition
from spinwarp.channels import PRECISIONS, to_complex
from spinwarp.coils import combine
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.masks import hold_out
from spinwarp.operators import sense
from spinwarp.operators.measured import in_samples, sampler
from spinwarp.operators.sense import coil_maps, expand
from spinwarp.preparation import check_preparation, data_scale, prepared
from spinwarp.progress import report
from spinwarp.recon.base import Reconstructor
from spinwarp.recon.network_fit import STOPS, Iterate, OnIterate, SideBySide, fit
from spinwarp.recon.samples import from_samples
from spinwarp.solvers import per_item

OUTPUTS = ("image", "coils")
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
    output : ``image``, one complex image seen through the coil maps, or ``coils``, one for every coil, joined by the
        root of their sum of squares, as the ConvDecoder's authors do; that needs no maps.
    maps, whiten, virtual_coils : of ``image``; see :class:`spinwarp.recon.regularised.Regularised`.
    iterations : of Adam, at most.
    learning_rate : of Adam.
    stop : ``held_out`` keeps the iterate with the least error on measured lines that were not fitted and ends when
        ``patience`` iterations brought none better; ``authors`` goes by the fitted ones; ``fixed`` keeps the last. See
        :func:`spinwarp.recon.network_fit.fit`.
    patience : iterations.
    one_in : of so many lines outside the centre one is held out, where ``stop`` asks for it.
    n_seeds : fits from so many random weights; more than one: their mean, and their standard deviation beside it.
    warm_start : iterations, at most, of the slices of a batch after the first, each of which starts from the weights of
        the one before, a neighbour where the batch is of one volume. None: every slice starts afresh.
    at_once : slices and seeds that are fitted as one batched problem.
    data_consistency : put the measured k-space back in the end, what was held out too.
    amplitude : level of the bright parts of the image in the network's own units, of which it starts near 0.1. One far
        above makes the last layer, which has the way to go, slow beside the others, and they find the structure
        meanwhile.
    precision : of the network's inside: ``32``, ``bf16``, or ``auto``, which is bf16 where the device has it natively.

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
        maps: str = "espirit",
        whiten: bool = False,
        virtual_coils: int | None = None,
        iterations: int = 1500,
        learning_rate: float = 0.008,
        stop: str = "held_out",
        patience: int = 250,
        one_in: int = 5,
        n_seeds: int = 1,
        warm_start: int | None = None,
        at_once: int = 1,
        data_consistency: bool = True,
        amplitude: float = 30.0,
        precision: str | int = "32",
    ) -> None:
        self.network = network
        self.output = output
        self.maps = maps
        self.whiten = whiten
        self.virtual_coils = virtual_coils
        self.iterations = iterations
        self.learning_rate = learning_rate
        self.stop = stop
        self.patience = patience
        self.one_in = one_in
        self.n_seeds = n_seeds
        self.warm_start = warm_start
        self.at_once = at_once
        self.data_consistency = data_consistency
        self.amplitude = amplitude
        self.precision = str(precision)  # YAML reads 32 as a number
        self._check()

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        """Reconstruct a batch."""
        source = generator or torch.Generator().manual_seed(0)
        seeds = torch.randint(2**62, (self.n_seeds,), generator=source, device=source.device).tolist()
        return from_samples(self.reconstruct(acquisition, seeds).unbind(1))

    def reconstruct(
        self, acquisition: Acquisition, seeds: Sequence[int] = (0,), on_iterate: OnIterate | None = None
    ) -> Tensor:
        """Reconstruct a batch from draws of random weights.

        Parameters
        ----------
        acquisition, seeds : a batch, and of the weights and of z.
        on_iterate : called after every iteration of every fit with its :class:`spinwarp.recon.network_fit.Iterate`,
            whose picture is the finished image in the units of the data: draws the error against the iteration.

        Returns
        -------
        images : ``(seeds, batch, h, w)`` complex.
        """
        # a caller may be in inference mode, whose tensors know no gradient: copies made outside of it do
        with torch.inference_mode(False), torch.enable_grad():
            problem = acquisition.to(acquisition.kspace.device, copy=True)
            if self.output == "image":
                # one by one: Adam's first steps are the signs of gradients, in which a rounding of the maps would tell
                alone = [item_acquisition(problem, i).to(copy=True) for i in range(len(problem.kspace))]
                options = self.maps, self.whiten, self.virtual_coils
                problem = collate_acquisitions([prepared(one, *options) for one in alone])
            scale = data_scale(problem) / self.amplitude
            problem = replace(problem, kspace=problem.kspace / per_item(scale, problem.kspace))
            # what a network makes of nothing measured is not an image
            scale = scale * (problem.kspace != 0).flatten(1).any(1)
            pairs = [(seed, i) for seed in seeds for i in range(len(scale))]
            images: list[Tensor] = []
            network: nn.Module | None = None
            for start in range(0, len(pairs), self.at_once):
                drawn, items = zip(*pairs[start : start + self.at_once], strict=True)
                warm = self.warm_start if items[0] > 0 else None
                if network is None or warm is None:
                    network = self._fresh(problem, drawn)
                part, level = _pick(problem, list(items)), scale[list(items)]
                progress = start / len(pairs), len(items) / len(pairs)
                images += self._fit(network, part, level, warm or self.iterations, progress, on_iterate)
            return torch.stack(images).view(len(seeds), len(scale), *images[0].shape)

    def _fresh(self, problem: Acquisition, seeds: Sequence[int]) -> nn.Module:
        """Make a network of each seed, the same on every device; torch's own generator stays as it was."""
        h, w = problem.kspace.shape[-2:]
        n_images = 1 if self.output == "image" else problem.kspace.shape[1]
        networks = []
        with torch.random.fork_rng(devices=[]):
            for seed in seeds:
                torch.default_generator.manual_seed(seed)
                made = self.network((h, w), 2 * n_images).to(problem.kspace.device)
                # channels last: the layout of the fast convolutions
                networks.append(made.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        return networks[0] if len(networks) == 1 else SideBySide(networks)

    def _fit(
        self,
        network: nn.Module,
        problem: Acquisition,
        scale: Tensor,
        iterations: int,
        progress: tuple[float, float],
        on_iterate: OnIterate | None,
    ) -> Tensor:
        """Fit one batched problem; ``progress`` is the share of the call that is done, and that of this problem."""
        done, share = progress
        sample = sampler(problem.mask)
        held = hold_out(problem, self.one_in) if self.stop == "held_out" else torch.zeros_like(problem.mask)
        report(done)

        def follow(iterate: Iterate) -> None:
            report(done + share * iterate.number / iterations)
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
            precision=self.precision,
            on_iterate=follow,
        )
        return self._finish(pictures, problem, scale)

    def _coil_images(self, picture: Tensor, problem: Acquisition) -> Tensor:
        images = to_complex(picture)  # (b, 1 or coil, h, w)
        return images if self.output == "coils" else expand(images[:, 0], coil_maps(problem))

    @torch.no_grad()
    def _finish(self, picture: Tensor, problem: Acquisition, scale: Tensor) -> Tensor:
        """Make the image ``(batch, h, w)`` of the networks' pictures, in the units of the data."""
        if self.output == "coils":
            images = to_complex(picture)
            images = put_back(images, problem) if self.data_consistency else images
            return combine(images, problem.maps) * per_item(scale, picture[:, 0])
        # where the maps are zero no coil sees the picture, and it may be anything
        image, operator = to_complex(picture)[:, 0] * (coil_maps(problem) != 0).any(1), sense(problem)
        if self.data_consistency:
            image = image + operator.adjoint(problem.kspace - operator(image))
        return image * per_item(scale, image)

    def _check(self) -> None:
        check_preparation(self.maps, self.virtual_coils)
        choices = {"output": OUTPUTS, "stop": STOPS, "precision": PRECISIONS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}")
        least = {"iterations": 1, "patience": 1, "one_in": 2, "n_seeds": 1, "at_once": 1}
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
                f"warm_start={self.warm_start} with at_once={self.at_once} cannot be: a slice that starts from the one "
                "before takes at least 1 iteration and at_once=1"
            )


def put_back(images: Tensor, acquisition: Acquisition) -> Tensor:
    """Replace what coil images ``(batch, coil, h, w)`` say of the measured k-space by what was measured."""
    return ifftc(torch.where(acquisition.mask, acquisition.kspace, fftc(images)))


def _pick(acquisition: Acquisition, indices: list[int]) -> Acquisition:
    """Items of a batch, some perhaps several times."""
    fields = {name: getattr(acquisition, name) for name in ("kspace", "mask", "maps", "n_acs")}
    return Acquisition(**{name: value[indices] for name, value in fields.items() if value is not None})
