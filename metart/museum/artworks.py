"""Lists of artworks: the lines of arts-select.list, and which of them a run should have."""

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
import csv
from pathlib import Path
import re
from typing import IO, NamedTuple

from metart.common.flags import UserError
from metart.common.labels import is_text, normalise_label

LIST_FORM = "department,label,link_resource[,image_url,is_public_domain]"


class Artwork(NamedTuple):
    """A line of the list."""

    object_id: int
    label: str
    image_url: str  # "" where the list has none.
    is_public_domain: bool | None  # None where the list does not say.


def read_artworks(path: Path) -> Iterator[Artwork]:
    """Yields the artworks of a list, in its order.

    Args:
        path: CSV in UTF-8 with a header (LIST_FORM), or printed tuples of Python 2 or 3:
            (u'Islamic Art', u'Iran', u'http://www.metmuseum.org/art/collection/search/446619').

    Raises:
        UserError: No such file, or a line of neither form; names the line.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            printed = file.read(1) == "("
            file.seek(0)
            if printed:
                yield from _read_tuples(file, path)
            else:
                yield from _read_csv(file, path)
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; copy lines of arts-all.list, which bigquery.py writes, to it"
        ) from None
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file: {error}; write it again with bigquery.py --output={path}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8; write it again with bigquery.py --output={path}") from None


def _read_tuples(file: IO[str], path: Path) -> Iterator[Artwork]:
    for line_number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            _, label, link = ast.literal_eval(line.strip().rstrip(","))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise UserError(f"{path}:{line_number} is not ('department', 'label', 'link_resource')") from None
        yield _artwork(f"{path}:{line_number}", label, link)


def _read_csv(file: IO[str], path: Path) -> Iterator[Artwork]:
    lines = csv.reader(file)
    header = next(lines, [])
    if len(header) < 3 or header[2] != "link_resource":
        raise UserError(f"the first line of {path} must be the header of arts-all.list: {LIST_FORM}")
    for line in lines:
        where = f"{path}:{lines.line_num}"
        if not line:
            continue
        if len(line) != len(header):
            raise UserError(f"{where} has {len(line)} fields, the header {len(header)}; quote fields that have commas")
        named = dict(zip(header, line, strict=True))
        public = {"": None, "true": True, "false": False}
        status = named.get("is_public_domain", "").lower()
        if status not in public:
            raise UserError(f"{where} has is_public_domain {status!r}, neither True nor False")
        yield _artwork(where, line[1], line[2], named.get("image_url", ""), public[status])


def _artwork(where: str, label: object, link: object, image_url: str = "", public: bool | None = None) -> Artwork:
    name = normalise_label(str(label or ""))
    number_at_end = re.search(r"/([0-9]{1,18})/?(?:[?#].*)?$", str(link))
    if not name:
        raise UserError(f"{where} has no label; remove the line")
    if not is_text(name):
        raise UserError(f"{where} has the label {name!r}, which is no text; remove the line")
    if not number_at_end:
        raise UserError(f"{where} has no object number at the end of the link {link!r}")
    return Artwork(int(number_at_end.group(1)), name, image_url, public)


def select(
    artworks: Iterable[Artwork],
    public_domain_only: bool,
    max_images: int | None,
    max_images_per_label: int | None,
    num_shards: int,
    shard_index: int,
) -> Iterator[Artwork]:
    """Yields the artworks to have, the same on every run; the limits come before the shards."""
    taken: Counter[str] = Counter()
    count = 0
    for artwork in artworks:
        if public_domain_only and artwork.is_public_domain is False:
            continue
        if max_images_per_label is not None and taken[artwork.label] >= max_images_per_label:
            continue
        if max_images is not None and count >= max_images:
            return
        taken[artwork.label] += 1
        count += 1
        if artwork.object_id % num_shards == shard_index:
            yield artwork
