"""The steps of a training run: reported as they go, saved now and then, stopped in an orderly way."""

from collections.abc import Callable, Iterator
import contextlib
import math
from pathlib import Path
import time
from typing import Any, NamedTuple

import numpy as np

from metart.networks.slim_compat import tf
from metart.common.flags import Retry, UserError
from metart.common.interruption import Interruption
from metart.common.progress import Progress
from metart.networks import checkpoints
from metart.training.cluster import Cluster
from metart.training.optimizers import Schedule
from metart.training.summaries import Summaries
from metart.training.training_graph import TrainStep

MAX_SKIPPED = 32  # Steps in a row: twice as many as take TensorFlow's loss scale from its first value down to 1.


class Plan(NamedTuple):
    """How long a run is."""

    first_step: int  # Steps already done.
    global_batch_size: int  # Pictures of a step, all workers together.
    schedule: Schedule

    @property
    def total_steps(self) -> int:
        return self.schedule.total_steps


class Intervals(NamedTuple):
    """How often a run says or saves something; the fields have the names of the flags."""

    log_every_n_steps: int
    save_summaries_secs: int
    save_interval_secs: int
    validation_epochs: float | None  # None never measures.

    def is_measured(self, step: int, plan: Plan) -> bool:
        """Returns whether the checkpoint of a step is measured on the validation split."""
        if not self.validation_epochs or step == 0:
            return False
        steps = max(1, round(self.validation_epochs * plan.schedule.steps_per_epoch))
        return step % steps == 0 or step == plan.total_steps


class Run(NamedTuple):
    """A run that is under way."""

    train_dir: Path
    session: tf.compat.v1.Session
    train_step: TrainStep
    shown: list[tf.Tensor]  # The first images and labels of a batch, as in input_pipeline.training_batches; or nothing.
    saver: tf.compat.v1.train.Saver
    plan: Plan
    workers: Cluster
    interruption: Interruption
    label_names: list[str]
    before_saving: Callable[[], None]  # Raises where what was learned must not be saved.


class Measurement(NamedTuple):
    """What a measurement on the validation split came to."""

    figures: dict[str, float]
    message: str
    is_over: bool  # Further steps are not worth their time.


Measure = Callable[[str], Measurement]  # Of a checkpoint.


def run_steps(
    run: Run,
    feeds: Iterator[dict[tf.Tensor, Any]],
    intervals: Intervals,
    measure: Measure | None = None,
    is_over: bool = False,
) -> str:
    """Runs the steps that are left, reports them, saves checkpoints and has them measured.

    Args:
        run: Its session is ready for the first step.
        feeds: What each step is fed apart from the learning rate.
        intervals: How often things are done.
        measure: Of worker 0 with a validation split.
        is_over: What the last measurement of a run that was killed came to: all workers stop after one step.

    Returns:
        One line for the reader: what was reached and where it is.

    Raises:
        Retry, KeyboardInterrupt: The run was interrupted; what was reached is saved.
        UserError: The loss or a weight is no longer a finite number, or a checkpoint cannot be written.
    """
    plan, train_step, session = run.plan, run.train_step, run.session
    everybody_is_done = run.workers.barrier()
    with (
        contextlib.closing(Summaries(run.train_dir if run.workers.index == 0 else None)) as summaries,
        Progress("training", plan.total_steps, "steps", initial=plan.first_step) as progress,
    ):
        log = _Log(run, intervals, summaries, progress)
        checkpoint_saver = _CheckpointSaver(run, intervals, measure, log, is_over)
        for step in range(plan.first_step + 1, plan.total_steps + 1):
            rate = plan.schedule.rate(step - 1)
            inputs = {
                train_step.learning_rate: rate,
                train_step.stop_requested: [run.interruption.signal is not None, checkpoint_saver.is_over],
                **next(feeds),
            }
            # Every step gives a few pictures, due or not: TensorFlow optimizes the graph anew for other results.
            _, loss, (stop, over), *shown = session.run(
                [train_step.train_op, train_step.loss, train_step.stop_agreed, *run.shown], inputs
            )
            is_last = step == plan.total_steps or stop > 0 or over > 0
            run.workers.step_done()
            log.step_done(step, loss, rate, is_last)
            if shown:
                log.pictures(step, *shown)
            if checkpoint_saver.is_due(step) or is_last or not math.isfinite(loss):
                with log.paused(), run.workers.busy():
                    checkpoint_saver.save(step, loss)
            if is_last:
                break
    if run.workers.size > 1:  # Whoever left earlier would look lost to worker 0, which may still be saving.
        session.run(everybody_is_done)
        run.workers.all_done()
    if stop > 0 and not over > 0 and step < plan.total_steps:
        run.interruption.leave(
            f"saved {checkpoint_saver.saved} at step {step:,} of {plan.total_steps:,}; run the same command again to "
            "continue"
        )
        who = run.workers.told_to_stop()
        raise Retry(f"{who} was told to stop at step {step:,}; run the same command again to continue")
    reached = f"trained to step {step:,}: loss {loss:.3f}{log.speed()}"
    if checkpoint_saver.skipped:
        reached += f", {checkpoint_saver.skipped:,} steps skipped whose gradients were too large for float16"
    return f"{reached}, checkpoint {checkpoint_saver.saved}"


class _Log:
    """Says how the run goes: on the terminal, and as curves and pictures for TensorBoard."""

    def __init__(self, run: Run, intervals: Intervals, summaries: Summaries, progress: Progress):
        self._plan = run.plan
        self._is_worker_0 = run.workers.index == 0
        self._label_names = run.label_names
        self._intervals = intervals
        self._summaries = summaries
        self._progress = progress
        self._start = self._next_pictures = time.monotonic()
        self.images_per_second = 0.0

    def pictures(self, step: int, images: np.ndarray, labels: np.ndarray) -> None:
        """Writes a sample of the input, when it is due."""
        if time.monotonic() < self._next_pictures:
            return
        self._next_pictures = time.monotonic() + self._intervals.save_summaries_secs
        names = [f"input {number}: {self._label_names[label]}" for number, label in enumerate(labels, start=1)]
        self._summaries.pictures(step, images.clip(0, 255).astype(np.uint8), names)

    def step_done(self, step: int, loss: float, rate: float, is_last: bool) -> None:
        if step == self._plan.first_step + 1:
            self._start = time.monotonic()  # The first step also compiles and fills the queues.
        seen = (step - self._plan.first_step - 1) * self._plan.global_batch_size
        self.images_per_second = seen / max(time.monotonic() - self._start, 1e-9)
        self._progress.update(1, f"loss {loss:.3f}{self.speed()}")
        if step % self._intervals.log_every_n_steps == 0 or is_last:
            values = {"loss": loss, "learning_rate": rate, "images_per_second": self.images_per_second}
            self._summaries.scalars(step, values)

    def speed(self) -> str:
        """Returns the speed after the first step; of worker 0, as the others do not know how long it paused."""
        return f", {self.images_per_second:.1f} images/s" if self._is_worker_0 and self.images_per_second else ""

    def measurement(self, step: int, measured: Measurement) -> None:
        self._summaries.validation(step, measured.figures)
        self._progress.write(f"step {step:,}: {measured.message}")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count the block's time as training."""
        pause = time.monotonic()
        yield
        self._start += time.monotonic() - pause


class _CheckpointSaver:
    """Saves checkpoints when they are due, and has them measured."""

    def __init__(self, run: Run, intervals: Intervals, measure: Measure | None, log: _Log, is_over: bool):
        self._run = run
        self._intervals = intervals
        self._measure = measure
        self._log = log
        self._last_save = time.monotonic()
        self._basename = str(run.train_dir / checkpoints.BASENAME)
        self.saved = f"{self._basename}-{run.plan.first_step}" if run.plan.first_step else "none"
        self.skipped = 0  # Steps that changed nothing, see `TrainStep.applied`.
        self._last_applied = self._skipped_in_a_row = 0
        self.is_over = is_over  # All workers learn it with the next step.

    def is_due(self, step: int) -> bool:
        """Returns whether a checkpoint has to be written after this step; on all workers, where it is for measuring."""
        seconds = time.monotonic() - self._last_save
        is_late = self._run.workers.index == 0 and seconds >= self._intervals.save_interval_secs
        return is_late or self._intervals.is_measured(step, self._run.plan)

    def _learns(self, step: int) -> bool:
        """Counts the steps that were skipped; returns whether some were not, once there were enough to tell."""
        if self._run.train_step.applied is None:
            return True
        applied = int(self._run.session.run(self._run.train_step.applied))
        skipped = step - self._run.plan.first_step - applied
        is_idle = applied == self._last_applied
        self._skipped_in_a_row = self._skipped_in_a_row + skipped - self.skipped if is_idle else 0
        self.skipped, self._last_applied = skipped, applied
        return self._skipped_in_a_row < MAX_SKIPPED

    def save(self, step: int, loss: float) -> None:
        """Saves, if the weights are worth it, and measures if it is time.

        Raises:
            UserError: The run has diverged.
        """
        run = self._run
        if not (math.isfinite(loss) and run.session.run(run.train_step.is_finite) and self._learns(step)):
            raise UserError(
                f"the loss or a weight is no longer a finite number at step {step:,} (loss {loss}); try "
                f"--learning_rate={run.plan.schedule.learning_rate / 10:g} in a new --train_dir (last good "
                f"checkpoint: {self.saved})"
            )
        run.before_saving()
        if run.workers.index == 0:
            checkpoints.save(run.session, run.saver, run.train_dir, step)
        self.saved = f"{self._basename}-{step}"
        self._last_save = time.monotonic()
        if self._measure and self._intervals.is_measured(step, run.plan):
            measured = self._measure(self.saved)
            self._log.measurement(step, measured)
            self.is_over = measured.is_over
