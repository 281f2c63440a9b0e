"""The museum's MetObjects.csv as the tables of BigQuery's `the_met`, so that the same SQL runs on both."""

from collections.abc import Callable, Iterable, Iterator, Sequence
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
from typing import IO, Any, NamedTuple

import duckdb
import sqlglot
from sqlglot import exp

from metart.common.flags import UserError
from metart.museum.web import Manners, Unavailable, Web

PAGE_ROWS = 10_000
MAX_THREADS = 4  # Each holds buffers of 32 MB for the CSV.
MAX_METADATA_BYTES = 4 << 30  # MetObjects.csv has 0.3 GB.
DOWNLOAD_SECONDS = 3600
METADATA_URL = "https://media.githubusercontent.com/media/metmuseum/openaccess/master/MetObjects.csv"

# Columns of BigQuery's table that are not STRING; the CSV names them in words ("Is Public Domain").
COLUMN_TYPES = {
    "object_id": "BIGINT",
    "is_highlight": "BOOLEAN",
    "is_timeline_work": "BOOLEAN",
    "is_public_domain": "BOOLEAN",
    "object_begin_date": "BIGINT",
    "object_end_date": "BIGINT",
}
REQUIRED_COLUMNS = ("object_id", "department", "link_resource", "is_public_domain")


class Table(NamedTuple):
    """The answer to a query; `rows` can be read once."""

    columns: list[str]
    rows: Iterable[Sequence[Any]]


def column_name(text: str) -> str:
    """Returns BigQuery's name for a column of the CSV: "Object ID" -> object_id, AccessionYear -> accession_year."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|\W+", "_", text.strip()).lower()


@contextlib.contextmanager
def open_metadata_csv(location: str) -> Iterator[Callable[[str], Table]]:
    """Yields a function that runs a query of BigQuery's dialect on the museum's CSV.

    Args:
        location: Path or http(s) address of MetObjects.csv, plain or gzipped.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = location
        if location.startswith(("http://", "https://")):
            path = str(Path(folder) / ("MetObjects.csv.gz" if location.endswith(".gz") else "MetObjects.csv"))
            download_file(location, path)
        header = read_header(path)
        database = duckdb.connect(config={"threads": min(MAX_THREADS, os.cpu_count() or 1)})
        try:
            create_tables(database, path, header)

            def query(sql: str) -> Table:
                database.execute(to_duckdb(sql))
                assert database.description
                return Table([column[0] for column in database.description], _fetch_all(database))

            yield query
        except duckdb.BinderException as error:
            columns = ", ".join(map(column_name, header))
            raise UserError(f"{_reason(error)}; the columns of {location} are: {columns}") from None
        except duckdb.Error as error:
            raise UserError(f"{location}: {_reason(error)}") from None
        finally:
            database.close()


def _reason(error: duckdb.Error) -> str:
    """Returns DuckDB's message without the whole line of the CSV and the advice on DuckDB's own options."""
    reason = re.split(r"\n+(?:Possible |Column .* is being|  file = |LINE \d)", str(error))[0]
    return re.sub(r"Original Line: .*\n", "", reason)[:500]


def download_file(address: str, path: str) -> None:
    say = functools.partial(print, file=sys.stderr)
    say(f"Downloading {address}")

    def save(body: IO[bytes]) -> None:
        with open(path, "wb") as file:
            shutil.copyfileobj(body, file)

    try:
        with Web(Manners(timeout_seconds=DOWNLOAD_SECONDS), say, trusted=[address]) as web:
            web.fetch(address, MAX_METADATA_BYTES, save)
    except Unavailable as error:
        raise UserError(f"{address}: {error}; the museum's file is at {METADATA_URL}") from None


def read_header(path: str) -> list[str]:
    """Returns the column names of the museum's CSV, as written, once it is sure that it is that file."""
    try:
        opened = gzip.open if path.endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
            header = next(csv.reader(file), [])
    except (EOFError, gzip.BadGzipFile, csv.Error):
        header = []
    if header and header[0].startswith("version https://git-lfs"):
        raise UserError(
            f"{path} is a Git LFS pointer, not the data it stands for; run git lfs pull, or download {METADATA_URL}"
        )
    missing = set(REQUIRED_COLUMNS) - set(map(column_name, header))
    if missing:
        raise UserError(
            f"{path} is not the museum's MetObjects.csv: no column {', '.join(sorted(missing))};"
            f" download it from {METADATA_URL}"
        )
    return header


def create_tables(database: duckdb.DuckDBPyConnection, path: str, header: list[str]) -> None:
    """Gives the CSV the name and the columns of BigQuery's `objects`; `images` exists but is empty."""

    def quote(text: str) -> str:
        return "'" + text.replace("'", "''") + "'"

    def identifier(name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    types = ", ".join(f"{quote(name)}: {quote(COLUMN_TYPES.get(column_name(name), 'VARCHAR'))}" for name in header)
    columns = ", ".join(f"{identifier(name)} AS {identifier(column_name(name))}" for name in header)
    database.execute(f"""
        ATTACH ':memory:' AS "bigquery-public-data";
        CREATE SCHEMA "bigquery-public-data".the_met;
        CREATE TABLE "bigquery-public-data".the_met.images (
            object_id BIGINT, public_caption VARCHAR, title VARCHAR, original_image_url VARCHAR,
            caption VARCHAR, is_oasc BOOLEAN, gcs_url VARCHAR);
        CREATE VIEW "bigquery-public-data".the_met.objects AS SELECT {columns} FROM read_csv(
            {quote(path)}, columns = {{{types}}}, auto_detect = false, header = true, nullstr = '',
            delim = ',', quote = '"', escape = '"')""")


def to_duckdb(sql: str) -> str:
    """Translates one SELECT from BigQuery's dialect."""
    try:
        query, *others = sqlglot.parse(sql, read="bigquery")
    except (sqlglot.ParseError, sqlglot.TokenError) as error:
        raise UserError(f"the query is not valid SQL: {str(error).splitlines()[0]}") from None
    if others or not isinstance(query, exp.Query):
        raise UserError("the query must be one SELECT statement")
    named = (exp.Alias, exp.Column, exp.Dot, exp.Star)
    nameless = [column for column in query.selects if not isinstance(column, named)]
    for index, column in enumerate(nameless):  # As BigQuery calls them.
        column.replace(exp.alias_(column.copy(), f"f{index}_"))
    try:
        # Quoted, since names in BigQuery may have a dash: bigquery-public-data.
        return query.sql(dialect="duckdb", identify=True, unsupported_level=sqlglot.ErrorLevel.RAISE)
    except sqlglot.UnsupportedError as error:
        raise UserError(f"the query runs on BigQuery only: {error}") from None


def _fetch_all(database: duckdb.DuckDBPyConnection) -> Iterator[Sequence[Any]]:
    while rows := database.fetchmany(PAGE_ROWS):
        yield from rows
