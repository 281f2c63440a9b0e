"""Checkpoints in slim's form: `model.ckpt-N.*` and what lies beside them."""

from collections.abc import Iterable
import json
from pathlib import Path
import re
from typing import Any

from slim_compat import slim, tf
from flags import UserError
from labels import LABELS_FILENAME, read_labels

BASENAME = "model.ckpt"
SETTINGS_FILENAME = "flags.json"
AVERAGE_SUFFIX = "/ExponentialMovingAverage"  # The averaged value of a weight, as slim stores it.


def newest(path: str) -> str:
    """Returns the checkpoint meant by --checkpoint_path.

    Args:
        path: A folder, for its newest checkpoint, or a checkpoint as in `…/model.ckpt-100`.

    Raises:
        UserError: There is none.
    """
    folder = Path(path)
    if folder.is_dir():
        steps = _steps(folder)
        if not steps:
            raise UserError(f"{path} holds no checkpoint ({BASENAME}-N.index); train first, or name another folder")
        return str(folder / f"{BASENAME}-{steps[-1]}")
    if not Path(path + ".index").is_file():
        steps = _steps(folder.parent)
        there = f"; there are the steps {', '.join(map(str, steps))}" if steps else ""
        raise UserError(f"there is no checkpoint {path}{there}; name one, or the folder for its newest")
    return path


def _steps(folder: Path) -> list[int]:
    matches = (re.fullmatch(rf"{BASENAME}-(\d+)\.index", file.name) for file in folder.glob(f"{BASENAME}-*.index"))
    return sorted(int(match[1]) for match in matches if match)


def step(checkpoint: str) -> int:
    """Returns the step of `…/model.ckpt-N`, 0 for a name without one."""
    match = re.search(r"-(\d+)$", checkpoint)
    return int(match[1]) if match else 0


def shapes(checkpoint: str) -> dict[str, list[int]]:
    """Returns the shape of every variable in a checkpoint.

    Raises:
        UserError: The checkpoint cannot be read.
    """
    try:
        return tf.train.load_checkpoint(checkpoint).get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise UserError(f"{checkpoint} is damaged ({str(error).splitlines()[0]}); use an earlier checkpoint") from None


def check(checkpoint: str, variables: Iterable[tf.Variable], model_name: str, num_classes: int) -> None:
    """Proves that a checkpoint fits a network before anything is restored from it.

    Raises:
        UserError: It was made by another network or for another number of labels; says which.
    """
    stored = shapes(checkpoint)
    for variable in variables:
        name = variable.op.name
        if name not in stored:
            scopes = sorted({key.split("/")[0] for key in stored if "/" in key})
            raise UserError(
                f"{checkpoint} does not fit --model_name={model_name}: it has no {name} but variables of "
                f"{', '.join(scopes[:5])}; name the network it was trained with"
            )
        if stored[name] != variable.shape.as_list():
            labels_there = stored[name][-1]
            if variable.shape.as_list()[-1] == num_classes and stored[name][:-1] == variable.shape.as_list()[:-1]:
                raise UserError(
                    f"{checkpoint} was trained on {labels_there} labels, {LABELS_FILENAME} has {num_classes}; "
                    "use the labels it was trained with"
                )
            raise UserError(
                f"{checkpoint} does not fit --model_name={model_name}: {name} is {stored[name]} there and "
                f"{variable.shape.as_list()} in the network; name the network it was trained with"
            )


def restore(session: tf.compat.v1.Session, saver: tf.compat.v1.train.Saver, checkpoint: str) -> None:
    """Restores variables; a damaged file is one clear error.

    Raises:
        UserError: The files are damaged or incomplete.
    """
    try:
        saver.restore(session, checkpoint)
    except (tf.errors.OpError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{checkpoint} is damaged ({reason}); name an earlier one with --checkpoint_path") from None


def settings(checkpoint: str) -> dict[str, Any]:
    """Returns the flags of the training run, {} where there is no flags.json beside the checkpoint."""
    path = Path(checkpoint).parent / SETTINGS_FILENAME
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path} is not JSON; delete it and give --model_name") from None


def label_names(checkpoint: str, dataset_dir: str | None) -> list[str]:
    """Returns the labels a checkpoint answers with.

    Args:
        checkpoint: Its folder may hold a copy of labels.txt; training writes one.
        dataset_dir: Folder with labels.txt, or None for the one beside the checkpoint.

    Raises:
        UserError: No labels.txt in either place, or two that differ.
    """
    beside = Path(checkpoint).parent
    has_own = (beside / LABELS_FILENAME).is_file()
    if dataset_dir is None or (has_own and not (Path(dataset_dir) / LABELS_FILENAME).is_file()):
        return read_labels(beside)
    names = read_labels(dataset_dir)
    if has_own and read_labels(beside) != names:
        raise UserError(
            f"{Path(dataset_dir) / LABELS_FILENAME} differs from {beside / LABELS_FILENAME}, which the checkpoint was "
            "trained with; use the data set it was trained on"
        )
    return names


def in_scopes(variables: Iterable[tf.Variable], scopes: str) -> list[tf.Variable]:
    """Returns the variables in any of comma-separated scopes; all where no scope is named."""
    prefixes = tuple(scope.strip().rstrip("/") + "/" for scope in scopes.split(",") if scope.strip())
    return [variable for variable in variables if not prefixes or (variable.op.name + "/").startswith(prefixes)]


def warm_start_variables(
    checkpoint: str, model_name: str, num_classes: int, exclude_scopes: str, ignore_missing: bool
) -> list[tf.Variable]:
    """Returns the model variables of the current graph to take from a checkpoint of other training.

    Raises:
        UserError: A wanted variable is not there or has another shape; names the flag to add.
    """
    wanted = slim.get_model_variables()
    if exclude_scopes:
        excluded = {variable.ref() for variable in in_scopes(wanted, exclude_scopes)}
        wanted = [variable for variable in wanted if variable.ref() not in excluded]
    if ignore_missing:
        stored = shapes(checkpoint)
        wanted = [variable for variable in wanted if variable.op.name in stored]
    try:
        check(checkpoint, wanted, model_name, num_classes)
    except UserError as error:
        heads = sorted({variable.op.name.rsplit("/", 1)[0] for variable in wanted if _is_head(variable, num_classes)})
        raise UserError(f"{error}; for other labels add --checkpoint_exclude_scopes={','.join(heads)}") from None
    return wanted


def _is_head(variable: tf.Variable, num_classes: int) -> bool:
    return variable.op.name.endswith("/biases") and variable.shape.as_list() == [num_classes]


def averaged(checkpoint: str, variables: Iterable[tf.Variable]) -> dict[str, tf.Variable]:
    """Returns what to restore variables from: the name of their moving average where the checkpoint has one."""
    stored = shapes(checkpoint)
    names = {variable.op.name: variable for variable in variables}
    return {name + AVERAGE_SUFFIX if name + AVERAGE_SUFFIX in stored else name: names[name] for name in names}
