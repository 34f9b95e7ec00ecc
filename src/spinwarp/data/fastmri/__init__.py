"""Volumes in the fastMRI HDF5 layout."""

from spinwarp.data.fastmri.source import FastMRIFiles, Files, Folders

__all__ = ["FastMRIFiles", "Files", "Folders"]
