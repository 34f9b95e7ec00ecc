"""Old public names: they give what has the new name now, and say so."""

from importlib import import_module

import pytest

from spinwarp.models.conv_decoder import ConvDecoder
from spinwarp.recon.untrained import UntrainedNetwork

RENAMED = {
    "spinwarp.training.ddp.EndTogether": "spinwarp.training.ddp.WatchedDDP",
    "spinwarp.cli.evaluate.JoinResults": "spinwarp.cli.evaluate.CompareResults",
    "spinwarp.recon.network_fit.SideBySide": "spinwarp.recon.network_fit.BatchedNetworks",
    "spinwarp.evaluation.volume.VolumeUnderWay": "spinwarp.evaluation.volume.VolumeAccumulator",
    "spinwarp.data.batches.ShapeBatchSampler": "spinwarp.data.batches.ShapeBatchOrder",
    "spinwarp.data.measured.Measurement": "spinwarp.data.fastmri.measured.Measurement",
    "spinwarp.data.measured.sampling_mask": "spinwarp.data.sampling.sampling_mask",
    "spinwarp.data.index.open_volume": "spinwarp.data.fastmri.index.open_volume",
}


def named(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_gives_what_has_the_new_one_and_warns_with_it(old: str) -> None:
    with pytest.warns(FutureWarning, match=f"^{old} is now {RENAMED[old]};"):
        found = named(old)
    assert found is named(RENAMED[old])


def test_a_name_that_never_was_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"spinwarp\.training\.ddp.*EndTogethr"):
        named("spinwarp.training.ddp.EndTogethr")


def test_the_old_key_of_the_held_out_lines_sets_the_new_one() -> None:
    with pytest.warns(FutureWarning, match=r"recon\.one_in is now recon\.holdout_every"):
        method = UntrainedNetwork(ConvDecoder, one_in=7)  # type: ignore[arg-type]
    assert method.holdout_every == 7
