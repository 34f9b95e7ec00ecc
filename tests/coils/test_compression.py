import numpy as np
import pytest
import torch
from torch import Tensor

from spinwarp.coils import compress, compression_matrix, root_sum_of_squares
from spinwarp.data.simulation import loop_coil_maps
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def everything(kspace: Tensor) -> Tensor:
    return torch.ones(len(kspace), 1, 1, kspace.shape[-1], dtype=torch.bool)


def head(n_coils: int, shape: tuple[int, int] = (64, 60)) -> tuple[Tensor, Tensor]:
    """K-space of an ellipse with texture seen by loops, and their maps."""
    y, x = torch.linspace(-1, 1, shape[0])[:, None], torch.linspace(-1, 1, shape[1])
    image = ((x / 0.7) ** 2 + (y / 0.8) ** 2 < 1) * (1 + 0.3 * torch.cos(20 * x + 9 * y)).to(torch.complex64)
    maps = torch.from_numpy(loop_coil_maps(n_coils, shape, np.random.RandomState(0)))[None]
    return fftc(image * maps), maps


def test_as_many_virtual_coils_as_coils_keep_the_root_sum_of_squares() -> None:
    kspace = draw(2, 5, 20, 18)
    matrix = compression_matrix(kspace, everything(kspace), None, 5)
    before, after = (root_sum_of_squares(ifftc(k)) for k in (kspace, compress(kspace, matrix)))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)  # float32 through a unitary matrix


@pytest.mark.parametrize("n_virtual", [1, 3, 6])
def test_the_rows_are_orthonormal_and_sorted_by_energy(n_virtual: int) -> None:
    kspace, _ = head(6)
    matrix = compression_matrix(kspace, everything(kspace), torch.tensor([16]), n_virtual)
    assert matrix.shape == (1, n_virtual, 6)
    torch.testing.assert_close(matrix @ matrix.mH, torch.eye(n_virtual).to(matrix)[None], rtol=0, atol=1e-5)
    energy = compress(kspace, matrix)[..., 20:44, 22:38].abs().square().sum((0, 2, 3))  # of the calibration block
    assert energy.tolist() == sorted(energy.tolist(), reverse=True)


def test_eight_of_thirty_two_coils_hold_nearly_all_energy_of_the_whole_of_k_space() -> None:
    kspace, maps = head(32)
    mask = torch.zeros(1, 1, 1, 60, dtype=torch.bool)
    mask[..., 22:38] = True
    matrix = compression_matrix(kspace * mask, mask, None, 8)
    values = torch.linalg.svdvals(kspace[0].flatten(1).to(torch.complex128)) ** 2
    kept = float((compress(kspace, matrix).abs().double() ** 2).sum() / values.sum())
    assert kept > 0.99  # measured: 0.993
    # no eight hold more than the singular vectors of all of k-space, and those of its centre hold nearly as much
    most = float(values[:8].sum() / values.sum())
    assert 0.9995 * most < kept < most * (1 + 1e-6)
    # the same matrix takes the maps along: the model of the virtual coils is that of the coils
    image = draw(1, 1, 64, 60)
    torch.testing.assert_close(compress(image * maps, matrix), image * compress(maps, matrix), rtol=1e-4, atol=1e-5)


def test_white_noise_stays_white_and_of_the_same_level() -> None:
    kspace, _ = head(6)
    matrix = compression_matrix(kspace, everything(kspace), None, 4)
    n = 40000
    noise = compress(draw(1, 6, 200, 200, seed=1), matrix).flatten(2)[0]
    covariance = noise @ noise.mH / n
    # each of 16 elements has a standard deviation of 1 / sqrt(n); four of them are passed by none in 16 of 10^4 runs
    torch.testing.assert_close(covariance, torch.eye(4).to(covariance), rtol=0, atol=4 * n**-0.5)


def test_a_batch_equals_its_items_and_the_data_are_left_as_they_were() -> None:
    kspace = torch.cat([head(6)[0], draw(1, 6, 64, 60)])
    n_acs, before = torch.tensor([16, 12]), kspace.clone()
    matrix = compression_matrix(kspace, everything(kspace), n_acs, 3)
    compressed = compress(kspace, matrix)
    for i in range(2):
        item = slice(i, i + 1)
        alone = compression_matrix(kspace[item], everything(kspace[item]), n_acs[item], 3)
        assert torch.equal(matrix[item], alone)
        torch.testing.assert_close(compressed[item], compress(kspace[item], alone))
    assert torch.equal(kspace, before)


@pytest.mark.parametrize("n_virtual", [0, 7])
def test_more_virtual_coils_than_coils_or_none_are_refused(n_virtual: int) -> None:
    kspace, _ = head(6)
    with pytest.raises(InputError, match=f"6 coils cannot be compressed to {n_virtual}; use 1 to 6"):
        compression_matrix(kspace, everything(kspace), None, n_virtual)


def test_a_centre_that_was_not_sampled_or_is_damaged_is_refused() -> None:
    kspace, _ = head(6)
    with pytest.raises(InputError, match="finite samples at the centre"):
        compression_matrix(kspace, ~everything(kspace), None, 2)
    kspace[0, 0, 32, 30] = torch.inf
    with pytest.raises(InputError, match="finite samples at the centre"):
        compression_matrix(kspace, everything(kspace), None, 2)
