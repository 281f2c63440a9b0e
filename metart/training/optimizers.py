"""Learning-rate schedules and optimizers, by slim's names."""

import functools
import math
from typing import NamedTuple

from metart.networks.slim_compat import tf
from metart.networks import registry

OPTIMIZERS = ("adadelta", "adagrad", "adam", "ftrl", "momentum", "muon", "rmsprop", "sgd")
SCHEDULES = ("cosine", "exponential", "fixed", "polynomial")
# Of `orthogonal`: as in its authors' shortest runs. They take five in long ones, for which bfloat16 is too rough here.
ROUNDS = 3
EPSILON = 1e-7


class Schedule(NamedTuple):
    """The learning rate over a run; the fields have the names of the flags."""

    learning_rate_decay_type: str  # One of SCHEDULES.
    learning_rate: float  # After the warm-up.
    end_learning_rate: float  # At the end of `cosine` and `polynomial`, if below the one before.
    learning_rate_decay_factor: float  # Of `exponential`, after every `num_epochs_per_decay`; a warm-up is not counted.
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
        momentum: Of `momentum` (Nesterov's form), `muon` and `rmsprop`.
        decay: Of the average of squared gradients of `rmsprop`.
        epsilon: Added to that average by `rmsprop`, to the root of it by `adam`.
    """
    train = tf.compat.v1.train
    if name == "momentum":
        return train.MomentumOptimizer(rate, momentum, use_nesterov=True)
    if name == "muon":
        return Muon(rate, momentum)
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


class Muon(tf.compat.v1.train.MomentumOptimizer):
    """Momentum that gives every direction of a convolution's update the same length.

    Jordan and others, 2024 (https://kellerjordan.github.io/posts/muon/). The gradient of a layer is long in few
    directions of its inputs, and a step of plain momentum learns little in the others. Here the update, a matrix of
    inputs by outputs, is replaced by the orthogonal matrix nearest to it, so that a layer learns in all of them at
    once. Its weights keep the length sqrt(outputs), which the rate is a share of.
    Biases, batch norm, depthwise convolutions and the output layers take the plain momentum, with the same rate;
    so do convolutions with biases, which have no batch norm that takes back the length of their weights.
    """

    def __init__(self, rate: tf.Tensor, momentum: float):
        super().__init__(rate, momentum, use_nesterov=True, name="Muon")
        names = [variable.op.name for variable in tf.compat.v1.trainable_variables()]
        with_biases = [name.removesuffix("/biases") for name in names if name.endswith("/biases")]
        self._plain = ",".join([*registry.head_scopes(), *with_biases])

    def _resource_apply_dense(self, gradient: tf.Tensor, variable: tf.Variable) -> tf.Operation:
        if (
            variable.shape.rank != 4
            or variable.shape[-1] == 1
            or (self._plain and registry.is_in_scopes(variable.op.name, self._plain))
        ):
            return super()._resource_apply_dense(gradient, variable)
        sum_of_gradients = self.get_slot(variable, "momentum")
        sum_of_gradients = sum_of_gradients.assign(self._momentum * sum_of_gradients + gradient)
        outputs = variable.shape[-1]
        update = orthogonal(tf.reshape(gradient + self._momentum * sum_of_gradients, [-1, outputs]))
        weights = variable * (math.sqrt(outputs) / tf.norm(variable))
        return variable.assign(weights - self._learning_rate_tensor * tf.reshape(update, variable.shape)).op


def orthogonal(matrix: tf.Tensor) -> tf.Tensor:
    """Returns, nearly, the matrix that has the same singular vectors and all singular values 1.

    A Newton-Schulz iteration: each round takes the values through one polynomial. These coefficients, Jordan's, bring
    small ones up fastest and end between 0.7 and 1.2 rather than at 1.

    Args:
        matrix: float32 [rows, columns].
    """
    rows, columns = matrix.shape
    matrix = matrix / (tf.norm(matrix) + EPSILON)
    # All rounds together are one product with the matrix; their factors follow from its square, which is smaller.
    square = tf.matmul(matrix, matrix, transpose_a=rows >= columns, transpose_b=rows < columns)
    identity = tf.eye(min(rows, columns))
    factors = []
    for _ in range(ROUNDS):
        factors.append(3.4445 * identity - 4.7750 * square + 2.0315 * square @ square)
        square = square @ factors[-1] @ factors[-1]
    product = functools.reduce(tf.matmul, factors)
    return matrix @ product if rows >= columns else product @ matrix
