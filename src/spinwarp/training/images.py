"""What a prior is trained on: whole images, in the units that reconstruction will give it."""

from torch import Tensor

from spinwarp.acquisition import Example
from spinwarp.coils import combine
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc
from spinwarp.recon.scale import prior_scale


def full_images(example: Example) -> Tensor:
    """Complex images ``(batch, h, w)`` of fully sampled examples, divided by :func:`prior_scale`.

    Raises
    ------
    InputError : if the examples are undersampled; a prior knows nothing of masks.
    """
    acquisition = example.acquisition
    for i, mask in enumerate(acquisition.mask):
        header = acquisition.headers[i] if acquisition.headers else None
        columns = header.acquired_columns if header is not None else None
        acquired = mask if columns is None else mask[..., columns[0] : columns[1]]
        if not acquired.all():
            raise InputError(
                f"a prior is trained on whole images, and {example.volume[i]} is undersampled; train with mask=none"
            )
    images = combine(ifftc(acquisition.kspace), acquisition.maps)
    return images / prior_scale(acquisition).view(-1, 1, 1)
