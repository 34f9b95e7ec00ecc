"""Total variation with the weights that fastMRI's authors tuned."""

import math

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


class FastMRITotalVariation(TotalVariation):
    """Total variation as fastMRI's baseline: the weight by contrast and by the nearer of 4x and 8x.

    The reference ran BART (``ecalib -m1``, ``pics -R T:7:0:weight -i 200``), whose scale of the data is ours.

    Parameters
    ----------
    maps, whiten, virtual_coils, iterations, tolerance : see :class:`spinwarp.recon.regularised.Regularised`.

    References
    ----------
    Zbontar et al., "fastMRI: An open dataset and benchmarks for accelerated MRI", 2018; the weights are those of
    facebookresearch/fastMRI, ``fastmri_examples/cs``.
    """

    def __init__(
        self,
        maps: str = "espirit",
        whiten: bool = False,
        virtual_coils: int | None = None,
        iterations: int = 50,
        tolerance: float = 1e-3,
    ) -> None:
        super().__init__("auto", maps, whiten, virtual_coils, iterations, tolerance)

    def choose_weight(self, problem: Acquisition) -> Tensor:
        """Weight ``(batch,)`` from the table.

        Raises
        ------
        InputError : if the data does not say its contrast, or it is none of fastMRI's.
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
