"""Turn a checkpoint into a file of safetensors: ``python -m spinwarp.models.export CHECKPOINT OUT.safetensors``."""

import sys
from collections.abc import Sequence
from pathlib import Path

from spinwarp.errors import InputError
from spinwarp.models.loading import load_network
from spinwarp.models.weights import write_safetensors


def main(arguments: Sequence[str]) -> None:
    """Write the network of a checkpoint, and the record of its training but for the configuration of the run."""
    try:
        if len(arguments) != 2 or not arguments[1].endswith(".safetensors"):
            raise InputError("usage: python -m spinwarp.models.export CHECKPOINT OUT.safetensors")
        network, record = load_network(arguments[0])
        state = {f"net.{name}": value for name, value in network.state_dict().items()}
        write_safetensors(Path(arguments[1]), state, {k: v for k, v in record.items() if k != "config"})
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
