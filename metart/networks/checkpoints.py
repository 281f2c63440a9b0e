"""Checkpoints in slim's form: `model.ckpt-N.*` and what lies beside them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import functools
import hashlib
import json
import os
from pathlib import Path
import re
from typing import Any

from metart.networks.slim_compat import slim, tf
from metart.common.files import open_replacing, read_json
from metart.common.flags import FULL_DISK, UserError
from metart.common.labels import LABELS_FILENAME, read_labels
from metart.networks import registry

BASENAME = "model.ckpt"
SETTINGS_FILENAME = "flags.json"
AVERAGE_SUFFIX = "/ExponentialMovingAverage"  # The averaged value of a weight, as slim stores it.


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


# The settings that are read again, and what they are.
_READ_SETTINGS: dict[str, Callable[[Any], bool]] = {
    "model_name": lambda value: isinstance(value, str),
    "train_image_size": lambda value: value is None or _is_size(value),
    "eval_image_sizes": lambda value: value is None or (isinstance(value, list) and all(map(_is_size, value))),
    "eval_central_fraction": lambda value: isinstance(value, int | float) and 0 < value <= 1,
    "records": lambda value: isinstance(value, dict) and _is_size(value.get("max_side", 1)),
    "max_number_of_steps": lambda value: value is None or _is_size(value),
    "finished_step": _is_size,
    "labels": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
}


def newest(path: str | os.PathLike[str]) -> str:
    """Returns the checkpoint meant by --checkpoint_path.

    Args:
        path: A folder, for its newest checkpoint, or a checkpoint as in `…/model.ckpt-100`; also one in the single
            file of TensorFlow's first form, which slim's ImageNet checkpoints have.

    Raises:
        UserError: There is none.
    """
    if Path(path).is_dir():
        found = all_in(path)
        if not found:
            raise UserError(f"{path} holds no checkpoint ({BASENAME}-N.index); train first, or name another folder")
        return found[-1]
    checkpoint = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", str(path))  # One of its files stands for it.
    if not (Path(checkpoint + ".index").is_file() or Path(checkpoint).is_file()):
        steps = [str(step(other)) for other in all_in(Path(checkpoint).parent)]
        there = f"; there are the steps {', '.join(steps)}" if steps else ""
        raise UserError(f"there is no checkpoint {checkpoint}{there}; name one, or the folder for its newest")
    return checkpoint


def all_in(folder: str | os.PathLike[str]) -> list[str]:
    """Returns the checkpoints in a folder, the newest last; none where there is no folder."""
    matches = (re.fullmatch(rf"({BASENAME}-\d+)\.index", path.name) for path in Path(folder).glob(f"{BASENAME}-*"))
    return sorted((str(Path(folder) / match[1]) for match in matches if match), key=step)


def literal(checkpoint: str) -> str:
    """Returns a name for TensorFlow, which takes a folder such as `logs [v2]` for a pattern."""
    folder, name = os.path.split(checkpoint)
    if set(folder).isdisjoint("[]*?\\") or not Path("/proc/self/fd").is_dir():
        return checkpoint
    return f"/proc/self/fd/{_opened(folder, Path(folder).stat().st_ino)}/{name}"


@functools.cache
def _opened(folder: str, inode: int) -> int:
    """Returns the number of an open folder; it stays open, as savers remember names for long."""
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


def step(checkpoint: str) -> int:
    """Returns the step of `…/model.ckpt-N`, 0 for a name without one."""
    match = re.search(r"-(\d+)$", checkpoint)
    return int(match[1]) if match else 0


def fingerprint(checkpoint: str) -> str:
    """Returns 16 hexadecimal digits that stand for the weights, wherever the checkpoint was moved or copied to.

    They are a hash of the index, a small file that holds name, shape and checksum of every variable; of a checkpoint in
    TensorFlow's first form, of the whole file.
    """
    index = Path(checkpoint + ".index")
    return hashlib.sha256((index if index.is_file() else Path(checkpoint)).read_bytes()).hexdigest()[:16]


def shapes(checkpoint: str) -> dict[str, list[int]]:
    """Returns the shape of every variable in a checkpoint.

    Raises:
        UserError: The checkpoint cannot be read.
    """
    try:
        return tf.train.load_checkpoint(literal(checkpoint)).get_variable_to_shape_map()
    except UnicodeEncodeError:  # The name is no text; the file may be whole.
        raise
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise _damaged(checkpoint, error) from None


def recognise(checkpoint: str) -> str:
    """Returns the network whose variables a checkpoint has, by the scope that most of them share; or inception_v3."""
    scopes = Counter(name.split("/")[0] for name in shapes(checkpoint) if "/" in name)
    common = scopes.most_common(1)[0][0].replace("_", "").lower() if scopes else ""
    return next((name for name in registry.NETWORKS if name.replace("_", "") == common), "inception_v3")


def _damaged(checkpoint: str, error: Exception) -> UserError:
    beside = [file for file in Path(checkpoint).parent.iterdir() if file.name.startswith(f"{Path(checkpoint).name}.")]
    for file in [Path(checkpoint), *beside]:
        if file.is_file() and not os.access(file, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            return UserError(f"{file} may not be read by this user; change its owner or mode, or run as its owner")
    if not beside:
        what = "is no checkpoint" if Path(checkpoint).is_file() else "is gone, perhaps replaced by a newer one"
        return UserError(f"{checkpoint} {what}; name a folder with {BASENAME}-N.index, or such a file")
    if not any(".data-" in file.name for file in beside):
        return UserError(
            f"{checkpoint} is incomplete: its .data file is missing; copy that, too, or delete {checkpoint}.* to go on "
            "from the checkpoint before"
        )
    return UserError(
        f"{checkpoint} is damaged or incomplete ({str(error).splitlines()[0]}); delete {checkpoint}.* and run the same "
        "command again: a folder stands for the newest checkpoint in it"
    )


def check(checkpoint: str, variables: Iterable[tf.Variable], model_name: str, num_classes: int) -> None:
    """Proves that a checkpoint fits the network in the current graph before anything is restored from it.

    Raises:
        UserError: It was made by another network, for another number of labels or with other flags; says which.
    """
    stored = shapes(checkpoint)
    of_network = {variable.op.name for variable in slim.get_model_variables()}
    for variable in variables:
        name, shape = variable.op.name, variable.shape.as_list()
        if name not in stored and name not in of_network:
            raise UserError(
                f"{checkpoint} has no {name}: it was trained with another --optimizer, --trainable_scopes or "
                f"--moving_average_decay; give those in {Path(checkpoint).parent / SETTINGS_FILENAME}, or another "
                f"--train_dir with --checkpoint_path={checkpoint}"
            )
        if name not in stored:
            scopes = sorted({key.split("/")[0] for key in stored if "/" in key})
            raise UserError(
                f"{checkpoint} does not fit --model_name={model_name}: it has no {name} but variables of "
                f"{', '.join(scopes[:5])}; name the network it was trained with"
            )
        if stored[name] != shape:
            if shape[-1] == num_classes and stored[name][:-1] == shape[:-1]:
                raise UserError(
                    f"{checkpoint} was trained on {stored[name][-1]} labels, {LABELS_FILENAME} has {num_classes}; "
                    "use the labels it was trained with"
                )
            raise UserError(
                f"{checkpoint} does not fit --model_name={model_name}: {name} is {stored[name]} there and "
                f"{shape} in the network; name the network it was trained with"
            )


def restore(session: tf.compat.v1.Session, saver: tf.compat.v1.train.Saver, checkpoint: str) -> None:
    """Restores variables; a damaged file is one clear error.

    Raises:
        UserError: The files are damaged or incomplete.
    """
    try:
        saver.restore(session, literal(checkpoint))
    except (tf.errors.OpError, ValueError) as error:
        raise _damaged(checkpoint, error) from None


def save(session: tf.compat.v1.Session, saver: tf.compat.v1.train.Saver, folder: Path, step: int) -> str:
    """Writes `model.ckpt-<step>.*` and returns its name; when it is whole, `checkpoint` names it as the newest.

    Raises:
        UserError: It cannot be written.
    """
    basename = str(folder / BASENAME)
    try:
        with writing(f"{basename}-{step}"):
            saver.save(session, literal(basename), global_step=step, write_meta_graph=False)
    finally:
        for unfinished in folder.glob(f"{BASENAME}-*.tempstate*"):  # As large as a checkpoint; also of a killed run.
            unfinished.unlink(missing_ok=True)
    return f"{basename}-{step}"


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Makes one clear error of what TensorFlow raises in the block when it cannot write.

    Raises:
        UserError: Names the path, and TensorFlow's reason.
    """
    try:
        yield
    except tf.errors.OpError as error:
        why = reason(error).rpartition("; ")[2]  # Behind the name of a file.
        is_full = why in map(os.strerror, FULL_DISK)
        what_to_do = "free some space and" if is_full else "fix that, then"
        raise UserError(f"{path} cannot be written ({why}); {what_to_do} run the same command again") from None


def reason(error: tf.errors.OpError) -> str:
    """Returns the line of TensorFlow's message that says what happened, without where in the graph."""
    lines = error.message.splitlines()
    if lines and lines[0] == "Graph execution error:":
        lines = lines[1 + max((number for number, line in enumerate(lines) if line.startswith("Node: ")), default=0) :]
    return next((line for line in lines if line and not line.startswith("From /job:")), error.message)


def settings(checkpoint: str) -> dict[str, Any]:
    """Returns the flags of the run that wrote a checkpoint, {} where no flags.json is beside it."""
    return settings_in(Path(checkpoint).parent)


def settings_in(folder: Path) -> dict[str, Any]:
    """Returns the flags of the run in a folder, {} where there is no flags.json.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / SETTINGS_FILENAME
    if not path.is_file():
        return {}
    try:
        flags = read_json(path)
        if not isinstance(flags, dict):
            raise ValueError
    except ValueError:
        raise UserError(f"{path} is not JSON; delete it and give --model_name") from None
    for name, is_right in _READ_SETTINGS.items():
        if name in flags and not is_right(flags[name]):
            raise UserError(f"{path} has no right {name}: {json.dumps(flags[name])}; correct it")
    return flags


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Leaves beside the checkpoints in a folder what `settings_in` reads; paths become text."""
    with open_replacing(folder / SETTINGS_FILENAME) as file:
        json.dump(settings, file, indent=2, sort_keys=True, default=str)
        file.write("\n")


def label_names(checkpoint: str, dataset_dir: Path | None) -> list[str]:
    """Returns the labels a checkpoint answers with.

    Args:
        checkpoint: Its folder may hold a copy of labels.txt; training writes one.
        dataset_dir: Folder with labels.txt, or None for the one beside the checkpoint.

    Raises:
        UserError: No labels.txt in either place, or two that differ.
    """
    beside = Path(checkpoint).parent
    has_own = (beside / LABELS_FILENAME).is_file()
    folder = dataset_dir or beside
    if has_own and not (folder / LABELS_FILENAME).is_file():
        folder = beside
    if not dataset_dir and not has_own:
        raise UserError(f"{folder / LABELS_FILENAME} is missing; copy it there, or give --dataset_dir")
    names = read_labels(folder)
    if other := other_labels(checkpoint, names):
        raise UserError(
            f"{folder / LABELS_FILENAME} has other labels than {other}, which the checkpoint was trained with; use "
            "those of the data set it was trained on"
        )
    return names


def other_labels(checkpoint: str, names: list[str]) -> Path | None:
    """Returns the file beside a checkpoint that has other labels, or others in another order; None where none has."""
    folder = Path(checkpoint).parent
    if (folder / LABELS_FILENAME).is_file() and read_labels(folder) != names:
        return folder / LABELS_FILENAME
    return folder / SETTINGS_FILENAME if settings(checkpoint).get("labels", names) != names else None


def is_average(name: str) -> bool:
    """Returns whether a variable is the moving average of a weight."""
    return name.endswith(AVERAGE_SUFFIX)


def averaged(checkpoint: str, variables: Iterable[tf.Variable]) -> dict[str, tf.Variable]:
    """Returns what to restore variables from: the name of their moving average where the checkpoint has one."""
    stored = shapes(checkpoint)
    names = {variable.op.name: variable for variable in variables}
    return {name + AVERAGE_SUFFIX if name + AVERAGE_SUFFIX in stored else name: names[name] for name in names}
