"""The weights of other training that a run begins with: its own, or published ones as they were downloaded."""

from collections.abc import Iterator, Sequence
import contextlib
import gzip
from pathlib import Path, PurePosixPath
import re
import shutil
import tarfile
import tempfile
import zlib

from metart.networks.slim_compat import slim, tf
from metart.common.flags import UserError
from metart.common.labels import LABELS_FILENAME, read_labels
from metart.networks import checkpoints, registry
from metart.records import seen_pictures

ARCHIVES = (".tar.gz", ".tgz", ".tar")
CHECKPOINT_FILES = r"\.(ckpt|index|data-\d{5}-of-\d{5})$"
# What tells whose weights they are.
FILES_BESIDE = (LABELS_FILENAME, checkpoints.SETTINGS_FILENAME, seen_pictures.FILENAME)
IMAGENET_SIZES = {1000, 1001}  # Labels of published weights; some have one for "none of these".
AVERAGED_FOLDER = "ema"  # In the archives of MobileNet v3, beside the same weights without averaging.


@contextlib.contextmanager
def opened(path: str) -> Iterator[str]:
    """Yields the checkpoint meant by the --checkpoint_path of training; inside the block its files are there.

    Args:
        path: What `checkpoints.newest` takes, a folder with one checkpoint of any name, or an archive with such a
            folder, as slim's are published.

    Raises:
        UserError: There is none, or more than one; the archive is damaged or unsafe.
    """
    with contextlib.ExitStack() as stack:
        if path.endswith(ARCHIVES) and Path(path).is_file():
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="met-art-"))
            unpack(path, Path(folder))
            yield _only_checkpoint(Path(folder), path)
        elif Path(path).is_dir() and not checkpoints.all_in(path):
            yield _only_checkpoint(Path(path), path)
        else:
            yield checkpoints.newest(path)


def unpack(archive_path: str, folder: Path) -> None:
    """Writes the files of checkpoints in an archive, and FILES_BESIDE, below a folder, and nothing else.

    Raises:
        UserError: The archive is damaged, too large, or one of them is a link or lies outside.
    """
    try:
        with tarfile.open(archive_path) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if name.name not in FILES_BESIDE and not re.search(CHECKPOINT_FILES, member.name):
                    continue
                if not member.isfile() or name.is_absolute() or ".." in name.parts:
                    raise UserError(f"{archive_path} is unsafe: {member.name} in it is a link or lies outside")
                if member.size > shutil.disk_usage(folder).free:
                    raise UserError(f"{folder.parent} has no room for {member.name} of {archive_path}; free some space")
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(member)
                assert content is not None  # A file has content.
                with content, target.open("xb") as file:
                    shutil.copyfileobj(content, file)
            while archive.fileobj and archive.fileobj.read(1 << 20):
                pass  # The checksum of the whole is at its end.
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        reason = str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__
        raise UserError(f"{archive_path} is damaged or not an archive ({reason}); download it again") from None


def _only_checkpoint(folder: Path, path: str) -> str:
    """Returns the one checkpoint in or below a folder; with averaged weights, if it is there in both forms."""
    found = {file.with_suffix("") for file in folder.rglob("*.index")}
    found |= {file for file in folder.rglob("*.ckpt") if file.is_file()}  # TensorFlow's first form, in a single file.
    averaged = {each.parent.parent for each in found if each.parent.name == AVERAGED_FOLDER}
    found = {each for each in found if each.parent.name == AVERAGED_FOLDER or each.parent.parent not in averaged}
    if not found:
        raise UserError(f"{path} holds no checkpoint; train first, or name another folder or file")
    if len(found) > 1:
        names = ", ".join(sorted(str(each.relative_to(folder)) for each in found))
        raise UserError(f"{path} holds several checkpoints ({names}); name one")
    return str(found.pop())


def excluded_scopes(checkpoint: str, label_names: list[str], excluded: str) -> str:
    """Returns the comma-separated scopes not to take: those excluded anyway, and heads that answer with other labels.

    Raises:
        UserError: They are the same labels in another order.
    """
    heads = registry.head_scopes()
    if excluded and all(registry.is_in_scopes(head, excluded) for head in heads):
        return excluded  # Whatever their labels were; the file with them may be damaged.
    beside = checkpoints.other_labels(checkpoint, label_names)
    if beside is None:
        return excluded
    names = read_labels(beside.parent) if beside.name == LABELS_FILENAME else checkpoints.settings(checkpoint)["labels"]
    scopes = ",".join(heads)
    if sorted(names) == sorted(label_names):
        raise UserError(
            f"{beside} has the labels of the records in another order, so its head would answer wrongly; add "
            f"--checkpoint_exclude_scopes={scopes}"
        )
    print(
        f"{beside} has other labels than the records; the output layers are trained from scratch: {scopes}",
        flush=True,
    )
    return f"{excluded},{scopes}"


def variables(
    checkpoint: str, model_name: str, num_classes: int, exclude_scopes: str, ignore_missing: bool
) -> list[tf.Variable]:
    """Returns the model variables of the current graph to take from a checkpoint of other training.

    What does not fit of the heads is left out, and it says so.

    Raises:
        UserError: Another variable is not there or has another shape, or none is left; names the flag to add. Or a
            scope names nothing.
    """
    stored = checkpoints.shapes(checkpoint)
    model = slim.get_model_variables()
    registry.require_scopes(model, exclude_scopes, "checkpoint_exclude_scopes", model_name)
    excluded = {variable.op.name for variable in registry.in_scopes(model, exclude_scopes)} if exclude_scopes else set()
    excluded |= _unfit_of_heads(checkpoint, num_classes, excluded)
    wanted = [variable for variable in model if variable.op.name not in excluded]
    present = [variable for variable in wanted if variable.op.name in stored]
    if not present:
        raise UserError(
            f"there is nothing to take from {checkpoint}: it has no variable of {model_name}, or all are in "
            "--checkpoint_exclude_scopes; name the network of the weights in --model_name"
        )
    try:
        checkpoints.check(checkpoint, present if ignore_missing else wanted, model_name, num_classes)
    except UserError as error:
        flag = "--ignore_missing_vars"
        if ignore_missing or len(present) == len(wanted):
            other = {v.op.name.rpartition("/")[0] for v in present if stored[v.op.name] != v.shape.as_list()}
            flag = f"--checkpoint_exclude_scopes={','.join(sorted(other))}"
        raise UserError(f"{error}; to start without those weights add {flag}") from None
    return present


def _unfit_of_heads(checkpoint: str, num_classes: int, excluded: set[str]) -> set[str]:
    """Returns the names of variables of the heads, but the excluded, that have another shape in a checkpoint.

    The last layers go with the number of labels, a layer below that of an auxiliary head with the size of the pictures.
    """
    stored = checkpoints.shapes(checkpoint)
    last, *auxiliary = registry.head_scopes()
    heads = ",".join([last, *(scope.rpartition("/")[0] for scope in auxiliary)])
    shapes = {v.op.name: v.shape.as_list() for v in registry.in_scopes(slim.get_model_variables(), heads)}
    unfit = {name for name, shape in shapes.items() if name not in excluded and stored.get(name, shape) != shape}
    if unfit:
        counts = {stored[name][-1] for name in unfit if registry.is_in_scopes(name, ",".join([last, *auxiliary]))}
        reason = "was trained on pictures of another size"
        if counts:
            reason = f"was trained on {counts.pop():,} labels, the records have {num_classes:,}"
        scopes = ",".join(dict.fromkeys(name.rpartition("/")[0] for name in shapes if name in unfit))
        print(f"{Path(checkpoint).name} {reason}; these layers are trained from scratch: {scopes}", flush=True)
    return unfit


def refuse_random_layers(checkpoint: str, taken: Sequence[tf.Variable], trainable_scopes: str) -> None:
    """Makes sure that each layer is taken from a checkpoint or trained; not an auxiliary head, which answers nothing.

    Raises:
        UserError: One would keep its random weights.
    """
    learned = ",".join([trainable_scopes, *registry.head_scopes()[1:]]) if trainable_scopes else ""
    known = {variable.op.name for variable in taken}
    others = [variable.op.name for variable in slim.get_model_variables() if variable.op.name not in known]
    if random := [name for name in others if not registry.is_in_scopes(name, learned)]:
        layer = random[0].rpartition("/")[0]
        raise UserError(
            f"{layer} would keep its random weights: it is not taken from {checkpoint}, and not trained; add it to "
            "--trainable_scopes"
        )


def is_published(checkpoint: str, num_classes: int) -> bool:
    """Returns whether weights are those of ImageNet, by their head; not where a run's files lie beside them.

    Nor where the run has as many labels: then they may as well be those of an earlier run on these.
    """
    heads = ",".join(registry.head_scopes())
    sizes = {shape[-1] for name, shape in checkpoints.shapes(checkpoint).items() if registry.is_in_scopes(name, heads)}
    labels = Path(checkpoint).parent / LABELS_FILENAME
    is_of_run = checkpoints.settings(checkpoint) or (labels.is_file() and len(read_labels(labels.parent)) in sizes)
    return not is_of_run and bool(sizes) and sizes <= IMAGENET_SIZES - {num_classes}
