"""From the readouts of one slice to its acquisition."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition, Header
from spinwarp.coils import noise_covariance, whiten
from spinwarp.data.fastmri.ismrmrd import count, geometry, header_root, whole
from spinwarp.data.live.protocol import NOISE, Readout, has
from spinwarp.errors import InputError
from spinwarp.geometry import Geometry

log = logging.getLogger("spinwarp")


def read_slices(name: str, xml: str, readouts: Sequence[Readout]) -> list[Acquisition]:
    """Return what readouts of one slice and of the noise make, as batches of one: one slice.

    Parameters
    ----------
    name : of the connection, for messages.
    xml : the header of the measurement.
    readouts : of the noise, and those of one slice.

    Raises
    ------
    InputError : if the header lacks the size of k-space, is of three dimensions, or a readout does not fit.
    """
    return [_Slice(name, xml, readouts).read()]


class _Slice:
    """Readouts put where they belong in k-space, whitened if there is noise; see :func:`read_slices`."""

    def __init__(self, name: str, xml: str, readouts: Sequence[Readout]) -> None:
        self.name = name
        root = header_root(Path(name), xml, [])
        encoding = None if root is None else root.find("{*}encoding")
        if encoding is None:
            raise InputError(f"{name}: the header has no encoding, so the size of k-space is unknown")
        try:
            h, w, depth = (count(encoding, f"encodedSpace/matrixSize/{axis}") for axis in "xyz")
            self.centre = whole(encoding, "encodingLimits/kspace_encoding_step_1/center")
        except ValueError as error:
            raise InputError(f"{name}: in the header, {error}") from error
        if depth > 1:
            raise InputError(f"{name}: the scan has three dimensions, of which only two are supported")
        self.shape = h, w
        told = geometry(Path(name), xml, self.shape)
        self.header = Header("scanner", name, told.size, told.columns, told.voxel_size)
        self.noise = [one for one in readouts if has(one, NOISE)]
        self.lines = [one for one in readouts if not has(one, NOISE)]

    def read(self) -> Acquisition:
        """Return the slice as a batch of one."""
        (h, w), n_coils = self.shape, len(self.lines[0].samples)
        kspace = np.zeros((n_coils, h, w), np.complex64)
        times = np.zeros((h, w), np.int32)
        for line in self.lines:
            head, samples = line.head, line.samples
            step = int(head["idx"]["kspace_encode_step_1"])
            column = step - self.centre + w // 2
            data = samples[:, int(head["discard_pre"]) : samples.shape[1] - int(head["discard_post"])]
            centre = int(head["center_sample"]) or samples.shape[1] // 2
            first = h // 2 - centre + int(head["discard_pre"])
            last = first + data.shape[1]
            if len(samples) != n_coils or not (0 <= column < w and 0 <= first < last <= h):
                raise InputError(
                    f"{self.name}: a readout of {len(samples)} coils with {samples.shape[1]} samples, line {step}, "
                    f"does not fit k-space of {n_coils} coils, {h}x{w}"
                )
            kspace[:, first:last, column] += data
            times[first:last, column] += 1
        if times.max() > 1:
            kspace /= np.maximum(times, 1)
        sampled = torch.from_numpy(times > 0)
        sampled = sampled[:1] if bool((sampled == sampled[:1]).all()) else sampled
        header = replace(self.header, geometry=self._place(self.lines[0].head))
        acquisition = Acquisition(torch.from_numpy(kspace)[None], sampled[None, None], headers=(header,))
        scans = [one.samples for one in self.noise if len(one.samples) == n_coils]
        if not scans:
            return acquisition
        try:
            covariance = noise_covariance(torch.from_numpy(np.concatenate(scans, 1)))
            level: Tensor = covariance.diagonal().real.mean().sqrt()
            return replace(whiten(acquisition, covariance / level.square()), noise_std=level.reshape(1))
        except InputError as error:
            log.warning("%s: its noise scan is not used, so the coils stay as they are: %s", self.name, error)
            return acquisition

    def _place(self, head: np.void) -> Geometry | None:
        if self.header.voxel_size is None or not head["slice_dir"].any():
            return None
        position, readout, phase, normal = (
            (float(head[name][0]), float(head[name][1]), float(head[name][2]))
            for name in ("position", "read_dir", "phase_dir", "slice_dir")
        )
        return Geometry(position, readout, phase, normal, self.header.voxel_size)
