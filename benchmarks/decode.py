"""Decodes pictures with Pillow and does nothing else: what convert.py is measured against.

python benchmarks/decode.py --pictures=data/met_art --num_workers=2
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from PIL import Image

from metart.common.flags import Parser, number, run

PATHS_AT_ONCE = 8  # Handed to a process; as convert.py does.


def build_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of folders of pictures")
    parser.add_argument("--num_workers", type=number(int, 1), default=2, help="processes")
    return parser


def decode(path: Path) -> None:
    with Image.open(path) as picture:
        picture.load()


def main(argv: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(argv)
    paths = sorted(flags.pictures.glob("*/*"))
    with ProcessPoolExecutor(flags.num_workers, multiprocessing.get_context("spawn")) as workers:
        for _ in workers.map(decode, paths, chunksize=PATHS_AT_ONCE):
            pass


if __name__ == "__main__":
    run(main)
