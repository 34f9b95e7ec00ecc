"""Coil compression: a few virtual coils with nearly all of the signal of many coils."""

import torch
from torch import Tensor

from spinwarp.coils.calibration import calibration_blocks, principal_coils
from spinwarp.errors import InputError


@torch.no_grad()
def compression_matrix(kspace: Tensor, mask: Tensor, n_acs: Tensor | None, n_virtual: int) -> Tensor:
    """Compute the virtual coils with most of the energy of the calibration block, from its singular vectors.

    The rows are orthonormal: white noise stays white, at the same level. Whiten correlated noise first.

    Parameters
    ----------
    kspace : ``(batch, coil, h, w)`` complex, measured, zero elsewhere.
    mask : ``(batch, 1, 1 or h, w)`` bool, True where k-space was measured.
    n_acs : ``(batch,)`` largest number of central columns to use; None: all.
    n_virtual : number of virtual coils.

    Returns
    -------
    matrix : ``(batch, n_virtual, coil)``, sorted by energy.

    Raises
    ------
    InputError : if there are fewer coils than virtual coils, or the centre of k-space was not sampled or is not finite.

    References
    ----------
    Buehrer et al., "Array compression for MRI with large coil arrays", MRM 2007; Huang et al., "A software channel
    compression technique for faster reconstruction with many channels", Magn Reson Imaging 2008.
    """
    n_coils = kspace.shape[1]
    if not 1 <= n_virtual <= n_coils:
        raise InputError(f"{n_coils} coils cannot be compressed to {n_virtual}; use 1 to {n_coils}")
    blocks = calibration_blocks(kspace, mask, n_acs)
    if not all(block.numel() and block.isfinite().all() for block in blocks):
        raise InputError(
            "coil compression needs finite samples at the centre of k-space; use a mask that samples it and leave out "
            "damaged slices"
        )
    return torch.stack([principal_coils(block, n_virtual) for block in blocks])


def compress(x: Tensor, matrix: Tensor) -> Tensor:
    """Combine coils to virtual coils; use the same matrix for k-space, coil images and coil maps.

    Parameters
    ----------
    x : ``(batch, coil, h, w)`` complex.
    matrix : ``(batch, n_virtual, coil)``.

    Returns
    -------
    ``(batch, n_virtual, h, w)``. The sum of squares of compressed maps is below one where energy was lost.
    """
    return torch.einsum("bvc,bchw->bvhw", matrix, x)
