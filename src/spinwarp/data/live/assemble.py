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
from spinwarp.data.live.protocol import Readout
from spinwarp.errors import InputError
from spinwarp.geometry import Geometry

log = logging.getLogger("spinwarp")


class Assembler:
    """Puts the readouts of a slice where they belong in k-space.

    Parameters
    ----------
    name : of the connection, for messages.
    xml : the header of the measurement.

    Raises
    ------
    InputError : if the header lacks the size of k-space, or is of three dimensions.
    """

    def __init__(self, name: str, xml: str) -> None:
        self.name = name
        notes: list[str] = []
        root = header_root(Path(name), xml, notes)
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

    def acquisition(self, readouts: Sequence[Readout], noise: Sequence[Readout]) -> Acquisition:
        """Return a slice as a batch of one, whitened if there is noise.

        Raises
        ------
        InputError : if a readout does not fit k-space.
        """
        (h, w), n_coils = self.shape, len(readouts[0].samples)
        kspace = np.zeros((n_coils, h, w), np.complex64)
        times = np.zeros((h, w), np.int32)
        for readout in readouts:
            head, samples = readout.head, readout.samples
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
        measured = torch.from_numpy(times > 0)
        measured = measured[:1] if bool((measured == measured[:1]).all()) else measured
        header = replace(self.header, geometry=self._place(readouts[0].head))
        acquisition = Acquisition(torch.from_numpy(kspace)[None], measured[None, None], headers=(header,))
        scans = [one.samples for one in noise if len(one.samples) == n_coils]
        if not scans:
            return acquisition
        covariance = noise_covariance(torch.from_numpy(np.concatenate(scans, 1)))
        level: Tensor = covariance.diagonal().real.mean().sqrt()
        return replace(whiten(acquisition, covariance / level.square()), noise_std=level.reshape(1))

    def _place(self, head: np.void) -> Geometry | None:
        if self.header.voxel_size is None or not head["slice_dir"].any():
            return None
        position, readout, phase, normal = (
            (float(head[name][0]), float(head[name][1]), float(head[name][2]))
            for name in ("position", "read_dir", "phase_dir", "slice_dir")
        )
        return Geometry(position, readout, phase, normal, self.header.voxel_size)
