#!/usr/bin/env python3
"""Step 10 of 10: names the labels of pictures with a trained checkpoint.

Reads   CHECKPOINT_PATH, a folder (its newest checkpoint) or one checkpoint; labels.txt in DATASET_DIR or beside the
        checkpoint; pictures: files, folders or web addresses.
Writes  the most probable labels of each picture on stdout.

    python classify.py --checkpoint_path=logs --image_file=picture.jpg

Safe to run again: it changes nothing.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from slim_compat import tf
from flags import Parser, UserError, number, run
from images import evaluation_image
from inference import Classifier, open_classifier
import networks
from pictures import FORMATS, MAX_SIDE, BadPicture, normalise
from remote_picture import fetch_picture

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--checkpoint_path", required=True, help="checkpoint, or folder for its newest")
    add("--image_file", nargs="+", default=[], action="extend", help="pictures, or folders of them")
    add("--image_url", nargs="+", default=[], action="extend", help="http or https addresses of pictures")
    add("--dataset_dir", help="folder with labels.txt; default: beside the checkpoint")
    add("--model_name", choices=networks.NETWORKS, metavar="NAME", help="network; default: the one trained")
    add("--eval_image_size", type=number(int, 32), help="side of the input, pixels; default: as trained")
    add("--top_k", type=number(int, 1), default=5, help="labels to name")
    parser.add_boolean("allow_private_hosts", False, "let --image_url reach this machine and its own network")
    parser.add_boolean("clone_on_cpu", False, "do not use a GPU")
    parser.add_ignored("alsologtostderr", "eval_dir", "dataset_name", "dataset_split_name")
    return parser


def find_files(paths: Sequence[str]) -> list[Path]:
    """Returns the files named, and the pictures in the folders named, in order."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(file for file in path.rglob("*") if file.suffix.lower() in PICTURE_SUFFIXES)
        else:
            files.append(path)
    return files


def read_images(
    files: Sequence[Path], urls: Sequence[str], image_size: int, allow_private_hosts: bool
) -> Iterator[tuple[str, np.ndarray | None, str]]:
    """Yields (name, image or None, what is wrong with it) of each picture, in order.

    An image is float32 [image_size, image_size, 3], RGB, range [0, 255]: what training made of the same picture.
    """
    for source in [*files, *urls]:
        try:
            data = source.read_bytes() if isinstance(source, Path) else fetch_picture(source, allow_private_hosts)
            jpeg, _, _ = normalise(data, MAX_SIDE)
            yield str(source), evaluation_image(tf.constant(jpeg), image_size).numpy(), ""
        except BadPicture as error:
            yield str(source), None, str(error)
        except OSError as error:
            yield str(source), None, error.strerror or str(error)


def describe(classifier: Classifier, image: np.ndarray, top_k: int) -> str:
    """Returns the most probable labels, one a line."""
    probabilities = classifier.probabilities(image[np.newaxis])[0]
    best = np.argsort(-probabilities)[:top_k]
    return "\n".join(f"  {probabilities[index]:6.1%}  {classifier.label_names[index]}" for index in best)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = build_parser().parse_args(argv)
    files = find_files(arguments.image_file)
    if not files and not arguments.image_url:
        raise UserError(f"no pictures ({', '.join(FORMATS)}); give --image_file or --image_url")
    classifier = open_classifier(
        arguments.checkpoint_path,
        arguments.model_name,
        arguments.eval_image_size,
        arguments.dataset_dir,
        use_gpu=not arguments.clone_on_cpu,
    )
    failed = 0
    for name, image, problem in read_images(
        files, arguments.image_url, classifier.image_size, arguments.allow_private_hosts
    ):
        failed += image is None
        print(name)
        print(f"  not classified: {problem}" if image is None else describe(classifier, image, arguments.top_k))
    if failed:
        raise UserError(f"{failed} of {len(files) + len(arguments.image_url)} pictures could not be classified")


if __name__ == "__main__":
    run(main)
