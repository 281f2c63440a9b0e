"""The museum's MetObjects.csv as a file: plain or gzipped, on disk, from a pipe or from the web."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import csv
import functools
import gzip
import os
from pathlib import Path
import re
import shutil
import sys
import tempfile
from typing import IO, NamedTuple
import zlib

from metart.common.files import open_seekable
from metart.common.flags import UserError, notice
from metart.common.labels import is_text
from metart.museum.web import RequestPolicy, Unavailable, Web

MAX_BYTES = 4 << 30  # MetObjects.csv has 0.3 GB.
DOWNLOAD_SECONDS = 3600
ADDRESS = "https://media.githubusercontent.com/media/metmuseum/openaccess/master/MetObjects.csv"
REQUIRED_COLUMNS = ("object_id", "department", "link_resource", "is_public_domain")
FORMS = {
    "BIGINT": re.compile(r"[-+]?[0-9]{1,18}(\.0*)?"),
    "BOOLEAN": re.compile(r"true|false|t|f|yes|no|y|n|1|0", re.IGNORECASE),
}
LONGEST_FIELD = 1 << 24  # Bytes; Python's own limit is below what DuckDB takes.
LONGEST_LINE = 2_000_000  # Bytes; DuckDB's own.


class MetadataFile(NamedTuple):
    """A file that can be read again, and that begins like the museum's."""

    location: str  # As the user named it.
    path: str
    is_gzipped: bool
    header: list[str]  # Names as written.

    @property
    def pattern(self) -> str:
        """The path for DuckDB, to which any other is a pattern or a folder of its own."""
        return re.sub(r"([*?\[])", r"[\1]", str(Path(self.path).absolute()))


def column_name(text: str) -> str:
    """Returns BigQuery's name for a column of the CSV: "Object ID" -> object_id, AccessionYear -> accession_year."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|\W+", "_", text.strip()).lower()


@contextlib.contextmanager
def open_metadata_file(location: str | Path) -> Iterator[MetadataFile]:
    """Opens MetObjects.csv.

    Args:
        location: A file or pipe, or an http(s) address, which is downloaded.

    Raises:
        UserError: There is none, or it is something else; what it is, and where the museum's file is.
    """
    if isinstance(location, Path) and not location.exists():
        raise UserError(
            f"there is no {location}; the museum's file is at {ADDRESS}, which --metadata_csv takes as well"
        )
    with _download(location) if isinstance(location, str) else open_seekable(location) as file:
        start = file.read(2)
        if start in (b"\xff\xfe", b"\xfe\xff"):
            raise UserError(f"{location} is text in UTF-16; write it again in UTF-8")
        is_gzipped = start == b"\x1f\x8b"
        if is_gzipped:
            _raise_if_damaged(file, location)
        header = _read_header(file.name, is_gzipped, location)
        file.seek(-1, os.SEEK_END)
        if not is_gzipped and file.read(1) not in b"\r\n":
            notice(f"the last line of {location} has no line end; if it was cut off, copy or download it again")
        yield MetadataFile(str(location), file.name, is_gzipped, header)


def _raise_if_damaged(file: IO[bytes], location: str | Path) -> None:
    """Decompresses a file to its end: of one that was cut off, DuckDB would give the first rows and no word."""
    file.seek(0)
    try:
        with gzip.open(file) as content:
            while content.read(1 << 20):
                pass
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise UserError(f"{location} is a damaged gzip file; copy or download it again") from None


@contextlib.contextmanager
def _download(address: str) -> Iterator[IO[bytes]]:
    say = functools.partial(print, file=sys.stderr)
    say(f"Downloading {address}")
    with tempfile.NamedTemporaryFile() as file:
        save: Callable[[IO[bytes]], None] = lambda body: shutil.copyfileobj(body, file)  # noqa: E731
        try:
            with Web(RequestPolicy(timeout_seconds=DOWNLOAD_SECONDS), say, trusted=[address]) as web:
                web.fetch(address, MAX_BYTES, save)
        except Unavailable as error:
            is_museums = address == ADDRESS
            advice = "check the network, or set HTTPS_PROXY" if is_museums else f"the museum's file is at {ADDRESS}"
            raise UserError(f"{address}: {error}; {advice}") from None
        file.seek(0)
        yield file


def _open_text(path: str, is_gzipped: bool) -> IO[str]:
    opened = gzip.open if is_gzipped else open
    return opened(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")


def _read_header(path: str, is_gzipped: bool, location: str | Path) -> list[str]:
    """Returns the column names of the museum's CSV, as written, after making sure that it is that file."""
    try:
        with _open_text(path, is_gzipped) as file:
            header = next(csv.reader(file, strict=True), [])  # Otherwise "" in a name would start another one.
    except csv.Error:
        header = []
    if header and header[0].startswith("version https://git-lfs"):
        raise UserError(
            f"{location} is a Git LFS pointer, not the data it stands for; run git lfs pull, or download {ADDRESS}"
        )
    missing = set(REQUIRED_COLUMNS) - set(map(column_name, header))
    if missing:
        raise UserError(
            f"{location} is not the museum's MetObjects.csv: no column {', '.join(sorted(missing))};"
            f" download it from {ADDRESS}"
        )
    names = [column_name(name) for name in header]
    for name in header:  # DuckDB would complain of some, and find no rows after others.
        if not re.search(r"\w", name) or re.search(r"[\0-\x1f\x7f]", name) or names.count(column_name(name)) > 1:
            raise UserError(f"{location} has {name!r} in its header; each column needs a name of its own, in one line")
    return header


def find_fault(file: MetadataFile, types: Mapping[str, str]) -> str | None:
    """Returns in which line, and how, a CSV that DuckDB refuses leaves the form; None if it does not.

    Args:
        types: DuckDB's type by BigQuery's name, for columns that are no text.
    """
    last_line = line_end = ""
    line_number = 1

    def lines(text: IO[str]) -> Iterator[str]:
        nonlocal last_line
        for line in text:
            last_line = line
            yield line

    forms = [FORMS.get(types.get(column_name(name), "")) for name in file.header]
    former_limit = csv.field_size_limit(LONGEST_FIELD)
    try:
        with _open_text(file.path, file.is_gzipped) as text:
            rows = csv.reader(lines(text), strict=True)
            for row in rows:
                where, line_number = f"{file.location}:{line_number}", rows.line_num + 1
                if not is_text("".join(row)):
                    return f"{where} is not text in UTF-8; write the file in UTF-8, with iconv if it is Latin-1"
                if len(",".join(row).encode(errors="surrogateescape")) > LONGEST_LINE:
                    return f"{where} has more than {LONGEST_LINE:,} bytes"
                if row and len(row) != len(file.header):
                    return f"{where} has {len(row)} fields, the header {len(file.header)}; quote what has commas"
                end = last_line[len(last_line.rstrip("\r\n")) :]
                if line_end and end and end != line_end:
                    return f"{where} ends with {end!r}, the line before with {line_end!r}; make them the same"
                line_end = line_end or end
                for name, form, value in zip(file.header, forms, row, strict=False) if rows.line_num > 1 else ():
                    if form and value and not form.fullmatch(value.strip(" \t\n\f\r")):
                        return f"{where} has {value!r} as its {name}"
    except csv.Error as error:
        return f"{file.location}:{line_number} is not a line of a CSV file: {error}"
    except OSError:
        return None
    finally:
        csv.field_size_limit(former_limit)
    return None
