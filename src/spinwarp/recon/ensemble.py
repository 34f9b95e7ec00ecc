"""Ensembles: several trained networks, whose differences show where they are uncertain."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Self

import torch
from torch import Generator, Tensor

from spinwarp.acquisition import Acquisition, Reconstruction
from spinwarp.errors import InputError
from spinwarp.models.loading import load_end_to_end
from spinwarp.progress import part
from spinwarp.recon.base import NetworkReconstructor, Reconstructor
from spinwarp.recon.samples import mixture


class Ensemble(Reconstructor):
    """Mean and spread of the networks of several checkpoints, for example of trainings that differ in their seed.

    Members may be of different types. The standard deviation of a member that predicts one is added (:func:`mixture`).
    The samples are the members' images.

    Parameters
    ----------
    paths : two or more ``.ckpt`` files of ``train.py``.
    trusted : packages beside spinwarp from which the files may build their networks.

    Raises
    ------
    InputError : if there are fewer than two files, one cannot be used, two hold the same weights, or they were trained
        on different data sets.

    References
    ----------
    Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep ensembles", NeurIPS 2017.
    """

    def __init__(self, paths: Sequence[str], trusted: Sequence[str] = ()) -> None:
        if isinstance(paths, str) or len(paths) < 2:
            raise InputError("an ensemble needs at least two checkpoints; give them as recon.paths=[FILE,FILE]")
        missing = [path for path in paths if not Path(path).is_file()]
        if missing:
            raise InputError(f"there is no file {missing[0]!r}, which recon.paths names")
        networks, records = zip(*(load_end_to_end(path, trusted) for path in paths), strict=True)
        weights = [network.state_dict() for network in networks]
        for i, j in combinations(range(len(paths)), 2):
            if _equal(weights[i], weights[j]):
                raise InputError(
                    f"{paths[i]} and {paths[j]} hold the same weights, so their spread says nothing; give "
                    f"networks that were trained with different seed="
                )
        self.members = [NetworkReconstructor(network) for network in networks]
        self.n_adjacent = max(member.n_adjacent for member in self.members)
        self.record = _merged(records)

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        """Run every member."""
        answers = []
        for i, member in enumerate(self.members):
            with part(i, len(self.members)):
                answers.append(member(acquisition, generator=generator))
        return mixture(answers)

    def to(self, device: torch.device | str) -> Self:
        """Move the networks."""
        for member in self.members:
            member.to(device)
        return self


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _merged(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return all volumes and patients that the members were trained on; checkpoints without a record add none."""
    known = [record["trained_on"] for record in records if "trained_on" in record]
    datasets = sorted({str(trained_on["dataset"]) for trained_on in known})
    if len(datasets) > 1:
        raise InputError(
            f"the members of the ensemble were trained on different data ({', '.join(datasets)}), so their differences "
            f"do not show uncertainty; give checkpoints that were trained on one data set"
        )
    merged = {
        key: sorted({name for trained_on in known for name in trained_on.get(key, [])})
        for key in ("volumes", "patients")
        if any(key in trained_on for trained_on in known)
    }
    return {"trained_on": {"dataset": datasets[0], **merged}} if datasets else {}
