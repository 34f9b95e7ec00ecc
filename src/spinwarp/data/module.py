"""The LightningDataModule: slices of volumes, undersampled and batched."""

import hashlib
import signal
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.random import RandomState
from torch.utils.data import DataLoader, Dataset

from spinwarp.acquisition import Example, collate
from spinwarp.coils import low_resolution_maps
from spinwarp.data.batches import Batch, InOrder, Item, ShapeBatchSampler
from spinwarp.data.given import GivenMaps
from spinwarp.data.source import DrawingSource, Source, Volume, check_split
from spinwarp.data.undersample import Undersample
from spinwarp.errors import InputError
from spinwarp.lightning_internals import next_batch
from spinwarp.masks.base import Mask, seed_of

Augmentation = Callable[[Example, RandomState], Example]
_MAPS = {"low_resolution": low_resolution_maps, "none": None}


class SliceDataset(Dataset[Example]):
    """Slices of volumes, undersampled; an item is a whole batch.

    Parameters
    ----------
    source : reads the slices.
    volumes : the volumes of one split.
    slices : (index of the volume, index of the slice) of each item.
    undersample : makes the accelerated example.
    seed : of the training masks, together with epoch, volume and slice; None: the mask is seeded from the file's name
        and the same for all slices of a volume, as the fastMRI reference does in validation.
    augment : changes the fully sampled example first.
    given : adds coil maps of the user's own; None: those of the source, if it has any.
    """

    def __init__(
        self,
        source: Source,
        volumes: Sequence[Volume],
        slices: Sequence[tuple[int, int]],
        undersample: Undersample,
        seed: int | None,
        augment: Augmentation | None = None,
        given: GivenMaps | None = None,
    ) -> None:
        self.source = source
        self.given = given
        self.volumes = volumes
        self.slices = slices
        self.undersample = undersample
        self.seed = seed
        self.augment = augment

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, items: Sequence[Item]) -> Example:
        return collate([self.example(epoch, index) for epoch, index in items])

    def volume_of(self, index: int) -> str:
        """Return the name of the volume that a slice is of."""
        return self.volumes[self.slices[index][0]].name

    def example(self, epoch: int, index: int) -> Example:
        """Return one slice as a batch of one."""
        volume = self.volumes[self.slices[index][0]]
        number = self.slices[index][1]
        if self.seed is None:
            generator = RandomState(seed_of(volume.name))
        else:
            key = f"{self.seed}/{epoch}/{volume.name}/{number}".encode()
            generator = RandomState(np.frombuffer(hashlib.sha256(key).digest(), dtype=np.uint32))
        if self.seed is not None and isinstance(self.source, DrawingSource):
            example = self.source.draw(volume, number, generator)
        else:
            example = self.source.read(volume, number)
        if self.given is not None:
            example = self.given(example)
        if self.augment is not None:
            example = self.augment(example, generator)
        return self.undersample(example, generator)


class FastMRIDataModule(LightningDataModule):
    """Trains, validates and tests on slices of volumes, split by volume.

    Parameters
    ----------
    source : the data set.
    mask : sampling mask of training; None leaves the data as measured.
    eval_mask : of validation and test; ``mask`` if None.
    maps : ``low_resolution`` (from the ACS of the accelerated data), ``none``, or the path of :class:`GivenMaps`.
    batch_size : slices of one shape a batch.
    num_workers : processes that load; 0 loads in the main one.
    volume_sample_rate, slice_sample_rate : share of training volumes, and of the slices of each, that are used; the
        choice is seeded, so that all processes agree on it.
    augment : changes fully sampled training examples, such as :class:`spinwarp.data.augment.FlipsAndPhase`.
    edge_slices : slices left out at either end of each training volume.
    seed : of order, masks and sample rates in training.

    Raises
    ------
    InputError : if an option cannot be.
    """

    def __init__(
        self,
        source: Source,
        mask: Mask | None,
        eval_mask: Mask | None = None,
        maps: str = "low_resolution",
        batch_size: int = 1,
        num_workers: int = 0,
        volume_sample_rate: float = 1.0,
        slice_sample_rate: float = 1.0,
        augment: Augmentation | None = None,
        edge_slices: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"data.batch_size is at least 1; got {batch_size}")
        for name, number in {"num_workers": num_workers, "edge_slices": edge_slices}.items():
            if number < 0:
                raise InputError(f"data.{name} is at least 0; got {number}")
        for name, rate in {"volume_sample_rate": volume_sample_rate, "slice_sample_rate": slice_sample_rate}.items():
            if not 0 < rate <= 1:
                raise InputError(f"data.{name} is a share above 0 and up to 1; got {rate}")
        self.source = source
        self.mask = mask
        self.eval_mask = eval_mask if eval_mask is not None else mask
        self.maps = _MAPS.get(maps)
        self.given = None if maps in _MAPS else GivenMaps(maps, "data.maps")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.volume_sample_rate = volume_sample_rate
        self.slice_sample_rate = slice_sample_rate
        self.augment = augment
        self.edge_slices = edge_slices
        self.seed = seed
        self._start = (0, 0)

    def prepare_data(self) -> None:
        """Make, fetch or convert the data where that is not done yet."""
        self.source.prepare()

    def dataset(
        self, split: str, evaluate: bool = False, only: Mapping[str, Collection[int]] | None = None
    ) -> SliceDataset:
        """Return the undersampled slices of a split.

        ``evaluate`` takes the training split as validation takes its own: all slices, masks seeded from the names.
        ``only`` names the slices that are taken of each volume; None: all.
        """
        check_split(split)
        training = split == "train" and not evaluate
        volumes = self.source.volumes(split)
        slices = [(v, s) for v, volume in enumerate(volumes) for s in range(volume.n_slices)]
        if training:
            slices = self._sampled(volumes)
        if only is not None:
            slices = [(v, s) for v, s in slices if s in only.get(volumes[v].name, ())]
        if not slices:
            raise InputError(f"the {split} split of {self.source.name} has no slices left")
        undersample = Undersample(self.mask if training else self.eval_mask, self.maps)
        if not training:
            return SliceDataset(self.source, volumes, slices, undersample, seed=None, given=self.given)
        return SliceDataset(self.source, volumes, slices, undersample, self.seed, self.augment, self.given)

    def loader(
        self,
        split: str,
        evaluate: bool = False,
        only: Mapping[str, Collection[int]] | None = None,
        batches: Sequence[Batch] | None = None,
    ) -> DataLoader[Example]:
        """Return the batches of a split, in order but for training; ``evaluate`` and ``only`` as in :meth:`dataset`.

        Under ``trainer.overfit_batches`` training has its batches in order too, with the same masks in every epoch.
        ``batches`` are those that are loaded, of all that the loader without them has.
        """
        dataset = self.dataset(split, evaluate, only)
        shapes = [dataset.volumes[v].shape for v, _ in dataset.slices]
        training = split == "train" and not evaluate
        start = self._start if training else (0, 0)
        sampler: ShapeBatchSampler | Sequence[Batch]
        if batches is not None:
            sampler = batches
        elif training and not getattr(self.trainer, "overfit_batches", 0):
            sampler = ShapeBatchSampler(shapes, self.batch_size, shuffle=True, seed=self.seed, start=start)
        else:
            sampler = InOrder(shapes, self.batch_size, start)
        return DataLoader(
            dataset,
            sampler=sampler,  # yields whole batches, so the loader must not batch again
            batch_size=None,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_leave_signals,
        )

    def train_dataloader(self) -> DataLoader[Example]:
        """Return the training batches."""
        return self.loader("train")

    def val_dataloader(self) -> DataLoader[Example]:
        """Return the validation batches."""
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[Example]:
        """Return the test batches."""
        return self.loader("test")

    def state_dict(self) -> dict[str, Any]:
        """Where in the data training is, for a checkpoint."""
        epoch, batch = next_batch(self.trainer)
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let training go on where the checkpoint was written."""
        self._start = (state_dict["epoch"], state_dict["batch"])
        # Lightning knows of other ways only to go on within an epoch
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch")

    def setup(self, stage: str) -> None:
        """Begin at the first epoch, unless a checkpoint says otherwise after this."""
        if stage == "fit":
            self._start = (0, 0)

    def _sampled(self, volumes: Sequence[Volume]) -> list[tuple[int, int]]:
        choose = partial(_choose, generator=np.random.default_rng(self.seed))
        edge = self.edge_slices
        return [
            (v, s)
            for v in choose(np.arange(len(volumes)), self.volume_sample_rate)
            for s in choose(np.arange(volumes[v].n_slices)[edge : volumes[v].n_slices - edge], self.slice_sample_rate)
        ]


def _leave_signals(worker: int) -> None:  # noqa: ARG001
    """Let Ctrl-C stop the main process alone, which needs its workers to end in order; it can still end them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _choose(candidates: np.ndarray, rate: float, generator: np.random.Generator) -> list[int]:
    n = max(round(len(candidates) * rate), min(1, len(candidates)))
    return sorted(int(i) for i in generator.permutation(candidates)[:n])
