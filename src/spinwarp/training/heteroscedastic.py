"""Training by a likelihood: the network learns the image and how far off it is."""

from torch import Tensor

from spinwarp.acquisition import Example, center_crop
from spinwarp.training.supervised import UNetModule


class HeteroscedasticModule(UNetModule):
    """Trains a network that returns image and standard deviation, by the likelihood of the target under them.

    As for the U-Net both are taken in units of each zero-filled image's deviation, so that every slice weighs the
    same. The loss is ``loss(image, target, std)``, of pixels in these units.
    """

    def loss_and_magnitude(self, example: Example) -> tuple[Tensor, Tensor]:
        """Return the negative log likelihood and the magnitude ``(batch, h, w)`` inside the target's crop."""
        target, mean, unit = self.normalised_target(example)
        result = self.net(example.acquisition)
        size = (target.shape[-2], target.shape[-1])
        magnitude, std = center_crop(result.image.abs(), size), center_crop(result.std, size)
        return self.loss((magnitude - mean) / unit, target, std / unit), magnitude
