"""Files of the official fastMRI layout, made by hand as the set's own documentation describes them."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from measured_files import random_kspace

from spinwarp.acquisition import Example
from spinwarp.data.fastmri.source import FastMRIFiles, Folders

HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <studyInformation><studyTime>12:00:00</studyTime></studyInformation>
  <acquisitionSystemInformation><receiverChannels>3</receiverChannels></acquisitionSystemInformation>
  <encoding>
    <encodedSpace>
      <matrixSize><x>{h}</x><y>{w}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>440.0</x><y>220.0</y><z>7.5</z></fieldOfView_mm>
    </encodedSpace>
    <reconSpace>
      <matrixSize><x>{rh}</x><y>{rw}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>220.0</x><y>220.0</y><z>5.0</z></fieldOfView_mm>
    </reconSpace>
    <trajectory>cartesian</trajectory>
    <encodingLimits>
      <kspace_encoding_step_1>
        <minimum>0</minimum><maximum>{maximum}</maximum><center>{center}</center>
      </kspace_encoding_step_1>
    </encodingLimits>
  </encoding>
</ismrmrdHeader>"""


def header(h: int = 40, w: int = 32, rh: int = 20, rw: int = 20, maximum: int = 27, center: int = 13) -> str:
    return HEADER.format(h=h, w=w, rh=rh, rw=rw, maximum=maximum, center=center)


def official(path: Path, kspace: np.ndarray | None = None, xml: str | None = None, **attributes: Any) -> np.ndarray:
    """Write a file as the official set has them; ``target=False`` leaves the reference out, as in the test sets."""
    kspace = random_kspace(3, 4, 40, 32) if kspace is None else kspace
    kind = "reconstruction_rss" if kspace.ndim == 4 else "reconstruction_esc"
    target = attributes.pop("target", np.abs(random_kspace(len(kspace), 20, 20, seed=1)))
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        file["ismrmrd_header"] = header() if xml is None else xml
        if target is not False:
            file[kind] = target
        for name, value in {"acquisition": "CORPD_FBK", "patient_id": "0", "norm": 1.0, **attributes}.items():
            if value is not None:
                file.attrs[name] = value
    return kspace


def source(root: Path, **settings: Any) -> FastMRIFiles:
    return FastMRIFiles("knee", Folders(str(root), train="multicoil_train", val="multicoil_val"), **settings)


def first(root: Path, slice_index: int = 0) -> Example:
    files = source(root)
    return files.read(files.volumes("train")[0], slice_index)
