"""Volumes in the fastMRI HDF5 layout."""

from spinwarp.data.fastmri.source import FastMRIFiles, FastMRIFolder, Files, Folders, OneFolder

__all__ = ["FastMRIFiles", "FastMRIFolder", "Files", "Folders", "OneFolder"]
