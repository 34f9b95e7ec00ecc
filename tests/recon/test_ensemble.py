"""Ensembles: how members are merged, and which are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spinwarp.acquisition import Reconstruction
from spinwarp.errors import InputError
from spinwarp.models.loading import build_network
from spinwarp.recon.checkpoint import Checkpoint
from spinwarp.recon.ensemble import Ensemble
from spinwarp.recon.samples import mixture

UNET = {"_target_": "spinwarp.models.unet.MagnitudeUNet", "channels": 4, "pools": 2}
HETEROSCEDASTIC = {**UNET, "_target_": "spinwarp.models.heteroscedastic.HeteroscedasticUNet"}
SCORE = {
    "_target_": "spinwarp.models.denoiser.Denoiser",
    "network": {"_target_": "spinwarp.models.score_unet.ScoreUNet", "widths": [8]},
}
VAE = {"_target_": "spinwarp.models.vae.VAE", "size": [32, 36], "channels": 8, "levels": 1, "latent_channels": 4}


def checkpoint(folder: Path, seed: int, net: dict[str, Any] = UNET, **record: Any) -> str:
    torch.manual_seed(seed)
    state = build_network(net, ("spinwarp.models",)).state_dict()
    path = folder / f"{net['_target_'].rpartition('.')[2]}_{seed}_{len(list(folder.iterdir()))}.ckpt"
    content = {"state_dict": {f"net.{k}": v for k, v in state.items()}, "spinwarp": {"net": net, "name": "n", **record}}
    torch.save(content, path)
    return str(path)


def complex_normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def test_mean_and_spread_are_those_of_the_members_magnitudes(tmp_path: Path, make_acquisition) -> None:
    paths = [checkpoint(tmp_path, seed) for seed in range(3)]
    acquisition = make_acquisition()
    images = torch.stack([Checkpoint(path)(acquisition).image for path in paths])
    result = Ensemble(paths)(acquisition)
    torch.testing.assert_close(result.image.abs(), images.abs().mean(0))
    torch.testing.assert_close(result.std, images.abs().std(0))
    assert torch.equal(result.samples, images)


def test_members_with_a_deviation_make_a_mixture(tmp_path: Path, make_acquisition) -> None:
    paths = [checkpoint(tmp_path, seed, HETEROSCEDASTIC) for seed in range(3)]
    acquisition = make_acquisition()
    alone = [Checkpoint(path)(acquisition) for path in paths]
    mean_of_variances = sum(one.std**2 for one in alone) / 3
    mean = sum(one.image.abs() for one in alone) / 3
    variance_of_means = sum((one.image.abs() - mean) ** 2 for one in alone) / 2
    expected = (mean_of_variances + variance_of_means).sqrt()
    torch.testing.assert_close(Ensemble(paths)(acquisition).std, expected)


def test_the_mixture_s_deviation_is_that_of_draws_from_random_members() -> None:
    """1000 members, of which as many again would hardly differ; a million draws of each pixel."""
    generator = torch.Generator().manual_seed(0)
    n = 1000
    means, stds = 5 + torch.rand(n, 1, 2, 2, generator=generator), 0.1 + torch.rand(n, 1, 2, 2, generator=generator)
    members = [Reconstruction(torch.complex(m, torch.zeros_like(m)), s) for m, s in zip(means, stds, strict=True)]
    draws = means + stds * torch.randn(1000, n, 1, 2, 2, generator=generator)
    # the deviation of a million draws is good to .1 %; n - 1 for n is another .05 %
    torch.testing.assert_close(mixture(members).std, draws.flatten(0, 1).std(0), rtol=5e-3, atol=0)


def test_a_member_without_a_deviation_adds_its_image_alone() -> None:
    one, other = complex_normal(2, 4, 5), complex_normal(2, 4, 5, seed=1)
    std = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(2))
    result = mixture([Reconstruction(one, std), Reconstruction(other)])
    spread = (one.abs() - other.abs()).abs() / 2**0.5
    torch.testing.assert_close(result.std, (std**2 + spread**2).sqrt())


def test_members_of_opposite_phase_do_not_cancel() -> None:
    image = complex_normal(2, 4, 5)
    turned = image * torch.polar(torch.tensor(1.0), torch.tensor(3.0))  # 172 degrees
    result = mixture([Reconstruction(image), Reconstruction(turned)])
    torch.testing.assert_close(result.image.abs(), image.abs())
    assert float(result.std.max()) < 1e-6  # of one size; float32
    assert float(((image + turned) / 2).abs().max()) < 0.1 * float(image.abs().max())  # the complex mean does


def test_members_that_agree_in_phase_keep_it() -> None:
    image = complex_normal(2, 4, 5)
    result = mixture([Reconstruction(image), Reconstruction(3 * image)])
    torch.testing.assert_close(result.image, 2 * image)


@pytest.mark.parametrize("paths", [[], ["a.ckpt"], "ab.ckpt"], ids=repr)
def test_fewer_than_two_files_are_refused(paths: Any) -> None:
    with pytest.raises(InputError, match=r"at least two checkpoints; give them as recon\.paths=\[FILE,FILE\]"):
        Ensemble(paths)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*absent\.ckpt', which recon\.paths names"):
        Ensemble([checkpoint(tmp_path, 0), str(tmp_path / "absent.ckpt")])


@pytest.mark.parametrize(("net", "way"), [(SCORE, "recon=posterior"), (VAE, "recon=latent")])
def test_a_prior_among_the_members_is_refused(tmp_path: Path, net: dict[str, Any], way: str) -> None:
    with pytest.raises(InputError, match=way):
        Ensemble([checkpoint(tmp_path, 0), checkpoint(tmp_path, 1, net)])


@pytest.mark.parametrize("copied", [False, True], ids=["one file twice", "a copy"])
def test_the_same_weights_twice_are_refused(tmp_path: Path, copied: bool) -> None:
    first = checkpoint(tmp_path, 0)
    again = checkpoint(tmp_path, 0) if copied else first
    with pytest.raises(InputError, match="hold the same weights"):
        Ensemble([first, checkpoint(tmp_path, 1), again])


def test_members_trained_on_different_data_are_refused(tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path, i, trained_on={"dataset": name, "volumes": []}) for i, name in enumerate("ab")]
    with pytest.raises(InputError, match=r"different data \(a, b\)"):
        Ensemble(paths)


def test_the_record_holds_the_training_volumes_of_all_members(tmp_path: Path) -> None:
    trained = [{"trained_on": {"dataset": "a", "volumes": volumes}} for volumes in (["x", "y"], ["y", "z"])]
    paths = [checkpoint(tmp_path, i, **record) for i, record in enumerate([*trained, {}])]
    assert Ensemble(paths).record == {"trained_on": {"dataset": "a", "volumes": ["x", "y", "z"]}}
    for i, patients in enumerate((["p"], ["o", "p"])):
        trained[i]["trained_on"]["patients"] = patients
    paths = [checkpoint(tmp_path, 4 + i, **record) for i, record in enumerate(trained)]
    assert Ensemble(paths).record["trained_on"]["patients"] == ["o", "p"]
    assert Ensemble([checkpoint(tmp_path, 8), checkpoint(tmp_path, 9)]).record == {}
