"""``~`` is the home folder wherever a user writes it: in an argument, in the environment, in a YAML file.

All three are rewritten before anything reads them, whatever key they are for.
"""

import os
import re
import sys
from typing import Any

from omegaconf import DictConfig, OmegaConf

from spinwarp.files import user_path, with_home

# where a value begins; an argument that begins with ~ deletes a key, unless a slash follows
_HOME = re.compile(r"""^~(?=/)|(?<=[=,(\["'])~(?:[\w.-]*(?=/)|(?=$|[,)\]"']))""")


def prepare() -> None:
    """Rewrite the arguments and the environment of this process; shells know ``~`` at the beginning of a word only.

    ``-m`` goes before the overrides: Hydra does not read overrides on both sides of it. The processes that this one
    starts get all of this so too.
    """
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
    for i, argument in enumerate(sys.argv[1:], start=1):
        expanded = _HOME.sub(lambda found: with_home(found[0]), argument)
        # keys that had to be added once are in the configuration now
        sys.argv[i] = re.sub(r"^\+(?=trainer\.)", "++", expanded)
    for name in [name for name in os.environ if name.startswith("SPINWARP_")]:
        os.environ[name] = with_home(os.environ[name])


def expand_home(config: Any) -> None:
    """Write the home folder out in every value of a configuration; changes it.

    Raises
    ------
    InputError : if there is none.
    """
    for key in config if isinstance(config, DictConfig) else range(len(config)):
        value = None if OmegaConf.is_missing(config, key) else config[key]
        if OmegaConf.is_config(value):
            expand_home(value)
        elif isinstance(value, str) and value.startswith("~"):
            config[key] = str(user_path(value))
