#!/usr/bin/env python3
"""Step 10 of 10: names the labels of pictures with a trained checkpoint.

Reads   CHECKPOINT_PATH, a folder (its newest checkpoint) or one checkpoint; labels.txt in DATASET_DIR or beside the
        checkpoint; pictures: files, folders or web addresses.
Writes  the most probable labels of each picture on stdout; with --explain_dir, a page for each picture there: which
        parts of it led to the label, and the training pictures most like it.

    python classify.py --checkpoint_path=logs --image_file=picture.jpg
    python classify.py --checkpoint_path=logs --image_file=folder --format=csv --min_probability=0.5 > answers.csv

Safe to run again. A picture that cannot be read is a row with the reason; the exit status is then 1.
"""

from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Left out under PYTHONSAFEPATH.
if __name__ == "__main__":  # Before the long imports.
    from metart.common import startup

    startup.begin()

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
import contextlib
import functools
import json
import os
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from metart.networks.slim_compat import tf
import dataset_factory
from metart.common.files import csv_line
from metart.common.flags import Parser, UserError, notice, number, path, run
from metart.evaluation.inference import Classifier, answer_cells, answer_columns, open_classifier, printable
from metart.museum.web import MAX_PICTURE_BYTES, RequestPolicy, Unavailable, Web
from metart.networks import registry
from metart.networks.preprocessing import IMAGE_SIZES, Looks, evaluation_image
from metart.networks.session import PRECISIONS, Device
from metart.records import record_set, splits
from metart.records.pictures import FORMATS, BadPicture, declared_pixels, normalise, read_file
from metart.records.record_set import RecordSet
from metart.training import input_pipeline

if TYPE_CHECKING:
    from metart.evaluation import explanations

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
READERS = 4  # Threads that decode, and wait for the web, while the network works.
REQUEST_POLICY = RequestPolicy(max_attempts=1, pause_seconds=2)  # Somebody waits for the answer.
# Up to 20 bytes of each pixel are held while a picture is decoded. Those larger than this are read and decoded one at a
# time, and by one thread: each thread keeps some of the memory that it has used.
LARGE_PIXELS, LARGE_BYTES = 3_000_000, 10_000_000
UNKNOWN = "unknown"  # The label of a picture whose best answer is below --min_probability.

large_pictures = ThreadPoolExecutor(1)


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--checkpoint_path", type=path, required=True, help="checkpoint, or folder for its newest")
    add("--image_file", type=path, nargs="+", default=[], action="extend", help="pictures, or folders of them")
    add("--image_url", nargs="+", default=[], action="extend", help="http or https addresses of pictures")
    add("--dataset_dir", type=path, help="folder with labels.txt; default: beside the checkpoint")
    add("--dataset_name", default="arts", choices=dataset_factory.DATASETS, help="kind of data set, for --explain_dir")
    add("--model_name", choices=registry.NETWORKS, metavar="NAME", help="network; default: the one trained")
    add("--eval_image_size", type=number(int, *IMAGE_SIZES), help="side of the input, pixels; default: as trained")
    add("--batch_size", type=number(int, 1), default=32, help="images at once; changes nothing but memory and speed")
    add("--format", default="text", choices=ROW_FORMATS, help="format of the rows")
    add("--top_k", type=number(int, 1), default=5, help="labels to name")
    add("--min_probability", type=number(float, 0, 1), default=0.0, help=f'answer "{UNKNOWN}" below this')
    add("--explain_dir", type=path, help="folder for explanations; with training pictures if they are in DATASET_DIR")
    parser.add_boolean("allow_private_hosts", False, "let --image_url reach this machine and its own network")
    add("--precision", default="float32", choices=PRECISIONS, help="number format; auto may be faster")
    parser.add_boolean("clone_on_cpu", False, "do not use a GPU")
    parser.add_ignored("alsologtostderr", "eval_dir", "dataset_split_name")
    return parser


class Row(NamedTuple):
    """The answer to one picture."""

    picture: str
    label: str  # UNKNOWN where it is not sure, empty if there is a problem.
    is_sure: bool  # Not below --min_probability.
    answers: list[tuple[str, float]]  # (label, probability), the best first.
    problem: str  # Why there is no answer, otherwise empty.


def as_text(row: Row) -> str:
    lines = [f"  {probability:6.1%}  {label}" for label, probability in row.answers]
    if not row.is_sure:
        lines.insert(0, f"  {UNKNOWN}; the best guesses:")
    return "\n".join([printable(row.picture), *(lines if not row.problem else [f"  not classified: {row.problem}"])])


def as_json_line(row: Row) -> str:
    answers = [{"label": label, "probability": float(f"{probability:.6g}")} for label, probability in row.answers]
    said = {"problem": row.problem} if row.problem else {"label": row.label, "answers": answers}
    return _utf8(json.dumps({"picture": row.picture, **said}, ensure_ascii=False))


def as_csv(row: Row) -> str:
    return _utf8(csv_line([row.picture, row.label, row.problem, *answer_cells(row.answers)]).removesuffix("\n"))


def _utf8(row: str) -> str:
    r"""Returns a row that any reader takes: a byte of a name that is no text, é in Latin-1, is `\udce9`, as in JSON."""
    return row.encode(errors="backslashreplace").decode()


def csv_header(num_answers: int) -> str:
    return csv_line(["picture", "label", "problem", *answer_columns(num_answers)]).removesuffix("\n")


ROW_FORMATS: dict[str, Callable[[Row], str]] = {"text": as_text, "jsonl": as_json_line, "csv": as_csv}


def find_files(named: Sequence[Path]) -> list[Path]:
    """Returns the files named, and the pictures in the folders named, in order; says what it passed over there."""
    files: list[Path] = []
    passed_over: list[Path] = []
    for each in named:
        # These three never raise: a name too long, or in a closed folder, is a row with the reason.
        if each.parts[:1] in (("http:",), ("https:",)) and not os.path.exists(each):  # noqa: PTH110
            raise UserError(f"{each} is an address; give it as --image_url")
        if not os.path.isdir(each):  # noqa: PTH112
            files.append(each)
            continue
        for file in sorted(files_below(each)):
            # Or a device. Nobody may ever write to it.
            is_pipe = os.path.exists(file) and not os.path.isfile(file)  # noqa: PTH110, PTH113
            is_meant = file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith(".") and not is_pipe
            (files if is_meant else passed_over).append(file)
    if passed_over:
        print(
            f"skipped, not files named like pictures: {len(passed_over)}, {printable(str(passed_over[0]))} first",
            file=sys.stderr,
        )
    return files


def files_below(folder: Path) -> Iterator[Path]:
    """Yields all files in a folder and in those in it; linked ones as well, which convert.py reads, each once."""
    visited: set[str] = set()

    def give_up(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=give_up, followlinks=True):
        if os.path.realpath(place) in visited:
            folders.clear()
            continue
        visited.add(os.path.realpath(place))
        yield from (Path(place, name) for name in names)


def read_image(source: Path | str, looks: Looks, web: Web | None = None) -> np.ndarray | str:
    """Returns what training would make of a picture, or what is wrong with it.

    Args:
        source: A file, or a web address as str.
        looks: How the network looks at it.
        web: Fetches what has an address; needed for these only.

    Returns:
        float32 [image_size, image_size, 3], RGB, range [0, 255]; or the reason why there is none.
    """
    try:
        if isinstance(source, Path):
            number_of_bytes = 0
            with contextlib.suppress(OSError):  # read_file says what is wrong.
                number_of_bytes = source.stat().st_size
            jpeg = prepare(lambda: read_file(source), number_of_bytes, looks.max_side)
        else:
            assert web is not None
            jpeg = web.fetch(source, MAX_PICTURE_BYTES, lambda body: prepare(body.read, _size(body), looks.max_side))
    except (BadPicture, Unavailable) as error:
        return str(error)
    with tf.device("/CPU:0"):  # As in evaluation; a GPU has the network to run.
        return evaluation_image(tf.constant(jpeg), looks.image_size, looks.central_fraction).numpy()


def _size(body: IO[bytes]) -> int:
    body.seek(0, os.SEEK_END)
    number_of_bytes = body.tell()
    body.seek(0)
    return number_of_bytes


def prepare(read: Callable[[], bytes], number_of_bytes: int, max_side: int) -> bytes:
    """Reads a picture and returns its `pictures.normalise`; large ones, which fill the memory, take turns."""
    data = read() if number_of_bytes <= LARGE_BYTES else None
    if data is not None and declared_pixels(data) <= LARGE_PIXELS:
        return normalise(data, max_side)
    return large_pictures.submit(lambda: normalise(read() if data is None else data, max_side)).result()


def read_batches(
    sources: Sequence[Path | str], batch_size: int, looks: Looks, allow_private_hosts: bool
) -> Iterator[list[tuple[str, np.ndarray | str]]]:
    """Yields lists of (name, result of `read_image`), in order, reading one list ahead."""
    with contextlib.ExitStack() as stack:
        pool = ThreadPoolExecutor(READERS)
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)  # After Ctrl-C no host is waited for.
        web = None
        if any(isinstance(source, str) for source in sources):
            say = functools.partial(print, file=sys.stderr)
            web = stack.enter_context(Web(REQUEST_POLICY, say, allow_private_hosts))
        ahead: list[tuple[str, Future[np.ndarray | str]]] = []
        for start in range(0, len(sources) + batch_size, batch_size):
            batch = ahead
            ahead = [
                (str(source), pool.submit(read_image, source, looks, web))
                for source in sources[start : start + batch_size]
            ]
            if batch:
                yield [(name, future.result()) for name, future in batch]


def answer(
    classifier: Classifier, batch: Sequence[tuple[str, np.ndarray | str]], top_k: int, min_probability: float
) -> list[Row]:
    """Classifies the images of a batch; what is not an image is its problem."""
    images = [image for _, image in batch if not isinstance(image, str)]
    results = iter(classifier.probabilities(np.stack(images)) if images else ())
    rows = []
    for name, image in batch:
        if isinstance(image, str):
            rows.append(Row(name, "", False, [], image))
            continue
        probabilities = next(results)
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        answers = [(classifier.label_names[index], float(probabilities[index])) for index in best]
        is_sure = answers[0][1] >= min_probability
        rows.append(Row(name, answers[0][0] if is_sure else UNKNOWN, is_sure, answers, ""))
    return rows


def open_explainer(
    classifier: Classifier,
    explain_dir: Path,
    dataset_name: str,
    dataset_dir: Path | None,
    records: RecordSet | None,
    batch_size: int,
) -> "explanations.Explainer":
    """Returns what writes into --explain_dir, with the training pictures if their records are in DATASET_DIR."""
    # Takes scipy and matplotlib along, seconds that most runs need not wait for.
    from metart.evaluation import explanations

    training = None
    if dataset_dir and any(dataset_dir.glob("*.tfrecord")):
        training = input_pipeline.open_split(dataset_name, splits.TRAIN, dataset_dir)
    elif dataset_dir:
        notice(f"no records in {dataset_dir}, so no training pictures are shown")
    fingerprint = records.fingerprint if records else None
    return explanations.Explainer(classifier, explain_dir, training, fingerprint, batch_size)


def main(argv: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(argv)
    sources = [*find_files(flags.image_file), *flags.image_url]
    if not sources:
        raise UserError(f"no pictures ({', '.join(FORMATS)}); give --image_file or --image_url")
    for folder in filter(os.path.isdir, flags.image_file if flags.explain_dir else ()):
        if flags.explain_dir.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"--explain_dir={flags.explain_dir} is in {folder}, whose pictures are classified; name another"
            )
    device = Device(flags.precision, use_gpu=not flags.clone_on_cpu)
    with_records = flags.explain_dir and flags.dataset_dir
    failed = 0
    with (
        record_set.reading(flags.dataset_dir) if with_records else contextlib.nullcontext() as records,
        open_classifier(
            flags.checkpoint_path, flags.model_name, flags.eval_image_size, flags.dataset_dir, device=device
        ) as classifier,
    ):
        if flags.min_probability and UNKNOWN in classifier.label_names:
            raise UserError(f"one of the labels is {UNKNOWN!r}, as is an unsure answer; leave out --min_probability")
        explainer = None
        if flags.explain_dir:
            explainer = open_explainer(
                classifier, flags.explain_dir, flags.dataset_name, flags.dataset_dir, records, flags.batch_size
            )
        if flags.format == "csv":
            print(csv_header(min(flags.top_k, len(classifier.label_names))))
        for batch in read_batches(sources, flags.batch_size, classifier.looks, flags.allow_private_hosts):
            rows = answer(classifier, batch, flags.top_k, flags.min_probability)
            for row in rows:
                print(ROW_FORMATS[flags.format](row), flush=True)
            failed += sum(bool(row.problem) for row in rows)
            images = [image for _, image in batch if not isinstance(image, str)]
            if explainer and images:
                explainer.write(np.stack(images), [row.picture for row in rows if not row.problem])
    if failed:
        raise UserError(f"{failed} of {len(sources)} pictures could not be classified; their rows say why")


if __name__ == "__main__":
    run(main)
