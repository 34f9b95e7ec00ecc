"""One simulated slice in memory, for a first look without files."""

import numpy as np
import torch

from spinwarp.acquisition import Acquisition, Example, Header
from spinwarp.coils import root_sum_of_squares
from spinwarp.data.phantom.anatomy import head_volume, pixel_size, slice_spacing
from spinwarp.data.simulation import acquire, loop_coil_maps, smooth_phase
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc


def head_example(seed: int, shape: tuple[int, int] = (160, 144), n_coils: int = 6, snr: float = 50.0) -> Example:
    """Simulate a fully sampled scan of one axial slice of a head; the seed decides anatomy and contrast.

    Use :class:`spinwarp.data.undersample.Undersample` to leave lines out.

    Parameters
    ----------
    seed : equal seeds give equal heads.
    shape : (h, w) in pixels, at least 32 each.
    n_coils : receive coils.
    snr : mean magnitude of the head over the standard deviation of the complex noise of a pixel.

    Returns
    -------
    A batch of one, without coil maps. The target is the root sum of squares of the coils, noise included. The largest
    value of the head without noise is one.

    Raises
    ------
    InputError : if a number is out of range.
    """
    if min(shape) < 32 or n_coils < 1 or not snr > 0:
        raise InputError(
            f"a head needs a shape of at least 32x32, a coil and an snr above 0; got {shape=}, {n_coils=}, {snr=}"
        )
    rng = np.random.RandomState(seed)
    image, contrast = head_volume(1, shape, rng)
    image /= image.max()
    noise_std = float(image[image > 0.1].mean()) / snr
    maps = loop_coil_maps(n_coils, shape, rng)
    kspace = torch.from_numpy(acquire(image * np.exp(1j * smooth_phase(shape, rng)), maps, noise_std, rng))
    target = root_sum_of_squares(ifftc(kspace))
    pixel = pixel_size(shape)
    header = Header(
        "phantom", f"head {seed}", voxel_size=(pixel, pixel, slice_spacing(1)), orientation="axial", contrast=contrast
    )
    mask = torch.ones(1, 1, 1, shape[1], dtype=torch.bool)
    return Example(
        Acquisition(kspace, mask, headers=(header,)),
        target,
        target.flatten(1).amax(1),
        (f"head_{seed}",),
        (0,),
        ("rss",),
    )
