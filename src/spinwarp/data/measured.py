"""Old place of :class:`spinwarp.data.fastmri.measured.Measurement` and of ``sampling_mask``, for one version."""

from spinwarp.renamed import old_names

__getattr__ = old_names(
    __name__,
    Measurement="spinwarp.data.fastmri.measured.Measurement",
    sampling_mask="spinwarp.data.sampling.sampling_mask",
)
