"""ZS-SSL: a network is trained on the one scan that it then reconstructs."""

import logging
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor, nn

from spinwarp.acquisition import Acquisition, Reconstruction, acs_columns, item_acquisition
from spinwarp.coils import noise_level
from spinwarp.errors import InputError
from spinwarp.fourier import fftc
from spinwarp.losses import NormalisedL1L2
from spinwarp.masks import draw_held_out
from spinwarp.models.loading import build_network, load_end_to_end
from spinwarp.operators.sense import coil_maps, expand
from spinwarp.preparation import check_preparation, prepared
from spinwarp.progress import part, report
from spinwarp.recon.base import Reconstructor, as_reconstruction

log = logging.getLogger("spinwarp")


@dataclass(eq=False)
class ZeroShot(Reconstructor):
    """Train a network on the measured lines of one slice, then give it all of them.

    One part of the lines is set aside for validation. The others are split several times into an input and a part on
    which the loss compares the k-space of the network's image with what was measured. Training ends when the error on
    the validation lines no longer falls, and the weights with the smallest one make the image. The first weights count
    too, so training may change nothing.

    Points are split one by one if the mask samples points. The centre, from which coil maps are made, is always in the
    input. Slices are trained one after the other, each from the same start. Dropout is off.

    Parameters
    ----------
    path : weights to start from: a checkpoint of ``train.py``, or a name such as ``pretrained:heads``.
    warm_start : False: start from random weights of the network that ``path`` describes, as in the paper.
    maps, whiten, virtual_coils : see :class:`spinwarp.recon.regularised.Regularised`.
    validation : fraction of the lines outside the centre that only the validation sees.
    held_out : fraction of the remaining ones that the loss sees and the input does not.
    n_splits : splits into input and loss; an epoch takes one step for each.
    epochs : at most.
    patience : stop after this many epochs without a smaller error.
    learning_rate : of Adam. The paper has 5e-4, 300 epochs and a patience of 25, from random weights.
    trusted : packages beside spinwarp from which the checkpoint may build its network.

    Raises
    ------
    InputError : if an option is out of range, or the file holds no network that reconstructs.

    References
    ----------
    Yaman, Hosseini and Akcakaya, "Zero-shot self-supervised learning for MRI reconstruction", ICLR 2022.
    """

    path: str = "pretrained:heads"
    warm_start: bool = True
    maps: str = "espirit"
    whiten: bool = False
    virtual_coils: int | None = None
    validation: float = 0.2
    held_out: float = 0.4
    n_splits: int = 25
    epochs: int = 50
    patience: int = 3
    learning_rate: float = 1e-5
    trusted: Sequence[str] = ()
    network: nn.Module = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_preparation(self.maps, self.virtual_coils)
        for name in ("validation", "held_out"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"recon.{name} is a fraction between 0 and 1; got {getattr(self, name)}")
        for name in ("n_splits", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"recon.{name} is at least 1; got {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise InputError(f"recon.learning_rate is above 0; got {self.learning_rate}")
        network, record = load_end_to_end(self.path, self.trusted)
        # a name of its own, or its results would pass for those of the weights as they are
        self.record = {**record, "name": f"{record.get('name', '')} zero_shot".strip()}
        self.network = network.eval().requires_grad_(False)
        self._loss = NormalisedL1L2()

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        """Reconstruct a batch."""
        source = generator or torch.Generator().manual_seed(0)
        seed = int(torch.randint(2**62, (1,), generator=source, device=source.device))
        n = len(acquisition.kspace)
        images = []
        # a tensor that was made in inference mode takes no gradient, but its copy does
        with torch.inference_mode(False), torch.enable_grad():
            copied = acquisition.to(acquisition.kspace.device, copy=True)
            for i in range(n):
                problem = prepared(item_acquisition(copied, i), self.maps, self.whiten, self.virtual_coils)
                if problem.noise_std is None:  # that of the whole scan, whatever lines a split leaves
                    problem = replace(problem, noise_std=noise_level(problem.kspace, problem.mask))
                with part(i, n):
                    images.append(self._trained(problem, seed))
        return Reconstruction(torch.cat(images))

    def _trained(self, problem: Acquisition, seed: int) -> Tensor:
        """Train on one slice and return its image ``(1, h, w)``."""
        generator = torch.Generator().manual_seed(seed)
        validation = draw_held_out(problem.mask, self.validation, generator)
        given = _without(problem, validation)
        parts = [draw_held_out(given.mask, self.held_out, generator) for _ in range(self.n_splits)]
        if not validation.any() or not all(part.any() for part in parts):
            raise InputError(
                f"recon=zero_shot splits the sampled lines outside the centre of k-space, and there are too few to "
                f"take {self.validation:g} of them for validation and {self.held_out:g} of the rest for the loss; "
                f"raise recon.validation and recon.held_out, or take the weights as they are: recon=checkpoint "
                f"recon.path={self.path}"
            )
        network = self._start(seed)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)

        def validated() -> float:
            with torch.no_grad():
                return float(self._error(network, given, validation, problem.kspace))

        first = best = validated()
        weights, best_at, epoch = deepcopy(network.state_dict()), 0, 0
        while epoch < self.epochs and epoch - best_at < self.patience:
            for step, held in enumerate(parts):
                loss = self._error(network, _without(given, held), given.mask, given.kspace)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                report(epoch * self.n_splits + step + 1, self.epochs * self.n_splits)
            epoch += 1
            error = validated()
            if error < best:
                best, best_at, weights = error, epoch, deepcopy(network.state_dict())
        network.load_state_dict(weights)
        log.info(
            "zero_shot stopped after %d of %d epochs; epoch %d had the smallest error on the validation lines: %.4f, "
            "and %.4f at the start",
            *(epoch, self.epochs, best_at, best, first),
        )
        with torch.no_grad():
            return as_reconstruction(network(problem)).image

    def _start(self, seed: int) -> nn.Module:
        """Return a network to train; torch's global generator keeps its state."""
        if self.warm_start:
            return deepcopy(self.network).requires_grad_()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network: nn.Module = build_network(self.record["net"], ("spinwarp.models", *self.trusted))
        device = next(self.network.parameters()).device
        return network.to(device).eval()

    def _error(self, network: nn.Module, given: Acquisition, compared: Tensor, measured: Tensor) -> Tensor:
        """Return the loss of the image that a network makes of ``given``, at the samples that are compared."""
        kspace = fftc(expand(as_reconstruction(network(given)).image, coil_maps(given)))
        loss: Tensor = self._loss(kspace * compared, measured * compared, measured.abs().flatten(1).amax(1))
        return loss


def _without(acquisition: Acquisition, held: Tensor) -> Acquisition:
    """Return an acquisition without some of its samples; its noise level and maps stay."""
    mask = acquisition.mask & ~held
    return replace(acquisition, kspace=acquisition.kspace * mask, mask=mask, n_acs=acs_columns(mask))
