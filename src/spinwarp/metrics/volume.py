"""Volume-wise metrics that do not depend on the number of processes."""

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from spinwarp.channels import double
from spinwarp.metrics.functional import foreground, ssim_in, ssim_map

NAMES = ("nmse", "psnr", "ssim", "ssim_foreground")


class _SliceTable(Metric):
    """A few numbers per slice, stored under (volume, slice): slices that several processes repeat count once.

    A process may have no slices.
    """

    full_state_update = False
    n_columns: ClassVar[int]  # including volume key and slice, which come first
    rows: list[Tensor] | Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather from all processes; one without slices sends an empty table, because the others wait for it."""
        if not len(self.rows):
            self.rows = [double(torch.zeros(0, self.n_columns, device=self.device))]
        super().sync(*args, **kwargs)

    def add(self, rows: Tensor) -> None:
        """Add a table ``(slice, column)``."""
        assert isinstance(self.rows, list)
        self.rows.append(rows)

    def unique(self) -> list[Tensor]:
        """Return one row per slice, in an order that does not depend on the processes."""
        if not len(self.rows):
            return []
        rows = torch.cat(self.rows) if isinstance(self.rows, list) else self.rows
        return [row for _, row in sorted({(float(row[0]), float(row[1])): row for row in rows.cpu()}.items())]


class BatchMean(_SliceTable):
    """Mean over slices of a number that is known per batch only, such as a loss that is not a sum over slices.

    A batch is stored under its first slice, so a batch that several processes repeat counts once. The mean equals
    that of a single process if the processes divide the same batches among them.
    """

    n_columns = 4  # volume key, slice, batch size, value

    def update(self, value: Tensor, volume: Sequence[str], slices: Sequence[int]) -> None:
        """Add the value of a batch, a scalar."""
        value = double(value.detach())
        row = [_key(volume[0]), slices[0], len(volume), float(value)]
        self.add(torch.tensor([row], dtype=torch.float64, device=value.device))

    def compute(self) -> Tensor:
        """Return the mean weighted by batch size; NaN without any batch."""
        rows = self.unique()
        if not rows:
            return _nan()
        _, _, size, value = torch.stack(rows).unbind(1)
        return (size * value).sum() / size.sum()


class VolumeMetrics(_SliceTable):
    """NMSE, PSNR and SSIM of whole volumes and SSIM inside their foreground, averaged over volumes.

    The first three equal those of fastMRI's ``evaluate.py``; the caller decides about crop and data range.
    ``evaluate.py`` crops as fastMRI's does (:mod:`spinwarp.evaluation.volume`). Validation in training uses the whole
    target, like fastMRI's validation loop, which however averages NMSE and PSNR over slices. The fourth metric is the
    mean of the SSIM map over the volume's foreground (:func:`spinwarp.metrics.foreground`); its mean over volumes
    leaves out volumes without foreground.

    Only a few numbers per slice are kept, under (volume, slice), so volumes of different lengths get equal weights for
    any number of processes.
    """

    # volume key, slice, squared error, energy, n_pixels, SSIM, its sum over the foreground, n_foreground, data range
    n_columns = 9

    def update(
        self, image: Tensor, target: Tensor, data_range: Tensor, volume: Sequence[str], slices: Sequence[int]
    ) -> None:
        """Add slices ``(batch, h, w)`` and the ``data_range`` of each slice's volume."""
        x, y, data_range = (double(part.detach()) for part in (image, target, data_range))
        similarity = ssim_map(x, y, data_range)
        columns = [
            torch.tensor([_key(name) for name in volume], dtype=torch.float64),
            torch.tensor(slices, dtype=torch.float64),
            (x - y).square().sum((-2, -1)),
            y.square().sum((-2, -1)),
            torch.full((len(x),), x[0].numel(), dtype=torch.float64),
            similarity.mean((-2, -1)),
            *ssim_in(foreground(y, data_range), similarity),
            data_range,
        ]
        self.add(torch.stack([c.to(x.device, torch.float64) for c in columns], dim=1))

    def compute(self) -> dict[str, Tensor]:
        """Return the mean over volumes of each metric; NaN without any volume."""
        volumes = self.per_volume()
        values = {name: [volume[name] for volume in volumes] for name in NAMES}
        values["ssim_foreground"] = [value for value in values["ssim_foreground"] if not value.isnan()]
        return {name: torch.stack(found).mean() if found else _nan() for name, found in values.items()}

    def per_volume(self) -> list[dict[str, Tensor]]:
        """Return the metrics of each volume; NaN if the target is zero or, for the last, the foreground is empty."""
        by_volume: dict[float, list[Tensor]] = {}
        for row in self.unique():
            by_volume.setdefault(float(row[0]), []).append(row)
        return [_metrics(torch.stack(rows)) for rows in by_volume.values()]


def _metrics(rows: Tensor) -> dict[str, Tensor]:
    _, _, error, energy, n_pixels, similarity, inside, n_inside, data_range = rows.unbind(1)
    if not energy.any():  # there is no reference, and an infinite NMSE or PSNR would be misleading
        return dict.fromkeys(NAMES, _nan())
    mean_squared_error = error.sum() / n_pixels.sum()
    return {
        "nmse": error.sum() / energy.sum(),
        "psnr": 10 * torch.log10(data_range.max() ** 2 / mean_squared_error),
        "ssim": similarity.mean(),
        "ssim_foreground": inside.sum() / n_inside.sum(),
    }


def _key(name: str) -> int:
    # 52 bits fit into a float64 exactly, so processes can exchange a single tensor
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 12


def _nan() -> Tensor:
    return torch.tensor(float("nan"), dtype=torch.float64)
