"""The phantoms of a scan at full size, made while the checks run."""

from hydra.utils import instantiate

from gpu.problems import composed, phantoms
from gpu.setting import Rows, Setting, Values


def rows(setting: Setting) -> Rows:
    """Make both sets."""

    def make(tiny: bool) -> Values:
        instantiate(composed("train", *phantoms(setting, tiny)).data).prepare_data()
        return {}

    return {"tiny phantoms": lambda: make(True), "phantoms": lambda: make(False)}
