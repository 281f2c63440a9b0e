"""The best checkpoint of a training run, by the validation split, and when to stop looking for a better one."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
import json
from pathlib import Path
import shutil
from typing import Any

from metart.networks.slim_compat import slim
from metart.common.files import open_replacing, read_json, replacing_folder
from metart.common.flags import UserError, notice
from metart.evaluation.inference import open_classifier, predict
from metart.networks import checkpoints
from metart.networks.session import Device
from metart.networks.warm_start import FILES_BESIDE
from metart.training.loop import Measurement

BEST_FOLDER = "best"  # In TRAIN_DIR; a folder that --checkpoint_path takes.
# In TRAIN_DIR: the records that were measured on, how the network looked at them and the top-1 by step, so that a
# resumed run knows them.
HISTORY_FILENAME = "validation.json"


# The same of a run that begins where an earlier one has left BEST_FOLDER, until it has measured: those checkpoints are
# of another run.
BEGUN_ANEW: dict[str, Any] = {"top_1": {}}


def begin_anew(train_dir: Path) -> None:
    """Notes for a run that begins, and may be interrupted soon, that what an earlier run measured is not its own."""
    if (train_dir / BEST_FOLDER).is_dir() or (train_dir / HISTORY_FILENAME).is_file():
        with open_replacing(train_dir / HISTORY_FILENAME) as file:
            json.dump(BEGUN_ANEW, file)


class BestCheckpoint:
    """Measures checkpoints while training goes on; worker 0 does, the others only ask whether the run is over."""

    def __init__(
        self,
        train_dir: Path,
        held_out: slim.dataset.Dataset,
        records_fingerprint: str | None,
        batch_size: int,
        device: Device,
        early_stop: int | None,
        first_step: int,
    ):
        """Takes up what an earlier part of the run has measured.

        Args:
            train_dir: Holds the checkpoints; the best is copied to BEST_FOLDER in it.
            held_out: The validation split.
            records_fingerprint: Of its set; what was measured on another one does not count.
            batch_size: Images at once.
            device: Where to run, and in what precision.
            early_stop: The run is over after so many measurements without a better one; None never ends it.
            first_step: The step that the run goes on from; what was measured later belongs to weights that are gone.
                The best still lies in BEST_FOLDER, and counts unless the run begins anew.

        Raises:
            UserError: The record of what was measured is damaged.
        """
        self._folder = train_dir
        self._held_out = held_out
        self._records_fingerprint = records_fingerprint
        self._batch_size = batch_size
        self._device = device
        self._early_stop = early_stop
        self._goes_on = first_step > 0  # Of the run that has filled BEST_FOLDER.
        path = self._folder / HISTORY_FILENAME
        self._top_1: dict[int, float] = {}
        self._looks: dict[str, Any] = {}  # Of the measurements: `Looks.described`.
        if first_step and path.is_file():
            try:
                record = read_json(path)
                self._goes_on &= record != BEGUN_ANEW
                measured = {int(step): float(top_1) for step, top_1 in record.get("top_1", record).items()}
                measured_on = record.get("records_fingerprint", records_fingerprint)
                self._looks = record.get("looks", {})
            except (ValueError, TypeError, AttributeError):
                raise UserError(f"{path} is damaged; delete it, and the best checkpoint is looked for again") from None
            if measured_on == records_fingerprint:
                kept = self._kept_steps()
                self._top_1 = {step: top_1 for step, top_1 in measured.items() if step <= first_step or step in kept}
            else:
                notice(f"{path} is about other records; it no longer counts")

    def has_measured(self, step: int) -> bool:
        return step in self._top_1

    @property
    def best_step(self) -> int:
        """The step with the highest top-1, the first of equals; 0 before any was measured."""
        return max(self._top_1, key=lambda step: (self._top_1[step], -step), default=0)

    @property
    def is_over(self) -> bool:
        """Whether the last `early_stop` measurements brought nothing better."""
        if self._early_stop is None:
            return False
        return sum(step > self.best_step for step in self._top_1) >= self._early_stop

    def measure(self, checkpoint: str) -> Measurement:
        """Measures a checkpoint, and keeps it if it is the best; the figures are those of `metrics.summary`."""
        figures, looks = self._figures(checkpoint)
        step = checkpoints.step(checkpoint)
        if self._looks not in ({}, looks):
            notice("evaluation looks otherwise than before; what was measured then does not count")
            self._top_1 = {}
        self._looks = looks
        if self._top_1 and self.best_step not in self._kept_steps():
            notice(f"{self}; the best is looked for again")
            self._top_1 = {}
        goes_on, self._goes_on = self._goes_on, True
        for kept in checkpoints.all_in(self._folder / BEST_FOLDER) if goes_on else ():
            if not self.has_measured(checkpoints.step(kept)):
                of_kept, its_looks = self._figures(kept)
                if its_looks == looks:
                    self._top_1[checkpoints.step(kept)] = of_kept["top_1"]
        is_best = (figures["top_1"], -step) > (self._top_1.get(self.best_step, -1.0), -self.best_step)
        self._top_1[step] = max(figures["top_1"], self._top_1.get(step, 0.0))
        if is_best:
            self._keep(checkpoint, goes_on)
        with open_replacing(self._folder / HISTORY_FILENAME) as file:
            about = {"records_fingerprint": self._records_fingerprint, "looks": self._looks}
            json.dump({**about, "top_1": self._top_1}, file)
        return Measurement(figures, f"validation top-1 {figures['top_1']:.4f}; {self}", self.is_over)

    def _figures(self, checkpoint: str) -> tuple[dict[str, float], dict[str, Any]]:
        """Returns the figures of a checkpoint, and how it looked at the pictures."""
        thread = ThreadPoolExecutor(1)  # The calling thread builds graphs only; a new one may read data sets.
        try:
            return thread.submit(self._figures_in_thread, checkpoint).result()
        finally:
            thread.shutdown(wait=False)  # A second Ctrl-C waits for nothing.

    def _figures_in_thread(self, checkpoint: str) -> tuple[dict[str, float], dict[str, Any]]:
        from metart.evaluation import metrics  # scipy loads for a while, and most runs measure nothing.

        with open_classifier(checkpoint, calibrated=False, device=self._device) as classifier:
            answers = predict(classifier, self._held_out, self._batch_size)
        return metrics.summary(answers.truth, answers.probabilities), classifier.looks.described()

    def _keep(self, checkpoint: str, goes_on: bool) -> None:
        """Replaces BEST_FOLDER by a checkpoint and what evaluation and inference need beside it.

        What else lies there stays, such as an evaluation of the former best, unless the run begins anew.
        """
        former = self._folder / BEST_FOLDER
        with replacing_folder(former) as best:
            for path in [
                *self._folder.glob(Path(checkpoint).name + ".*"),
                *(self._folder / name for name in FILES_BESIDE),
            ]:
                if path.is_file():  # Runs on records without splits.json note no pictures.
                    shutil.copy2(path, best)
            if goes_on and former.is_dir():
                others = [path for path in former.iterdir() if path.name not in FILES_BESIDE]
                _carry_over([path for path in others if not path.name.startswith(checkpoints.BASENAME)], best)

    def _kept_steps(self) -> list[int]:
        """Returns what is in BEST_FOLDER, which a user may have moved away."""
        return [checkpoints.step(checkpoint) for checkpoint in checkpoints.all_in(self._folder / BEST_FOLDER)]

    def __str__(self) -> str:
        best = self.best_step
        place = ":" if best in self._kept_steps() else ", no longer in"
        return f"best top-1 {self._top_1[best]:.4f} at step {best:,}{place} {self._folder / BEST_FOLDER}"


def _carry_over(paths: Iterable[Path], folder: Path) -> None:
    """Copies files, folders and links into a folder; what cannot be copied is named."""
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.copytree(path, folder / path.name, symlinks=True)
            elif path.is_file() or path.is_symlink():
                shutil.copy2(path, folder, follow_symlinks=False)
        except OSError as error:
            notice(f"{path} is lost: {error}")
