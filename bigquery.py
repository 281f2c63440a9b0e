#!/usr/bin/env python3
"""Step 2 of 10: lists the museum's labels and artworks, from BigQuery or from MetObjects.csv.

Reads   bigquery-public-data.the_met on BigQuery, or the museum's CSV (--metadata_csv, no account needed).
Writes  a CSV with a header to stdout or --output: the labels of an attribute with their counts
        (culture,objects) or the artworks (department,label,link_resource,image_url,is_public_domain).

    python bigquery.py --list=labels --metadata_csv=MetObjects.csv --output=cultures-all.list
    python bigquery.py --project=your-project --labels_map=culture-labels.csv --min_images=100 --output=arts-all.list

Safe to run again: the output is written whole or not at all. BigQuery is asked for the size of a query
before it is billed.
"""

from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Left out under PYTHONSAFEPATH.
if __name__ == "__main__":  # Before the long imports.
    from metart.common import startup

    startup.begin()

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import concurrent.futures
import contextlib
import functools
import io
import os
import re
import time
from typing import IO, Any

from google.api_core.exceptions import GoogleAPICallError, RetryError
import google.auth
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery
from google.cloud.bigquery.table import RowIterator
import requests

from metart.common.files import csv_line, open_replacing, read_text
from metart.common.flags import Parser, Unreachable, UserError, number, path, run
from metart.common.labels import normalise_label
from metart.common.progress import Progress
from metart.museum.cleaning import clean_labels, read_labels_map
from metart.museum.metadata_file import column_name
from metart.museum.metobjects import Table, open_metadata_csv
from metart.museum.web import SILENT_SECONDS, load_certificates

FREE_BYTES_A_MONTH = 1 << 40  # https://cloud.google.com/bigquery/pricing: the first TiB of queries.
MAXIMUM_BYTES_BILLED = 1 << 30  # Some ten times what the listings read, a thousandth of the free TiB.
PAGE_ROWS = 10_000
RETRY_SECONDS = 60.0  # Without an answer; then BigQuery cannot be reached.
LABEL = "culture"  # The attribute that is the label if nobody says otherwise.
ATTRIBUTES = {"artist": "artist_display_name"}  # Short names; any column's own name works as well.

LABELS_SQL = """\
SELECT {column} AS {attribute}, COUNT(*) AS objects
FROM `bigquery-public-data.the_met.objects`
GROUP BY 1
ORDER BY 2 DESC, 1"""

# The first photograph (gs://bucket/…/0.jpg, which anyone may fetch over https) has the smallest address. The CSV has no
# addresses: there image_url is empty. An object may be there twice: the order is of whole rows, so that a run can be
# repeated.
ARTWORKS_SQL = """\
SELECT objects.department, objects.{column} AS label, objects.link_resource, images.image_url, objects.is_public_domain
FROM `bigquery-public-data.the_met.objects` AS objects
LEFT JOIN (
  SELECT
    object_id,
    MIN(COALESCE(REPLACE(gcs_url, 'gs://', 'https://storage.googleapis.com/'), original_image_url)) AS image_url
  FROM `bigquery-public-data.the_met.images`
  GROUP BY object_id
) AS images ON images.object_id = objects.object_id
WHERE objects.{column} IS NOT NULL
ORDER BY objects.object_id, 1, 2, 3, 4, 5"""

Query = Callable[[str], Table]
Clean = Callable[[Mapping[str, int]], dict[str, str]]


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--list", choices=["labels", "artworks"], help="what to list; default: artworks")
    attribute = "the column that is the label: artist, period, department, medium, …; default: culture"
    add("--attribute", type=_attribute, help=attribute)
    add("--project", help="Google Cloud project that runs the query; default: the account's own")
    source = "MetObjects.csv, also .gz or its https address, instead of BigQuery"
    add("--metadata_csv", metavar="FILE", type=_location, help=source)
    query = parser.add_mutually_exclusive_group()
    query.add_argument("--sql", help="a query of your own, in BigQuery's dialect")
    query.add_argument("--sql_file", metavar="FILE", type=path, help="a file with such a query")
    rules = "CSV from,to that renames labels, or drops them where `to` is empty; * stands for any text"
    add("--labels_map", metavar="FILE", type=path, help=rules)
    parser.add_boolean("before_comma", False, "keep what stands before the comma: Italian, Florence -> Italian")
    add("--min_images", type=number(int, 0), default=0, help="drop labels with fewer artworks")
    limit = "refuse queries that read more; default: 1 GiB"
    add("--maximum_bytes_billed", type=number(int, 1, 2**63 - 1), default=MAXIMUM_BYTES_BILLED, help=limit)
    add("--output", metavar="FILE", type=path, help="default: stdout")
    add("--api_endpoint", metavar="URL", help="a mirror of the BigQuery service, used without credentials")
    return parser


def _location(text: str) -> str | Path:
    return text if text.startswith(("http://", "https://")) else path(text)


def _attribute(text: str) -> str:
    name = column_name(text)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a column")
    return name


@contextlib.contextmanager
def open_bigquery(project: str | None, api_endpoint: str | None, maximum_bytes_billed: int) -> Iterator[Query]:
    """Yields a function that runs a query on BigQuery, after a dry run, and pages through its rows."""
    retry = bigquery.DEFAULT_RETRY.with_timeout(RETRY_SECONDS).with_delay(maximum=SILENT_SECONDS)
    patience: dict[str, Any] = {"retry": retry, "timeout": RETRY_SECONDS}
    client = _make_client(project, api_endpoint)

    def query(sql: str) -> Table:
        dry_run = bigquery.QueryJobConfig(dry_run=True, use_query_cache=False)
        with _explaining():
            read_bytes = client.query(sql, job_config=dry_run, **patience, job_retry=None).total_bytes_processed or 0
        print(f"The query reads {_size(read_bytes)}: {_cost(read_bytes)}", file=sys.stderr)
        if read_bytes > maximum_bytes_billed:
            raise UserError(
                f"the query reads {read_bytes:,} bytes, more than --maximum_bytes_billed={maximum_bytes_billed};"
                " select fewer columns or raise the limit"
            )
        billed = bigquery.QueryJobConfig(maximum_bytes_billed=maximum_bytes_billed)
        with _explaining():
            job = client.query(sql, job_config=billed, **patience, job_retry=None)
            while not job.done(**patience):
                if job.state is None:
                    raise ValueError("a job without a state")
                time.sleep(1)
            rows = job.result(PAGE_ROWS, **patience)
            return Table([field.name for field in rows.schema], _fetch_all(rows))

    yield query


def _fetch_all(rows: RowIterator) -> Iterator[Sequence[Any]]:
    count = 0
    with _explaining():
        for row in rows:
            yield row.values()
            count += 1
    if count < (rows.total_rows or 0):
        raise Unreachable(f"BigQuery gave {count:,} of {rows.total_rows:,} rows; run the same command again")


@contextlib.contextmanager
def _explaining() -> Iterator[None]:
    """Says in one line what is wrong where BigQuery is asked, and what to do."""
    try:
        yield
    except GoogleAuthError as error:
        raise UserError(f"Google refused the account: {error}; run: gcloud auth application-default login") from None
    except GoogleAPICallError as error:
        raise UserError(f"BigQuery: {error.message}") from None
    except (LookupError, TypeError, AttributeError, ValueError) as error:  # What its client makes of other JSON.
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"the answer is not one of BigQuery's ({reason}); check --api_endpoint and the proxy") from None
    except (RetryError, requests.RequestException, concurrent.futures.TimeoutError) as error:
        raise Unreachable(f"BigQuery cannot be reached, try again later: {error or 'no answer in time'}") from None


def _make_client(project: str | None, api_endpoint: str | None) -> bigquery.Client:
    load_certificates()  # Google's own client would say less of a list that is not there.
    if api_endpoint:
        options = {"api_endpoint": api_endpoint}
        return bigquery.Client(project or "anonymous", AnonymousCredentials(), client_options=options)
    without = "or work without an account: --metadata_csv=MetObjects.csv"
    try:
        credentials, default_project = google.auth.default(bigquery.Client.SCOPE)
    except Exception as error:  # A file of other JSON can raise any kind of error.
        reason = str(getattr(error, "strerror", None) or (error.args or [error])[0]).rstrip(".")
        if "credentials were not found" in reason:
            raise UserError(
                f"no Google account is set up here; run: gcloud auth application-default login, {without}"
            ) from None
        variable = "GOOGLE_APPLICATION_CREDENTIALS"
        file = os.environ.get(variable)
        source = f"{variable}={file} holds" if file else "the login of gcloud has left"
        raise UserError(
            f"{source} no usable credentials: {reason}; run: gcloud auth application-default login, {without}"
        ) from None
    if not project and not default_project:
        raise UserError("the account has no default project; name one with --project=your-project")
    return bigquery.Client(project or default_project, credentials)


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.1f} GB"


def _cost(read_bytes: int) -> str:
    if read_bytes < FREE_BYTES_A_MONTH:
        return f"{read_bytes / FREE_BYTES_A_MONTH:.3%} of the 1 TiB that is free each month"
    return "MORE than the 1 TiB that is free each month"


def count_labels(rows: Iterable[Sequence[Any]]) -> tuple[Counter[str], dict[str, str]]:
    """Reads the answer to LABELS_SQL; blanks count as no label.

    Returns:
        (artworks for each label, "" for none; the label for each spelling of the museum's).
    """
    spellings: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for spelling, count in rows:
        label = ""
        if spelling is not None:  # Somebody may be called None.
            label = spellings[str(spelling)] = normalise_label(str(spelling))
        counts[label] += count
    return counts, spellings


def rename_artworks(rows: Iterable[Sequence[Any]], rename: Callable[[str], str | None]) -> Iterator[Sequence[Any]]:
    """Yields the rows of ARTWORKS_SQL that keep a label, under their new one."""
    for department, spelling, *others in rows:
        if label := rename(str(spelling)):
            yield department, label, *others


def list_museum(query: Query, kind: str, attribute: str, clean: Clean | None) -> Table:
    """Lists the labels of an attribute with their counts, largest first, or the artworks that have one."""
    column = ATTRIBUTES.get(attribute, attribute)
    rename: Callable[[str], str | None] = functools.cache(normalise_label)
    if kind == "labels" or clean:
        labels = query(LABELS_SQL.format(column=column, attribute=attribute))
        counts, spellings = count_labels(labels.rows)
        nameless = counts.pop("", 0)
        new_labels = clean(counts) if clean else {label: label for label in counts}
        if kind == "labels":
            totals: Counter[str] = Counter({"": nameless} if nameless else {})
            for label, new_label in new_labels.items():
                totals[new_label] += counts[label]
            return Table(labels.columns, sorted(totals.items(), key=lambda item: (-item[1], item[0])))
        rename = {spelling: new_labels.get(label) for spelling, label in spellings.items()}.get
    artworks = query(ARTWORKS_SQL.format(column=column))
    return Table(artworks.columns, rename_artworks(artworks.rows, rename))


@contextlib.contextmanager
def open_output(path: Path | None) -> Iterator[IO[str]]:
    """Yields a file (whole or not at all) or stdout, for a CSV in UTF-8."""
    if path:
        with open_replacing(path) as file:
            yield file
    else:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", newline="")
        yield sys.stdout


def write_table(table: Table, file: IO[str], output: Path | None) -> int:
    """Writes a CSV with a header, on stderr how far it is unless `output` is None; returns the number of rows."""
    file.write(csv_line(table.columns))
    count = 0
    with Progress(f"Writing {output}", None, "rows") if output else contextlib.nullcontext() as progress:
        for row in table.rows:
            file.write(csv_line(row))
            count += 1
            if progress:
                progress.update()
    return count


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    flags = parser.parse_args(argv)
    kind = flags.list or "artworks"
    own_query = read_text(flags.sql_file) if flags.sql_file else flags.sql
    clean, cleans = None, flags.labels_map or flags.before_comma or flags.min_images
    if own_query is not None and (cleans or flags.list or flags.attribute):
        parser.error(
            "--list, --attribute, --labels_map, --before_comma and --min_images do not go with a query of your own"
        )
    if cleans:
        rules = read_labels_map(flags.labels_map) if flags.labels_map else []
        clean = functools.partial(
            clean_labels, rules=rules, before_comma=flags.before_comma, min_images=flags.min_images
        )
    inputs = filter(None, (flags.metadata_csv, flags.sql_file, flags.labels_map))
    if flags.output and flags.output.is_file() and any(map(flags.output.samefile, filter(os.path.isfile, inputs))):
        raise UserError(f"--output={flags.output} is a file that is read here; name another one")
    if flags.metadata_csv:
        service = open_metadata_csv(flags.metadata_csv)
    else:
        service = open_bigquery(flags.project, flags.api_endpoint, flags.maximum_bytes_billed)
    attribute = flags.attribute or LABEL
    with open_output(flags.output) as file, service as query:
        table = list_museum(query, kind, attribute, clean) if own_query is None else query(own_query)
        count = write_table(table, file, flags.output)
        if own_query is None and not count:
            raise UserError(f"there is no artwork with the attribute {attribute}; check the data, or --attribute")
    unit = kind if own_query is None else "rows"
    print(f"Wrote {count:,} {unit} to {flags.output or 'stdout'}", file=None if flags.output else sys.stderr)


if __name__ == "__main__":
    run(main)
