"""How a run goes on: from its newest checkpoint, up to its last step, and only as what it was."""

from collections.abc import Mapping
import math
from pathlib import Path
from typing import Any, NamedTuple

from metart.common.flags import UserError
from metart.networks import checkpoints, registry
from metart.records import record_set
from metart.training.cluster import Cluster
from metart.training.loop import Plan
from metart.training.start import Data, Settings


class FormerRun(NamedTuple):
    """What a run has left in TRAIN_DIR, to go on from."""

    checkpoint: str  # The newest.
    flags: Mapping[str, Any]  # Of flags.json; none where it is lost.

    @property
    def step(self) -> int:
        return checkpoints.step(self.checkpoint)

    @property
    def has_ended(self) -> bool:
        """Whether it got to its end; otherwise it was interrupted, or nobody knows."""
        return "finished_step" in self.flags


def former_run(train_dir: Path, label_names: list[str]) -> FormerRun | None:
    """Returns the run in TRAIN_DIR to go on with, None for a new one.

    Raises:
        UserError: The folder belongs to a run on other labels.
    """
    found = checkpoints.all_in(train_dir)
    if not found:
        return None
    if checkpoints.other_labels(found[-1], label_names):
        raise UserError(f"{train_dir} holds a run on other labels; give another --train_dir")
    return FormerRun(found[-1], checkpoints.settings_in(train_dir))


def make_plan(settings: Settings, num_samples: int, former: FormerRun | None, workers: Cluster) -> Plan:
    """Returns how long the run is, and how much of it is done."""
    global_batch_size = settings.batch_size * workers.size
    steps_per_epoch = num_samples / global_batch_size
    total_steps = settings.max_number_of_steps or max(1, math.ceil(settings.num_epochs * steps_per_epoch))
    schedule = settings.schedule._replace(total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    return Plan(former.step if former else 0, global_batch_size, schedule)


def require_same_run(settings: Settings, plan: Plan, former: FormerRun, data: Data, workers: Cluster) -> None:
    """Makes sure that a run goes on as what it was.

    Args:
        settings: What the run is asked for now.
        plan: How long it would be now.
        former: What it was.
        data: What it goes on with.
        workers: All that train together.

    Raises:
        UserError: Its network, the size of its images or of the pictures in its records was another, or it kept
            averaged weights: what the checkpoints answer would change. Or what it has seen would be forgotten,
            or its length, before its end, be another than was planned.
    """
    other_folder = f"or give another --train_dir with --checkpoint_path={settings.train_dir}"
    _require_same_network(settings, former.flags)
    _require_same_averages(settings, former, other_folder)
    _require_same_records(settings, former.flags, data, workers, other_folder)
    planned = former.flags.get("max_number_of_steps")
    if planned not in (None, plan.total_steps) and not settings.max_number_of_steps and not former.has_ended:
        raise UserError(
            f"{settings.train_dir} holds a run of {planned:,} steps that has not ended; with this batch, workers, "
            f"pictures and --num_epochs it would be one of {plan.total_steps:,}; say how many: "
            f"--max_number_of_steps={planned}"
        )


def _require_same_network(settings: Settings, former: Mapping[str, Any]) -> None:
    train_dir, model_name, size = settings.train_dir, settings.recipe.model_name, settings.augmentation.image_size
    if former.get("model_name", model_name) != model_name:
        raise UserError(
            f"{train_dir} holds a run of {former['model_name']}; give --model_name={former['model_name']}, or another "
            f"--train_dir for {model_name}"
        )
    if "train_image_size" in former:
        former_size = former["train_image_size"] or registry.NETWORKS[model_name].image_size
        if former_size != size:
            raise UserError(
                f"{train_dir} holds a run on images of {former_size} pixels, not {size}; give --train_image_size="
                f"{former_size}, or another --train_dir with --checkpoint_path={train_dir}"
            )


def _require_same_averages(settings: Settings, former: FormerRun, other_folder: str) -> None:
    if not any(map(checkpoints.is_average, checkpoints.shapes(former.checkpoint))):
        return
    decay = former.flags.get("moving_average_decay") or "…"
    if not settings.recipe.moving_average_decay:
        raise UserError(
            f"{former.checkpoint} has averaged weights; give --moving_average_decay={decay}, {other_folder}"
        )
    scopes = former.flags.get("trainable_scopes", settings.recipe.trainable_scopes)
    if scopes != settings.recipe.trainable_scopes:
        same = f"give --trainable_scopes={scopes}" if scopes else "leave out --trainable_scopes"
        raise UserError(f"{former.checkpoint} has averages of what was trained; {same}, {other_folder}")


def _require_same_records(
    settings: Settings, former: Mapping[str, Any], data: Data, workers: Cluster, other_folder: str
) -> None:
    former_records = former.get("records")
    if former_records and data.records:
        max_side = data.records.settings.max_side
        if former_records.get("max_side", max_side) != max_side:
            raise UserError(
                f"{settings.train_dir} was trained on records made with --max_side={former_records['max_side']}, these "
                f"with {max_side}; run convert.py --max_side={former_records['max_side']}, {other_folder}"
            )
    elif former_records and workers.index == 0:
        raise UserError(
            f"{data.dataset_dir / record_set.SPLITS_FILENAME} is missing, and {settings.train_dir} was trained with "
            f"one; restore it, {other_folder}"
        )
