import math

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from spinwarp.cli.app import conf_folder
from spinwarp.errors import InputError
from spinwarp.masks import MixedMask, PoissonDiscMask, RandomMask


def test_each_mask_is_drawn_as_often_as_its_weight_says() -> None:
    mixed = MixedMask([RandomMask([0.1], [4]), PoissonDiscMask([0.1], [4])], weights=[3, 1])
    rng = np.random.RandomState(0)
    lines = [mixed((32, 32), rng)[0].shape == (1, 32) for _ in range(400)]
    assert np.mean(lines) == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 400) ** 0.5)
    assert math.isnan(mixed.nominal_acceleration)


def test_the_same_generator_draws_the_same_mask_and_the_drawn_mask_says_its_centre() -> None:
    mixed = MixedMask([RandomMask([0.1], [4]), RandomMask([0.25], [2])])
    for seed in range(8):
        (one, n), (other, m) = (mixed((32, 40), np.random.RandomState(seed)) for _ in range(2))
        torch.testing.assert_close(one, other)
        assert n == m
        assert n in (4, 10)


@pytest.mark.parametrize("options", [{"masks": []}, {"weights": [1.0, 2.0]}, {"weights": [0.0]}])
def test_a_mix_of_nothing_and_wrong_weights_are_refused(options: dict[str, list[float]]) -> None:
    with pytest.raises(InputError, match="positive weight for each"):
        MixedMask(**{"masks": [RandomMask([0.1], [4])], **options})  # type: ignore[arg-type]


def test_the_mixed_entry_samples_every_matrix_of_the_simulated_heads_two_to_ten_times() -> None:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose(None, ["+mask=mixed", "+data=simulated_heads"])
    mask, rng, rates, points = instantiate(config.mask), np.random.RandomState(0), [], 0
    for h, w in config.data.source.matrices:
        if h * w > 200 * 200:  # large ones cost seconds and are easier to sample
            continue
        for _ in range(12):
            drawn, n_center = mask((h, w), rng)
            rates.append(drawn.numel() / int(drawn.sum()))
            points += drawn.shape[0] > 1
            assert n_center >= 2
    assert min(rates) > 1.5
    assert max(rates) < 16  # a random mask scatters about its nominal acceleration
    assert np.percentile(rates, 10) < 3 < 7 < np.percentile(rates, 90)
    assert 0.05 < points / len(rates) < 0.35
