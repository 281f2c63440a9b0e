"""The museum's MetObjects.csv as the tables of BigQuery's `the_met`, so that the same SQL runs on both."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
from pathlib import Path
import re
from typing import Any, NamedTuple

import duckdb

from metart.common.cores import available_cores
from metart.common.flags import UserError
from metart.museum.dialect.queries import Tables, translate
from metart.museum.dialect.values import BOOL, INT64, STRING, explain, identifier, quote
from metart.museum.metadata_file import FORMS, MetadataFile, column_name, find_fault, open_metadata_file

PAGE_ROWS = 10_000
DUCKDB: dict[str, str | bool | int | float | list[str]] = {
    "threads": min(4, available_cores()),  # Each holds buffers of 32 MB for the CSV.
    # They compute beforehand what CASE and COALESCE may leave out, and end with its errors.
    "disabled_optimizers": "common_subexpressions,expression_rewriter,statistics_propagation",
}

# Columns of BigQuery's table that are not STRING; the CSV names them in words ("Is Public Domain").
COLUMN_TYPES = {
    "object_id": "BIGINT",
    "is_highlight": "BOOLEAN",
    "is_timeline_work": "BOOLEAN",
    "is_public_domain": "BOOLEAN",
    "object_begin_date": "BIGINT",
    "object_end_date": "BIGINT",
}
BIGQUERY_TYPES = {"BIGINT": INT64, "BOOLEAN": BOOL, "VARCHAR": STRING}


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
        database = duckdb.connect(config=DUCKDB)
        try:
            tables = create_tables(database, file)

            def query(sql: str) -> Table:
                translation = translate(sql, tables)
                database.execute(translation.sql)
                return Table(translation.columns, _fetch_all(database))

            yield query
        except duckdb.InterruptException:
            raise KeyboardInterrupt from None
        except (duckdb.BinderException, duckdb.NotImplementedException) as error:
            raise UserError(f"this query runs on BigQuery only, if at all; DuckDB says: {_reason(error)}") from None
        except duckdb.Error as error:
            if file.is_gzipped and "GZIP" in str(error):  # A comment in its header, or zeros at its end.
                raise UserError(f"{location} is packed in an unusual way; unpack it with gunzip first") from None
            reason = explain(error) or find_fault(file, COLUMN_TYPES) or f"{location}: {_reason(error)}"
            raise UserError(reason) from None
        except RuntimeError as error:
            if not isinstance(error.__cause__, KeyboardInterrupt):  # DuckDB's other form of an InterruptException.
                raise
            raise KeyboardInterrupt from None
        finally:
            database.interrupt()  # Otherwise a query that is not read to its end goes on for as long as it takes.
            database.close()


def _reason(error: duckdb.Error) -> str:
    """Returns DuckDB's message without the whole line of the CSV and the advice on DuckDB's own options."""
    reason = re.split(r"\n+(?:Possible |Column .* is being|  file = |LINE \d)", str(error))[0]
    return re.sub(r"Original Line: .*\n", "", reason)[:500]


def create_tables(database: duckdb.DuckDBPyConnection, file: MetadataFile) -> Tables:
    """Gives the CSV the name and the columns of BigQuery's `objects`; `images` exists but is empty.

    Returns:
        Name and type of the columns of both.
    """
    types, columns = [], []
    for name in file.header:
        kind, value = COLUMN_TYPES.get(column_name(name), "VARCHAR"), identifier(name)
        if kind == "BIGINT":  # DuckDB would round 13.5; this way it refuses, and `find_fault` names the line.
            form = quote(rf"\s*({FORMS[kind].pattern})\s*")
            is_whole = f"{value} IS NULL OR regexp_full_match({value}, {form})"
            kind, value = "VARCHAR", f"CAST(CASE WHEN {is_whole} THEN {value} ELSE 'CSV: ' || {value} END AS BIGINT)"
        types.append(f"{quote(name)}: {quote(kind)}")
        columns.append(f"{value} AS {identifier(column_name(name))}")
    database.execute(f"""
        ATTACH ':memory:' AS "bigquery-public-data";
        CREATE SCHEMA "bigquery-public-data".the_met;
        CREATE TABLE "bigquery-public-data".the_met.images (
            object_id BIGINT, public_caption VARCHAR, title VARCHAR, original_image_url VARCHAR,
            caption VARCHAR, is_oasc BOOLEAN, gcs_url VARCHAR);
        CREATE VIEW "bigquery-public-data".the_met.objects AS SELECT {", ".join(columns)} FROM read_csv(
            {quote(file.pattern)}, columns = {{{", ".join(types)}}}, auto_detect = false, header = true, nullstr = '',
            compression = {quote("gzip" if file.is_gzipped else "none")},
            hive_partitioning = false, delim = ',', quote = '"', escape = '"')""")
    return {
        f"bigquery-public-data.the_met.{table}": [
            (name, BIGQUERY_TYPES[kind])
            for name, kind, *_ in database.execute(f'DESCRIBE "bigquery-public-data".the_met.{table}').fetchall()
        ]
        for table in ("objects", "images")
    }


def _fetch_all(database: duckdb.DuckDBPyConnection) -> Iterator[Sequence[Any]]:
    while rows := database.fetchmany(PAGE_ROWS):
        yield from rows
