"""Dropout left on: draws from a trained network (Gal and Ghahramani, ICML 2016, arXiv 1506.02142)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Generator, nn

from spinwarp.acquisition import Acquisition, Reconstruction, item_acquisition
from spinwarp.errors import InputError
from spinwarp.models.loading import load_end_to_end
from spinwarp.progress import part
from spinwarp.recon.base import NetworkReconstructor
from spinwarp.recon.samples import join, mixture

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class MCDropout(NetworkReconstructor):
    """Mean and spread of passes through one network, each with other feature maps dropped, as in its training.

    A network trained with dropout is a rough posterior over weights, from which each pass draws one set. Everything but
    the dropout is as in evaluation. A network that gives a deviation of its own adds it (:func:`mixture`).

    Every image of a batch meets the same draws of dropout, so that it does not depend on its neighbours.

    Parameters
    ----------
    path : the ``.ckpt`` file of a training with dropout.
    n_samples : passes, at least two.
    trusted : packages beside spinwarp from which the file may build its network.

    Raises
    ------
    InputError : if the file cannot be used, or its network has no dropout.
    """

    def __init__(self, path: str, n_samples: int = 16, trusted: Sequence[str] = ()) -> None:
        if n_samples < 2:
            raise InputError(f"n_samples={n_samples} has no spread; recon=mc_dropout takes 2 samples or more")
        network, record = load_end_to_end(path, trusted)
        super().__init__(network)
        layers = [layer for layer in network.modules() if isinstance(layer, _DROPOUT) and layer.p > 0]
        if not layers:
            raise InputError(
                f"the network in {path} was trained without dropout, so that all its samples would be equal; train one "
                f"with it, as by train.py model=unet_small model.net.dropout=0.1"
            )
        for layer in layers:
            layer.train()
        self.n_samples = n_samples
        self.record = {key: value for key, value in record.items() if key != "name"}

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        """Draw of every item of a batch."""
        device = generator.device if generator is not None else None
        seeds = torch.randint(2**62, (self.n_samples,), generator=generator, device=device).tolist()
        n = len(acquisition.kspace)
        results = []
        for i in range(n):
            item = item_acquisition(acquisition, i)
            answers = []
            for k, seed in enumerate(seeds):
                with _seeded(seed, acquisition.kspace.device), part(i * self.n_samples + k, n * self.n_samples):
                    answers.append(super().__call__(item))
            results.append(mixture(answers))
        return join(results)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within the block torch's own generators, which dropout draws from, start at ``seed``; then they are as before."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
