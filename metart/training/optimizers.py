"""Learning-rate schedules and optimizers, by slim's names."""

import math
from typing import NamedTuple

from metart.networks.slim_compat import tf

SCHEDULES = ("cosine", "exponential", "fixed", "polynomial")
OPTIMIZERS = ("adadelta", "adagrad", "adam", "ftrl", "momentum", "rmsprop", "sgd")


class Schedule(NamedTuple):
    """The learning rate over a run; the fields have the names of the flags."""

    learning_rate_decay_type: str  # One of SCHEDULES.
    learning_rate: float  # After the warm-up.
    end_learning_rate: float  # At the end of `cosine` and `polynomial`, if below the one before.
    learning_rate_decay_factor: float  # Of `exponential`, after every `num_epochs_per_decay`, as slim has it.
    num_epochs_per_decay: float
    # Over these epochs the rate rises in a straight line: the first gradients of a network are large and point
    # nowhere. None is a tenth of the run, at most one epoch.
    warmup_epochs: float | None
    total_steps: int = 1  # Length of the run.
    steps_per_epoch: float = 1.0

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step, from 0."""
        peak = self.learning_rate
        warmup_steps = self._warmup_steps()
        if step < warmup_steps:
            return peak * (step + 1) / warmup_steps
        if self.learning_rate_decay_type == "exponential":
            steps_per_decay = max(1, int(self.num_epochs_per_decay * self.steps_per_epoch))
            return peak * self.learning_rate_decay_factor ** ((step - warmup_steps) // steps_per_decay)
        done = min(1.0, (step - warmup_steps) / max(1, self.total_steps - warmup_steps))
        left = {"cosine": 0.5 * (1.0 + math.cos(math.pi * done)), "polynomial": 1.0 - done, "fixed": 1.0}
        end = min(self.end_learning_rate, peak)
        return end + (peak - end) * left[self.learning_rate_decay_type]

    def _warmup_steps(self) -> int:
        if self.warmup_epochs is None:
            return math.ceil(min(self.total_steps / 10, self.steps_per_epoch))
        return math.ceil(self.warmup_epochs * self.steps_per_epoch)


def build(name: str, rate: tf.Tensor, momentum: float, decay: float, epsilon: float) -> tf.compat.v1.train.Optimizer:
    """Returns one of OPTIMIZERS.

    Args:
        name: One of OPTIMIZERS.
        rate: float32 scalar, the learning rate.
        momentum: Of `momentum` (Nesterov's form) and `rmsprop`.
        decay: Of the average of squared gradients of `rmsprop`.
        epsilon: Added to that average by `rmsprop`, to the root of it by `adam`.
    """
    train = tf.compat.v1.train
    if name == "momentum":
        return train.MomentumOptimizer(rate, momentum, use_nesterov=True)
    if name == "rmsprop":
        return train.RMSPropOptimizer(rate, decay=decay, momentum=momentum, epsilon=epsilon)
    if name == "adam":
        return train.AdamOptimizer(rate, epsilon=epsilon)
    plain = {
        "adadelta": train.AdadeltaOptimizer,
        "adagrad": train.AdagradOptimizer,
        "ftrl": train.FtrlOptimizer,
        "sgd": train.GradientDescentOptimizer,
    }
    return plain[name](rate)
