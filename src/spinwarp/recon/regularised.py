"""The base of the methods whose prior is a formula."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from spinwarp.acquisition import Acquisition, Reconstruction
from spinwarp.errors import InputError
from spinwarp.preparation import check_preparation, data_scale, prepared
from spinwarp.recon.base import Reconstructor
from spinwarp.recon.weight import held_out_weight


@dataclass(eq=False)
class Regularised(Reconstructor):
    """``argmin_x 1/2 |A x - y|^2 + weight R(x)``, A the SENSE operator; a subclass says R and how to solve it.

    The data are first divided by :func:`data_scale`, as in BART's ``pics``. The weight then has no unit, and one number
    serves scans of every scale. The image is returned in the units of the data.

    A subclass changes a default by redefining the field.

    Parameters
    ----------
    weight : of the prior; ``auto`` chooses it from the measured data alone (:func:`held_out_weight`).
    maps : ``espirit``, ``low_resolution`` or ``given``; see :func:`with_maps`.
    whiten : whiten the coils by the noise of the scan itself; see :func:`with_white_noise`.
    virtual_coils : compress to this many coils, for speed; None: keep all.
    iterations : of the solver, at most.
    tolerance : stop the solver when the image changes by at most this fraction of its norm; zero: never.

    Raises
    ------
    InputError : if an option is out of range.
    """

    #: weights that ``auto`` tries, from strong to weak
    weights: ClassVar[tuple[float, ...]] = tuple(10 ** (-0.5 - k / 2) for k in range(8))

    weight: float | str = "auto"
    maps: str = "espirit"
    whiten: bool = False
    virtual_coils: int | None = None
    iterations: int = 50
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.weight != "auto" and not (isinstance(self.weight, int | float) and 0 <= self.weight < float("inf")):
            raise InputError(f"weight={self.weight!r} is neither auto nor a number of at least zero")
        check_preparation(self.maps, self.virtual_coils)
        if self.iterations < 1 or self.tolerance < 0:
            raise InputError(
                f"a solver takes at least 1 iteration and a tolerance of at least 0; got {self.iterations} and "
                f"{self.tolerance}"
            )

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:  # noqa: ARG002
        """Reconstruct a batch."""
        with torch.no_grad():
            acquisition = prepared(acquisition, self.maps, self.whiten, self.virtual_coils)
            scale = data_scale(acquisition).view(-1, 1, 1)
            problem = replace(acquisition, kspace=acquisition.kspace / scale[:, None])
            return Reconstruction(image=scale * self.solve(problem, self.choose_weight(problem)))

    @abstractmethod
    def solve(self, problem: Acquisition, weight: Tensor) -> Tensor:
        """Solve for the image ``(batch, h, w)``; ``weight`` is ``(batch,)``."""

    def choose_weight(self, problem: Acquisition) -> Tensor:
        """Return the weight ``(batch,)`` for scaled data."""
        if isinstance(self.weight, str):
            return held_out_weight(self.solve, problem, self.weights)
        return torch.full((len(problem.kspace),), float(self.weight), device=problem.kspace.device)
