"""Old place of :mod:`spinwarp.data.fastmri.index`, for one version."""

from spinwarp.data.fastmri.index import Entry, _cache_path, index, open_volume, scan

__all__ = ["Entry", "_cache_path", "index", "open_volume", "scan"]
