"""U-Nets that are small enough for tests of the unrolled network."""

from functools import partial

from spinwarp.models.norm_unet import PlainUNet
from spinwarp.models.prompt_unet import PromptUNet

SMALL = partial(PromptUNet, channels=4, pools=2, prompt_size=4)
PLAIN = partial(PlainUNet, channels=4, pools=2)
