"""Old place of :mod:`spinwarp.data.fastmri.index`, for one version."""

from spinwarp.renamed import old_names

__getattr__ = old_names(
    __name__,
    **{
        name: f"spinwarp.data.fastmri.index.{name}" for name in ("Entry", "_cache_path", "index", "open_volume", "scan")
    },
)
