"""The museum's MetObjects.csv as the tables of BigQuery's `the_met`, so that the same SQL runs on both."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import os
from pathlib import Path
import re
from typing import Any, NamedTuple

import duckdb
import sqlglot
from sqlglot import exp

from metart.common.flags import UserError
from metart.museum.metadata_file import MetadataFile, column_name, find_fault, open_metadata_file

PAGE_ROWS = 10_000
MAX_THREADS = 4  # Each holds buffers of 32 MB for the CSV.

# Columns of BigQuery's table that are not STRING; the CSV names them in words ("Is Public Domain").
COLUMN_TYPES = {
    "object_id": "BIGINT",
    "is_highlight": "BOOLEAN",
    "is_timeline_work": "BOOLEAN",
    "is_public_domain": "BOOLEAN",
    "object_begin_date": "BIGINT",
    "object_end_date": "BIGINT",
}


class Table(NamedTuple):
    """The answer to a query; `rows` can be read once."""

    columns: list[str]
    rows: Iterable[Sequence[Any]]


@contextlib.contextmanager
def open_metadata_csv(location: str | Path) -> Iterator[Callable[[str], Table]]:
    """Yields a function that runs a query of BigQuery's dialect on the museum's CSV.

    Args:
        location: A file or pipe, or an http(s) address of MetObjects.csv, plain or gzipped.
    """
    with open_metadata_file(location) as file:
        database = duckdb.connect(config={"threads": min(MAX_THREADS, os.cpu_count() or 1)})
        try:
            create_tables(database, file)

            def query(sql: str) -> Table:
                database.execute(to_duckdb(sql))
                assert database.description
                return Table([column[0] for column in database.description], _fetch_all(database))

            yield query
        except duckdb.InterruptException:
            raise KeyboardInterrupt from None
        except duckdb.BinderException as error:
            columns = ", ".join(map(column_name, file.header))
            raise UserError(f"{_reason(error)}; the columns of {location} are: {columns}") from None
        except duckdb.Error as error:
            raise UserError(find_fault(file, COLUMN_TYPES) or f"{location}: {_reason(error)}") from None
        finally:
            database.close()


def _reason(error: duckdb.Error) -> str:
    """Returns DuckDB's message without the whole line of the CSV and the advice on DuckDB's own options."""
    reason = re.split(r"\n+(?:Possible |Column .* is being|  file = |LINE \d)", str(error))[0]
    return re.sub(r"Original Line: .*\n", "", reason)[:500]


def create_tables(database: duckdb.DuckDBPyConnection, file: MetadataFile) -> None:
    """Gives the CSV the name and the columns of BigQuery's `objects`; `images` exists but is empty."""

    def quote(text: str) -> str:
        return "'" + text.replace("'", "''") + "'"

    def identifier(name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    types = ", ".join(f"{quote(name)}: {quote(COLUMN_TYPES.get(column_name(name), 'VARCHAR'))}" for name in file.header)
    columns = ", ".join(f"{identifier(name)} AS {identifier(column_name(name))}" for name in file.header)
    database.execute(f"""
        ATTACH ':memory:' AS "bigquery-public-data";
        CREATE SCHEMA "bigquery-public-data".the_met;
        CREATE TABLE "bigquery-public-data".the_met.images (
            object_id BIGINT, public_caption VARCHAR, title VARCHAR, original_image_url VARCHAR,
            caption VARCHAR, is_oasc BOOLEAN, gcs_url VARCHAR);
        CREATE VIEW "bigquery-public-data".the_met.objects AS SELECT {columns} FROM read_csv(
            {quote(file.pattern)}, columns = {{{types}}}, auto_detect = false, header = true, nullstr = '',
            compression = {quote("gzip" if file.is_gzipped else "none")},
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
