"""Monte Carlo dropout: draws from a trained network (Gal and Ghahramani, ICML 2016, arXiv 1506.02142)."""

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

    A network trained with dropout approximates a posterior over weights, from which each pass draws one set. Apart from
    dropout the network runs as in evaluation. The standard deviation of a network that predicts one is added
    (:func:`mixture`).

    Every item of a batch gets the same draws of dropout, so it does not depend on its neighbours.

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
            raise InputError(f"n_samples={n_samples} gives no spread; recon=mc_dropout needs at least 2")
        network, record = load_end_to_end(path, trusted)
        super().__init__(network)
        layers = [layer for layer in network.modules() if isinstance(layer, _DROPOUT) and layer.p > 0]
        if not layers:
            raise InputError(
                f"the network in {path} was trained without dropout, so all its samples would be equal; train one with "
                f"dropout, for example train.py model=unet_small model.net.dropout=0.1"
            )
        for layer in layers:
            layer.train()
        self.n_samples = n_samples
        self.record = {key: value for key, value in record.items() if key != "name"}

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        """Draw samples of every item of a batch."""
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
    """Seed torch's own generators, from which dropout draws, within the block; restore them afterwards."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
