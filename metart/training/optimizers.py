"""Learning-rate schedules and optimizers, by slim's names."""

import math

from metart.networks.slim_compat import tf

SCHEDULES = ("cosine", "exponential", "fixed", "polynomial")
OPTIMIZERS = ("adadelta", "adagrad", "adam", "ftrl", "momentum", "rmsprop", "sgd")


def learning_rate(
    step: int,
    schedule: str,
    peak: float,
    end: float,
    total_steps: int,
    warmup_steps: int,
    decay_steps: int,
    decay_factor: float,
) -> float:
    """Returns the learning rate of a step.

    Args:
        step: Number of steps already done, from 0.
        schedule: One of SCHEDULES. `cosine` and `polynomial` (a straight line) fall from `peak` to `end` over
            the run; `exponential` multiplies with `decay_factor` after every `decay_steps`, as slim does.
        peak: The rate after the warm-up.
        end: The rate at the end of `cosine` and `polynomial`.
        total_steps: Length of the run, steps.
        warmup_steps: Over these first steps the rate rises in a straight line to `peak`: the first gradients of
            a network are large and point nowhere.
        decay_steps: See `exponential`.
        decay_factor: See `exponential`.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    if schedule == "cosine":
        return end + (peak - end) * 0.5 * (1.0 + math.cos(math.pi * done))
    if schedule == "polynomial":
        return end + (peak - end) * (1.0 - done)
    if schedule == "exponential":
        return peak * decay_factor ** ((step - warmup_steps) // decay_steps)
    return peak


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
