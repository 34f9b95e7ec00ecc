"""What the methods share whose prior is a formula."""

from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from spinwarp.acquisition import Acquisition, Reconstruction
from spinwarp.errors import InputError
from spinwarp.preparation import check_preparation, data_scale, prepared
from spinwarp.recon.base import Reconstructor
from spinwarp.recon.weight import held_out_weight


class Regularised(Reconstructor):
    """``argmin_x 1/2 |A x - y|^2 + weight R(x)``, A the SENSE operator; a subclass says R and how to solve it.

    The data is divided by :func:`data_scale` first, as BART's ``pics`` does, so that the weight has no unit and one
    number serves scans of every scale; the image is returned in the units of the data.

    Parameters
    ----------
    weight : of the prior; ``auto`` chooses it from the measured data alone (:func:`held_out_weight`).
    maps : ``espirit``, ``low_resolution`` or ``given``; see :func:`with_maps`.
    whiten : weigh the coils by the noise in the corners of k-space; see :func:`with_white_noise`.
    virtual_coils : compress to so many coils, for speed; None: as they are.
    iterations : at most so many of the solver.
    tolerance : the solver stops when the image changes by at most so much of its norm; zero: never before.

    Raises
    ------
    InputError : if the weight is neither a number of at least zero nor ``auto``, the maps are none of the three, or
        there are no iterations.
    """

    #: weights that ``auto`` tries, from strong to weak
    weights: ClassVar[tuple[float, ...]] = tuple(10 ** (-0.5 - k / 2) for k in range(8))

    def __init__(
        self,
        weight: float | str = "auto",
        maps: str = "espirit",
        whiten: bool = False,
        virtual_coils: int | None = None,
        iterations: int = 50,
        tolerance: float = 1e-3,
    ) -> None:
        if weight != "auto" and not (isinstance(weight, int | float) and 0 <= weight < float("inf")):
            raise InputError(f"weight={weight!r} is neither auto nor a number of at least zero")
        check_preparation(maps, virtual_coils)
        if iterations < 1 or tolerance < 0:
            raise InputError(
                f"a solver takes at least 1 iteration and a tolerance of at least 0; got {iterations} and {tolerance}"
            )
        self.weight = weight
        self.maps = maps
        self.whiten = whiten
        self.virtual_coils = virtual_coils
        self.iterations = iterations
        self.tolerance = tolerance

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:  # noqa: ARG002
        """Reconstruct a batch."""
        with torch.no_grad():
            acquisition = self.prepare(acquisition)
            scale = data_scale(acquisition).view(-1, 1, 1)
            problem = replace(acquisition, kspace=acquisition.kspace / scale[:, None])
            return Reconstruction(image=scale * self.solve(problem, self.choose_weight(problem)))

    def prepare(self, acquisition: Acquisition) -> Acquisition:
        """Return the acquisition with coil maps, in the coils that the problem is solved with."""
        return prepared(acquisition, self.maps, self.whiten, self.virtual_coils)

    @abstractmethod
    def solve(self, problem: Acquisition, weight: Tensor) -> Tensor:
        """Solve for the image ``(batch, h, w)``; ``weight`` is ``(batch,)``."""

    def choose_weight(self, problem: Acquisition) -> Tensor:
        """Weight ``(batch,)`` for scaled data."""
        if isinstance(self.weight, str):
            return held_out_weight(self.solve, problem, self.weights)
        return torch.full((len(problem.kspace),), float(self.weight), device=problem.kspace.device)
