"""Total variation with the weights that fastMRI's authors tuned."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition, Header
from spinwarp.errors import InputError
from spinwarp.recon.tv import TotalVariation

# contrast -> weight at 4x and at 8x
_SINGLE_COIL = {"CORPD_FBK": (0.01, 0.1), "CORPDFS_FBK": (0.01, 0.01)}
_MULTI_COIL = {
    "CORPD_FBK": (0.01, 0.01),
    "CORPDFS_FBK": (0.001, 0.01),
    "AXT1": (0.001, 0.01),
    "AXT1PRE": (0.001, 0.01),
    "AXT1POST": (0.01, 0.01),
    "AXT2": (0.01, 0.01),
    "AXFLAIR": (0.01, 0.001),
}


@dataclass(eq=False)
class FastMRITotalVariation(TotalVariation):
    """fastMRI's total variation baseline: its weight depends on the contrast and on the nearer of 4x and 8x.

    The reference ran BART (``ecalib -m1``, ``pics -R T:7:0:weight -i 200``), which scales the data as we do.

    Parameters
    ----------
    maps, whiten, virtual_coils, iterations, tolerance : see :class:`spinwarp.recon.regularised.Regularised`.

    References
    ----------
    Zbontar et al., "fastMRI: An open dataset and benchmarks for accelerated MRI", 2018; the weights are those of
    facebookresearch/fastMRI, ``fastmri_examples/cs``.
    """

    weight: float | str = field(default="auto", init=False)  # from the table

    def choose_weight(self, problem: Acquisition) -> Tensor:
        """Return the weight ``(batch,)`` from the table.

        Raises
        ------
        InputError : if the contrast of the data is unknown, or is none of fastMRI's.
        """
        table = _SINGLE_COIL if problem.kspace.shape[1] == 1 else _MULTI_COIL
        headers = problem.headers or (Header(),) * len(problem.kspace)
        weights = []
        for header, rate in zip(headers, problem.acceleration().tolist(), strict=True):
            if header.contrast not in table:
                raise InputError(
                    f"fastMRI has no weight for contrast {header.contrast} with {problem.kspace.shape[1]} coil(s), "
                    f"only for {', '.join(table)}; use recon=tv, which chooses its weight from the data"
                )
            weights.append(table[header.contrast][int(rate > math.sqrt(4 * 8))])
        return torch.tensor(weights, device=problem.kspace.device)
