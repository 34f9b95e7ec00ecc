"""Adversarial training of a generator."""

from collections.abc import Callable, Iterable
from itertools import islice

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus

from spinwarp.acquisition import Example
from spinwarp.errors import InputError
from spinwarp.models.gan import GAN
from spinwarp.solvers.lbfgs import lbfgs
from spinwarp.training.generator import GeneratorModule, MakeOptimizer
from spinwarp.training.images import size_of


class GANModule(GeneratorModule):
    """Trains generator and discriminator together: non-saturating loss, with a penalty on the gradient at real images.

    One backward pass gives both networks their gradients: the generator's loss holds the discriminator's weights fixed,
    the discriminator's loss holds the generated images fixed. Lightning's clipping, accumulation and precision
    therefore work as for any network. Mescheder et al. show that such simultaneous steps converge with this penalty.

    ``val/ssim`` compares the target with the nearest image that a few steps of latent descent find.

    Parameters
    ----------
    net, optimizer, schedule : see :class:`GeneratorModule`; the optimizer gets the weights of both networks.
    discriminator : images ``(batch, h, w)`` complex to ``(batch,)``.
    penalty : half of it times the squared gradient of the discriminator at real images is added to its loss.
    steps : of latent descent in validation.

    Raises
    ------
    InputError : if ``penalty`` or ``steps`` is out of range.

    References
    ----------
    Goodfellow et al., "Generative adversarial nets", NeurIPS 2014.
    Mescheder, Geiger and Nowozin, "Which training methods for GANs do actually converge?", ICML 2018 (R1).
    """

    net_type = GAN
    net: GAN

    def __init__(
        self,
        net: nn.Module,
        discriminator: nn.Module,
        optimizer: MakeOptimizer,
        schedule: Callable[[float], float] | None = None,
        penalty: float = 1.0,
        steps: int = 30,
    ) -> None:
        super().__init__(net, optimizer, schedule)
        if penalty < 0 or steps < 1:
            raise InputError(f"penalty is at least 0 and steps at least 1; got {penalty} and {steps}")
        self.discriminator = discriminator
        self.penalty = penalty
        self.steps = steps

    def trained_parameters(self) -> Iterable[nn.Parameter]:
        """Return the weights of both networks."""
        return self.parameters()

    def training_step(self, example: Example, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Take one step of both networks."""
        losses = self.losses(self.images(example)[0])
        for name, loss in losses.items():
            self.log(f"train/{name}", loss, prog_bar=True, batch_size=len(example))
        return torch.stack(list(losses.values())).sum()

    def training_loss(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the sum of both losses."""
        return torch.stack(list(self.losses(images, generator).values())).sum()

    def losses(self, images: Tensor, generator: Generator | None = None) -> dict[str, Tensor]:
        """Return the loss of the ``generator`` and of the ``discriminator``."""
        z = torch.randn(len(images), *self.net.latent_shape(), generator=generator, device=images.device)
        made = self.net.generate(z, size_of(images))
        held = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        generator_loss = softplus(-functional_call(self.discriminator, held, made)).mean()
        real = images.detach().clone().requires_grad_(torch.is_grad_enabled())
        score = self.discriminator(real)
        loss = softplus(-score).mean() + softplus(self.discriminator(made.detach())).mean()
        if real.requires_grad and self.penalty > 0:
            (slope,) = torch.autograd.grad(score.sum(), real, create_graph=True)
            loss = loss + self.penalty / 2 * torch.view_as_real(slope).square().sum((1, 2, 3)).mean()
        return {"generator": generator_loss, "discriminator": loss}

    def restore(self, images: Tensor) -> Tensor:
        """Return the generator's images nearest to ``images`` that latent descent from z = 0 finds."""
        size = size_of(images)
        # Lightning validates without gradients; in half precision no step of a line search would lower the error
        with torch.inference_mode(False), torch.autocast(images.device.type, enabled=False):
            target = images.clone()
            start = torch.zeros(len(images), *self.net.latent_shape(size), device=images.device)
            iterates = lbfgs(lambda z: (self.net.generate(z, size) - target).abs().square().sum((-2, -1)), start)
            # always yields the start, and ends by itself when no step lowers the error
            *_, (z, _) = islice(iterates, self.steps + 1)
        return self.net.generate(z, size)
