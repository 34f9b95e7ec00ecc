"""Old place of :mod:`spinwarp.data.fastmri.measured` and of ``sampling_mask``, for one version."""

from spinwarp.data.fastmri.measured import Measurement
from spinwarp.data.sampling import sampling_mask

__all__ = ["Measurement", "sampling_mask"]
