"""Moving averages of weights, which follow closely at first."""

from torch import Tensor

from spinwarp.lightning_internals import WarmWeightAveraging


def ramped(decay: float, step: Tensor | int) -> Tensor | float:
    """Return the decay at ``step``, which rises from .1 to ``decay``: the first weights are forgotten soon.

    The ramp is that of TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``.
    """
    rising = (1 + step) / (10 + step)
    return rising.clamp(max=decay) if isinstance(rising, Tensor) else min(decay, rising)


class MovingAverage(WarmWeightAveraging):
    """Validates and saves the exponential moving average of the weights, whatever the length of the run.

    Lightning's own averages weights from one step on only: until then it validates and saves those that the network had
    before its first step, and before a warm start.

    Parameters
    ----------
    decay : of the average, per step; less in the first steps, see :func:`ramped`.
    """

    def __init__(self, decay: float = 0.995) -> None:
        def average(mean: Tensor, value: Tensor, step: Tensor | int) -> Tensor:
            return mean.lerp(value, 1 - ramped(decay, step))

        super().__init__(use_buffers=False, avg_fn=average)  # buffers are copied: they may count
