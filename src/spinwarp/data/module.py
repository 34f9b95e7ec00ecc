"""The LightningDataModule: slices of volumes, undersampled and batched."""

import signal
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.random import RandomState
from torch.utils.data import DataLoader, Dataset

from spinwarp.acquisition import Acquisition, Example, collate
from spinwarp.data.adjacent import adjacent_indices, with_adjacent
from spinwarp.data.batches import Batch, InOrder, Item, ShapeBatchOrder
from spinwarp.data.given import GivenMaps
from spinwarp.data.row_block import RowBlock
from spinwarp.data.source import DrawingSource, Source, Volume, check_split, random_state
from spinwarp.data.split import Splitter
from spinwarp.data.undersample import MAPS, AddMaps, Undersample
from spinwarp.errors import InputError
from spinwarp.files import warn_once
from spinwarp.lightning_internals import next_batch
from spinwarp.masks import IndependentMask, LearnedMask, Mask, RandomMask, seed_of

Augmentation = Callable[[Example, RandomState], Example]


@runtime_checkable
class ScheduledAugmentation(Protocol):
    """An augmentation that changes from epoch to epoch."""

    def at(self, epoch: int) -> Augmentation:
        """Return the augmentation of an epoch, counted from 0."""
        ...


SUPERVISION = ("full", "split", "noisy")


@dataclass(eq=False)
class SliceDataset(Dataset[Example]):
    """Slices of volumes, undersampled; an item is a whole batch.

    Parameters
    ----------
    source : reads the slices.
    volumes : the volumes of one split.
    slices : (index of the volume, index of the slice) of each item.
    undersample : makes the accelerated example.
    seed : of the training masks, together with epoch, volume and slice. None: the file's name seeds the mask, which is
        the same for all slices of a volume, as in the validation of the fastMRI reference.
    augment : changes the fully sampled example before it is undersampled.
    given : adds coil maps of the user's own; None: those of the source, if it has any.
    splitter : splits what was measured. A scan is then measured once: its mask is seeded by its name in training too,
        it is augmented after undersampling, and training gets no target. None: no split.
    noisy : whether the splitter adds noise.
    unreferenced : names of volumes whose references are hidden; they too are measured once.
    n_adjacent : slices that an example brings: itself and those beside it, an odd number. They are augmented and
        undersampled alike.
    """

    source: Source
    volumes: Sequence[Volume]
    slices: Sequence[tuple[int, int]]
    undersample: Undersample
    seed: int | None
    augment: Augmentation | None = None
    given: GivenMaps | None = None
    splitter: Splitter | None = None
    noisy: bool = False
    unreferenced: frozenset[str] = frozenset()
    n_adjacent: int = 1

    def __post_init__(self) -> None:
        # found out once: isinstance takes half a millisecond for a protocol
        self._drawing = self.source if self.seed is not None and isinstance(self.source, DrawingSource) else None
        self._owns = getattr(self.source, "reads_anew", False)

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, items: Sequence[Item]) -> Example:
        return collate([self.example(epoch, index) for epoch, index in items])

    def volume_of(self, index: int) -> str:
        """Return the name of the volume of an item."""
        return self.volumes[self.slices[index][0]].name

    def example(self, epoch: int, index: int) -> Example:
        """Return one slice as a batch of one."""
        volume = self.volumes[self.slices[index][0]]
        number = self.slices[index][1]
        numbers = adjacent_indices(number, volume.n_slices, self.n_adjacent)
        made = {one: self._slice(epoch, volume, one, number) for one in set(numbers)}
        return made[number] if len(numbers) == 1 else with_adjacent([made[one] for one in numbers])

    def _slice(self, epoch: int, volume: Volume, number: int, middle: int) -> Example:
        """Return a slice with the random numbers of the slice in the middle of those that are seen together."""
        draws = self.seed is not None
        of_scan = RandomState(seed_of(volume.name))
        generator = random_state(self.seed, epoch, volume.name, middle) if draws else of_scan
        if self._drawing is not None:
            example = self._drawing.draw(volume, number, generator)
            of_scan = generator  # every draw is another scan
        else:
            example = self.source.read(volume, number)
        if self.given is not None:
            example = self.given(example)
        if self.splitter is not None:
            example = self._measured_once(replace(example, target=None) if draws else example, of_scan, generator)
            turn = epoch % (self.splitter.n_splits or epoch + 1) if draws else 0
            return self._split(example, random_state(self.seed, turn, volume.name, number, "split"))
        if volume.name in self.unreferenced:
            return self._measured_once(replace(example, target=None), of_scan, generator)
        if self.augment is not None:
            augment = self.augment.at(epoch) if isinstance(self.augment, ScheduledAugmentation) else self.augment
            example = augment(example, generator)
        return self.undersample(example, generator, self._owns)

    def _measured_once(self, example: Example, of_scan: RandomState, generator: RandomState) -> Example:
        """Undersample, then augment: a scan mirrored before would show lines that were not measured."""
        if self.augment is None:
            return self.undersample(example, of_scan)
        measured = self.augment(Undersample(self.undersample.mask)(example, of_scan), generator)
        return Undersample(None, self.undersample.maps)(measured, generator)

    def _split(self, example: Example, generator: RandomState) -> Example:
        assert self.splitter is not None
        mask, h, w = self.undersample.mask, *example.acquisition.kspace.shape[-2:]
        sampling = mask.density((h, w)) if self.splitter.weighted and isinstance(mask, IndependentMask) else None
        return self.splitter(example, generator, sampling, self.noisy)


@dataclass(eq=False, repr=False)
class FastMRIDataModule(LightningDataModule):
    """Trains, validates and tests on slices of volumes, split by volume.

    Parameters
    ----------
    source : the data set.
    mask : sampling mask of training; None leaves the data as measured. A learned one leaves them whole for training
        and validation, where :class:`spinwarp.training.sampling.LearnedSampling` undersamples them.
    eval_mask : of validation and test; ``mask`` if None.
    maps : ``low_resolution`` or ``espirit``, both from the ACS of the accelerated data; ``none``; or the path of
        :class:`GivenMaps`.
    batch_size : slices in a batch, all of one shape.
    num_workers : processes that load; with 0 the main process loads.
    volume_sample_rate, slice_sample_rate : fraction of the training volumes, and of the slices of each, that are used.
        The choice depends on the seed, so all processes agree on it.
    augment : changes fully sampled training examples, such as :class:`spinwarp.data.augment.FlipsAndPhase`.
    edge_slices : slices left out at either end of each training volume.
    n_adjacent : slices that each example brings for networks that see several at once, an odd number.
    supervision : ``full``: training compares with the target. ``split``: with measured lines that are held out of the
        input, and there is no target in training; ``noisy``: the same, with noise added to the input. Validation has
        the target too, if there is one.
    split : draws the held-out lines; None: with its defaults.
    reference_rate : fraction of the training volumes whose references are used, at least one; those of the others are
        hidden. Needs ``batch_size`` 1 if it is below 1.
    seed : of order, masks, splits and sample rates in training.

    Raises
    ------
    InputError : if an option is out of range.
    """

    source: Source
    mask: Mask | None
    eval_mask: Mask | None = None
    maps: str = "low_resolution"
    batch_size: int = 1
    num_workers: int = 0
    volume_sample_rate: float = 1.0
    slice_sample_rate: float = 1.0
    augment: Augmentation | None = None
    edge_slices: int = 0
    n_adjacent: int = 1
    supervision: Literal["full", "split", "noisy"] = "full"
    split: Splitter | None = None
    reference_rate: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        self.given = None if self.maps in MAPS else GivenMaps(self.maps, "data.maps")
        self._add_maps = AddMaps(MAPS.get(self.maps))
        for name, least in {"batch_size": 1, "num_workers": 0, "edge_slices": 0}.items():
            if getattr(self, name) < least:
                raise InputError(f"data.{name} is at least {least}; got {getattr(self, name)}")
        for name in ("volume_sample_rate", "slice_sample_rate", "reference_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"data.{name} is a fraction above 0 and up to 1; got {getattr(self, name)}")
        if self.n_adjacent < 1 or self.n_adjacent % 2 == 0:
            raise InputError(f"data.n_adjacent is an odd number of slices about the middle one; got {self.n_adjacent}")
        if self.n_adjacent > 1 and (self.supervision != "full" or isinstance(self.augment, RowBlock)):
            raise InputError(
                "data.n_adjacent above 1 does not go with data.supervision=split or noisy, nor with blocks of rows "
                "(data.augment), which lie elsewhere in each slice; set data.n_adjacent=1"
            )
        if self.supervision not in SUPERVISION:
            raise InputError(f"data.supervision={self.supervision!r} is not one of {', '.join(SUPERVISION)}")
        if self.reference_rate < 1 and self.batch_size > 1:
            raise InputError(
                "with data.reference_rate below 1 some scans have a reference and some have none; they need "
                "data.batch_size=1, and trainer.accumulate_grad_batches for larger steps"
            )
        if self.eval_mask is None:
            self.eval_mask = self.mask
        self.split = self.split or Splitter()
        if self.supervision != "full" and self.split.weighted:
            self._check_weighted()
        self._start = (0, 0)

    def prepare_data(self) -> None:
        """Make, fetch or convert the data if that has not been done."""
        self.source.prepare()

    def dataset(
        self,
        split: str,
        evaluate: bool = False,
        only: Mapping[str, Collection[int]] | None = None,
        maps: bool = True,
    ) -> SliceDataset:
        """Return the undersampled slices of a split.

        With ``evaluate`` the training split is read as validation is: all slices, masks seeded from the names. ``only``
        maps volumes to the slices to take; None: all. With ``maps=False`` estimated coil maps are left to
        :meth:`with_maps`, which makes them faster where they are used, on the device.

        Raises
        ------
        InputError : if no slice is left.
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
        if self.n_adjacent > 1 and all(volume.n_slices == 1 for volume in volumes):
            warn_once(
                f"the volumes of {self.source.name} have one slice each: each is its own neighbour "
                f"(data.n_adjacent={self.n_adjacent})"
            )
        mask = self.mask if training else self.eval_mask
        estimate = self._add_maps.estimate if maps else None
        if isinstance(mask, LearnedMask) and not evaluate:
            mask = estimate = None  # the training undersamples
        undersample = Undersample(mask, estimate)
        splits = self.supervision != "full" and (training or (split == "val" and not evaluate))
        splitter, noisy = self.split if splits else None, self.supervision == "noisy"
        seed, augment = (self.seed, self.augment) if training else (None, None)
        return SliceDataset(
            self.source, volumes, slices, undersample, seed, augment, self.given, splitter, noisy,
            self._unreferenced(volumes, slices) if training else frozenset(), self.n_adjacent,
        )  # fmt: skip

    def loader(
        self,
        split: str,
        evaluate: bool = False,
        only: Mapping[str, Collection[int]] | None = None,
        batches: Sequence[Batch] | None = None,
        maps: bool = True,
    ) -> DataLoader[Example]:
        """Return the batches of a split, shuffled in training only; other arguments as in :meth:`dataset`.

        With ``trainer.overfit_batches`` training is in order too, with the same masks in every epoch. ``batches``
        limits the loader to these of its batches.
        """
        dataset = self.dataset(split, evaluate, only, maps)
        shapes = [dataset.volumes[v].shape for v, _ in dataset.slices]
        training = split == "train" and not evaluate
        start = self._start if training else (0, 0)
        sampler: ShapeBatchOrder | Sequence[Batch]
        if batches is not None:
            sampler = batches
        elif training and not getattr(self.trainer, "overfit_batches", 0):
            sampler = ShapeBatchOrder(shapes, self.batch_size, shuffle=True, seed=self.seed, start=start)
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
        """Return the training batches, to which :meth:`on_after_batch_transfer` adds coil maps."""
        return self.loader("train", maps=False)

    def val_dataloader(self) -> DataLoader[Example]:
        """Return the validation batches, to which :meth:`on_after_batch_transfer` adds coil maps."""
        return self.loader("val", maps=False)

    def test_dataloader(self) -> DataLoader[Example]:
        """Return the test batches, to which :meth:`on_after_batch_transfer` adds coil maps."""
        return self.loader("test", maps=False)

    def with_maps(self, acquisition: Acquisition) -> Acquisition:
        """Return the acquisition with the coil maps that ``maps`` asks for, if it brings none; on its device."""
        return self._add_maps(acquisition)

    def on_after_batch_transfer(self, batch: Example, dataloader_idx: int) -> Example:  # noqa: ARG002
        """Add coil maps; Lightning calls this on the device. With a learned mask nothing is undersampled yet."""
        if isinstance(self.mask, LearnedMask):
            return batch
        return replace(batch, acquisition=self.with_maps(batch.acquisition))

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the data, for a checkpoint."""
        epoch, batch = next_batch(self.trainer)
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the position of the checkpoint."""
        self._start = (state_dict["epoch"], state_dict["batch"])
        # the loader starts at the right batch, which Lightning does not know
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch")

    def setup(self, stage: str) -> None:
        """Begin at the first epoch; a checkpoint that is loaded later may change that."""
        if stage == "fit":
            self._start = (0, 0)

    def _check_weighted(self) -> None:
        for mask in (self.mask, self.eval_mask):
            if not isinstance(mask, IndependentMask):
                raise InputError(
                    "data.split.weighted=true needs a mask that says with which probability it samples each line, "
                    "independently of the others: mask=random_4x or another random mask of one acceleration. With "
                    "other masks, or data that are undersampled already, set data.split.weighted=false"
                )
            if isinstance(mask, RandomMask):
                mask.check_one_pair()
        if self.augment is not None and not isinstance(self.augment, RowBlock):
            raise InputError(
                "data.split.weighted=true needs data.augment=null, or a RowBlock: a mirrored scan no longer has the "
                "probabilities of its mask"
            )

    def _unreferenced(self, volumes: Sequence[Volume], slices: Sequence[tuple[int, int]]) -> frozenset[str]:
        used = sorted({v for v, _ in slices})
        referenced = _choose(np.array(used), self.reference_rate, np.random.default_rng(self.seed))
        return frozenset(volumes[v].name for v in set(used) - set(referenced))

    def _sampled(self, volumes: Sequence[Volume]) -> list[tuple[int, int]]:
        choose = partial(_choose, generator=np.random.default_rng(self.seed))
        edge = self.edge_slices
        return [
            (v, s)
            for v in choose(np.arange(len(volumes)), self.volume_sample_rate)
            for s in choose(np.arange(volumes[v].n_slices)[edge : volumes[v].n_slices - edge], self.slice_sample_rate)
        ]


def _leave_signals(worker: int) -> None:  # noqa: ARG001
    """Let Ctrl-C stop only the main process, which then ends its workers in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _choose(candidates: np.ndarray, rate: float, generator: np.random.Generator) -> list[int]:
    n = max(round(len(candidates) * rate), min(1, len(candidates)))
    return sorted(int(i) for i in generator.permutation(candidates)[:n])
