"""Expand ``~`` to the home folder in arguments, in the environment and in YAML files.

All values are rewritten before anything reads them, whatever their key.
"""

import os
import re
import sys
from typing import Any

from omegaconf import DictConfig, OmegaConf

from spinwarp.files import user_path, with_home

# where a value begins; an argument such as ~key deletes a key, but ~/ is a path
_HOME = re.compile(r"""^~(?=/)|(?<=[=,(\["'])~(?:[\w.-]*(?=/)|(?=$|[,)\]"']))""")


def prepare() -> None:
    """Expand ``~`` in the arguments and environment of this process; shells do so only at the start of a word.

    ``-m`` moves before the overrides: Hydra does not read overrides on both sides of it. Child processes inherit the
    result.
    """
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
    for i, argument in enumerate(sys.argv[1:], start=1):
        expanded = _HOME.sub(lambda found: with_home(found[0]), argument)
        # users once had to add trainer keys with +; the configuration holds them now
        expanded = re.sub(r"^\+(?=trainer\.)", "++", expanded)
        # Hydra would take several values for a multirun, but one call writes all formats
        sys.argv[i] = re.sub(r"^format=([a-z0-9]+(?:,[a-z0-9]+)+)$", r"format=[\1]", expanded)
    for name in [name for name in os.environ if name.startswith("SPINWARP_")]:
        os.environ[name] = with_home(os.environ[name])


def expand_home(config: Any) -> None:
    """Expand ``~`` in every value of a configuration, in place.

    Raises
    ------
    InputError : if the user has no home folder.
    """
    for key in config if isinstance(config, DictConfig) else range(len(config)):
        value = None if OmegaConf.is_missing(config, key) else config[key]
        if OmegaConf.is_config(value):
            expand_home(value)
        elif isinstance(value, str) and value.startswith("~"):
            config[key] = str(user_path(value))
