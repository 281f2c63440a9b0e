"""Lists of artworks: the lines of arts-select.list, and which of them a run should have."""

import ast
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
import contextlib
import csv
import difflib
import functools
from pathlib import Path
import re
from typing import IO, NamedTuple

from metart.common.files import open_seekable
from metart.common.flags import UserError
from metart.common.labels import is_text, normalise_label

LIST_FORM = ("department", "label", "link_resource", "image_url", "is_public_domain")  # The last two may be missing.
PUBLIC_DOMAIN = {"": None, "true": True, "false": False}


class Artwork(NamedTuple):
    """A line of the list."""

    object_id: int
    label: str
    image_url: str  # "" where the list has none.
    is_public_domain: bool | None  # None where the list does not say.


@contextlib.contextmanager
def open_list(path: Path) -> Iterator[Callable[[], Iterator[Artwork]]]:
    """Yields a function that reads a list from its start, as often as it is called, also where the list is a pipe."""
    if not path.exists():
        raise UserError(f"{path} does not exist; name the list that bigquery.py wrote: --list_file=arts-all.list")
    with open_seekable(path) as file:
        yield functools.partial(read_artworks, Path(file.name), path)


def read_artworks(path: Path, name: Path | None = None) -> Iterator[Artwork]:
    """Yields the artworks of a list, in its order.

    Args:
        path: CSV in UTF-8 with a header (LIST_FORM, in any order), or printed tuples of Python 2 or 3:
            (u'Islamic Art', u'Iran', u'http://www.metmuseum.org/art/collection/search/446619').
        name: What the user calls the file, where that is a pipe.

    Raises:
        FileNotFoundError: No such file.
        UserError: A line is of neither form; names the line.
    """
    name = name or path
    # Bytes of other encodings become letters that are no text, so that they are found in their line.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        printed = file.read(1024).lstrip().startswith("(")
        file.seek(0)
        yield from _read_tuples(file, name) if printed else _read_csv(file, name)


def _read_tuples(file: IO[str], name: Path) -> Iterator[Artwork]:
    for line_number, line in enumerate(file, 1):
        if not line.strip():
            continue
        _require_text(line, f"{name}:{line_number}")
        try:
            _, label, link = ast.literal_eval(line.strip().rstrip(","))
            if not isinstance(label, str | None):
                raise TypeError
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise UserError(f"{name}:{line_number} is not ('department', 'label', 'link_resource')") from None
        yield _artwork(f"{name}:{line_number}", label, link)


def _read_csv(file: IO[str], name: Path) -> Iterator[Artwork]:
    lines = csv.reader(file, strict=True)
    try:
        header = _header(next(lines, []), name)
        for line in lines:
            where = f"{name}:{lines.line_num}"
            if not any(line):
                continue
            if len(line) != len(header):
                raise UserError(
                    f"{where} has {len(line)} fields, the header {len(header)}; quote fields that have commas"
                )
            named = dict(zip(header, line, strict=True))
            status = named.get("is_public_domain", "").strip().lower()
            if status not in PUBLIC_DOMAIN:
                raise UserError(f"{where} has is_public_domain {status!r}, neither True nor False")
            image_url = named.get("image_url", "").strip()
            yield _artwork(where, named["label"], named["link_resource"], image_url, PUBLIC_DOMAIN[status])
    except csv.Error as error:
        raise UserError(
            f"{name}:{lines.line_num} is not a line of a CSV file: {error}; write it again with bigquery.py"
        ) from None


def _header(line: list[str], name: Path) -> list[str]:
    """Returns the names of the columns, `label` for the one with the labels whatever a query of your own calls it."""
    _require_text(",".join(line), f"{name}:1")
    header = [column.strip().lower() for column in line]
    others = [column for column in header if column not in (*LIST_FORM, "object_id", "object_number")]
    if "label" not in header and len(others) == 1:
        header[header.index(others[0])] = "label"
    if not header.count("label") == header.count("link_resource") == 1 or len(set(header)) < len(header):
        raise UserError(
            f"the first line of {name} must name the columns label and link_resource, as that of arts-all.list does: "
            f"{','.join(LIST_FORM)}; copy that line, too, or write the list with bigquery.py --list=artworks"
        )
    return header


def _require_text(text: str, where: str) -> None:
    if not is_text(text):
        raise UserError(f"{where} is not text in UTF-8; write the list again with bigquery.py")


def _artwork(where: str, label: str | None, link: object, image_url: str = "", public: bool | None = None) -> Artwork:
    name, address = normalise_label(label or ""), str(link).strip()
    if not {"\n", "\r"}.isdisjoint(address + image_url):
        raise UserError(f"{where} ends an address of several lines; a quotation mark is missing or too many before it")
    if not name:
        raise UserError(f"{where} has no label; remove the line")
    _require_text(name + address + image_url, where)
    number_at_end = re.search(r"/([0-9]{1,18})/?(?:[?#].*)?$", address)
    if not number_at_end:
        raise UserError(f"{where} has no object number at the end of the link {address!r}")
    return Artwork(int(number_at_end[1]), name, image_url, public)


def pick_labels(texts: Sequence[str], known: Collection[str]) -> set[str]:
    """Returns the labels that texts such as "French,Japanese,Italian, Florence" name; all where there is no text.

    A comma may separate two labels or belong to one: the longest part that is a label is taken for one.

    Raises:
        UserError: A part is no label, or there is none.
    """
    if not texts:
        return set(known)
    picked = set()
    for text in texts:
        parts = text.split(",")
        while parts:
            for count in range(len(parts), 0, -1):
                label = normalise_label(",".join(parts[:count]))
                if label in known:
                    picked.add(label)
                    break
            else:
                if label:
                    alike = difflib.get_close_matches(label, known, 1, 0)
                    advice = f"; the one most like it is {alike[0]!r}" if alike else ""
                    raise UserError(f"no artwork of the list has the label {label!r}{advice}")
            del parts[:count]
    if not picked:
        raise UserError("--labels names no label; give one, or leave it out for all")
    return picked


def select(
    artworks: Iterable[Artwork],
    public_domain_only: bool,
    max_images: int | None,
    max_images_per_label: int | None,
    num_shards: int,
    shard_index: int,
) -> Iterator[Artwork]:
    """Yields the artworks to have, each once, the same on every run; the limits come before the shards."""
    taken: dict[str, set[int]] = defaultdict(set)
    count = 0
    for artwork in artworks:
        of_label = taken[artwork.label]
        if artwork.object_id in of_label or (public_domain_only and artwork.is_public_domain is False):
            continue
        if max_images_per_label is not None and len(of_label) >= max_images_per_label:
            continue
        if max_images is not None and count >= max_images:
            return
        of_label.add(artwork.object_id)
        count += 1
        if artwork.object_id % num_shards == shard_index:
            yield artwork
