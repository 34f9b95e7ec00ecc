"""Trained networks as methods: our own checkpoints and fastMRI's published weights."""

from collections.abc import Sequence

from spinwarp.errors import InputError
from spinwarp.models.fastmri_weights import network_from_fastmri
from spinwarp.models.loading import check_finite, is_state, load_end_to_end, load_plain
from spinwarp.recon.base import NetworkReconstructor


class Checkpoint(NetworkReconstructor):
    """A network from a checkpoint of ``train.py``, rebuilt from the file alone.

    Parameters
    ----------
    path : the ``.ckpt`` file.
    trusted : packages beside spinwarp from which the file may build its network. A checkpoint names the classes it is
        made of; one from a stranger must not be able to call whatever it likes.

    Raises
    ------
    InputError : if the file is missing, damaged, not one of ours, or its weights do not fit its own description.
    """

    def __init__(self, path: str, trusted: Sequence[str] = ()) -> None:
        network, self.record = load_end_to_end(path, trusted)
        super().__init__(network)


class FastMRIWeights(NetworkReconstructor):
    """A state dict that fastMRI published (U-Net knee and brain, E2E-VarNet knee and brain).

    Parameters
    ----------
    path : the ``.pt`` file.

    Raises
    ------
    InputError : if the file is missing, damaged, or holds the weights of another network.
    """

    def __init__(self, path: str) -> None:
        content = load_plain(path)
        if "spinwarp" in content:
            raise InputError(f"{path} is a checkpoint of spinwarp; use recon=checkpoint")
        state = content.get("state_dict", content)
        if not is_state(state):
            raise InputError(f"{path} holds no state dict: names and tensors are expected")
        check_finite(path, {"state_dict": state})
        try:
            network = network_from_fastmri(state)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        super().__init__(network)
