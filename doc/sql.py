"""Writes down what SQL runs on BigQuery and on the CSV, from the rules that bigquery.py translates by.

Reads   metart/museum/dialect.
Writes  doc/sql.md.

    python doc/sql.py

Safe to run again: it writes the same bytes.
"""

from collections.abc import Iterable
from pathlib import Path
import re
import sys

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from metart.museum.dialect import aggregates, dates, functions, patterns, rules  # noqa: E402
from metart.museum.dialect.rules import Rule  # noqa: E402

OUTPUT = Path(__file__).with_suffix(".md")
PART = re.compile(r"\b(?:(?:ISO)?(?:WEEK|YEAR)|DAY(?:OFWEEK|OFYEAR)?|MONTH|QUARTER)\b(?:\(\w+\))?")

HEAD = """\
# SQL that runs on BigQuery and on the CSV

`bigquery.py --sql` takes BigQuery's dialect. On BigQuery all of it runs. With `--metadata_csv` DuckDB runs the query,
and only what is on this page: each line gives the same values as Google's own engine of the dialect,
[ZetaSQL](https://github.com/google/googlesql); `tests/test_dialect.py` compares the two on every change. Anything else
ends in one line, "this query runs on BigQuery only", before or while it runs. `python doc/sql.py` writes this page.

**Tables.** `bigquery-public-data.the_met.objects`, and `images`, which is empty on the CSV. `object_id`,
`object_begin_date` and `object_end_date` are INT64, columns that begin with `is_` are BOOL, the others STRING. What is
empty in the CSV is NULL.

**Clauses.** WITH (not RECURSIVE). SELECT, also DISTINCT, AS STRUCT, `*`, `t.*`, EXCEPT, REPLACE. FROM tables, queries
and UNNEST WITH OFFSET; a comma, CROSS, INNER, LEFT, RIGHT and FULL JOIN with ON or USING. WHERE. GROUP BY names,
numbers and expressions, ROLLUP, CUBE, GROUPING SETS. HAVING, QUALIFY, WINDOW. ORDER BY, also NULLS FIRST and LAST.
LIMIT and OFFSET. UNION ALL and DISTINCT, INTERSECT DISTINCT, EXCEPT DISTINCT. Queries within queries: as a value,
EXISTS, IN, ARRAY, also those that use columns of the query around them.

**Literals.** Strings in all of BigQuery's quotes, with its escapes; bytes; numbers, also hexadecimal; TRUE, FALSE,
NULL; `DATE '2017-02-01'`; arrays; STRUCT(…).

**Errors.** Where BigQuery ends with an error, as in a division by zero or a CAST of 'x' to INT64, the CSV does, too.

In the tables T is any type, O any that has an order (no ARRAY, no STRUCT), S any that turns into a STRING by itself.
What is in *small letters* has to be written out in the query. INT64 stands in for FLOAT64, and a string that is
written out for a DATE.
"""
FORMAT = """\
FORMAT with a pattern that is written out: %d, %i (INT64), %f, %e, %g (FLOAT64), %s (STRING), with width, precision and
the flags - + 0 and blank; %'d; %t of INT64, FLOAT64, BOOL, STRING, DATE; %%."""
AGGREGATES = """\
Most take DISTINCT; STRING_AGG and ARRAY_AGG take ORDER BY and LIMIT, ARRAY_AGG IGNORE NULLS. All but BIT_AND, BIT_OR,
BIT_XOR and GROUPING also go with OVER."""


def page() -> str:
    """Returns the text of doc/sql.md."""
    casts = ["| from | to | |", "|---|---|---|"]
    casts += [f"| {cast.source} | {cast.target} | {cast.note} |" for cast in rules.CASTS if cast.source != cast.target]
    elements = ", ".join(f"%{element}" for element in patterns.DATE_ELEMENTS)
    parts = [
        HEAD,
        f"## Operators\n\n{table(rules.OPERATORS)}\nCASE, with and without a value after it, takes what IF takes.",
        "## Conversions\n\nCAST and SAFE_CAST.\n\n" + "\n".join(casts),
        "## Conditions\n\n" + table(rules.CONDITIONS),
        "## Numbers\n\n" + table(functions.NUMBERS),
        "## Strings and bytes\n\n" + table(functions.STRINGS),
        FORMAT,
        "## Arrays\n\n" + table(functions.ARRAYS),
        "## Dates\n\n" + table(dates.DATES),
        f"FORMAT_DATE with a pattern that is written out: {elements}.",
        "PARSE_DATE with one of %Y, %m, %d each and punctuation between them.",
        "## Aggregate functions\n\n" + table(aggregates.AGGREGATES),
        AGGREGATES,
        "## Window functions\n\nOVER with PARTITION BY, ORDER BY, ROWS, and RANGE without numbers.\n\n"
        + table(aggregates.WINDOW_FUNCTIONS),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def table(listed: Iterable[Rule]) -> str:
    """Returns the rows of a Markdown table, one for each name."""
    names: dict[str, list[Rule]] = {}
    for rule in listed:
        names.setdefault(rule.name, []).append(rule)
    rows = ["| | arguments | gives | |", "|---|---|---|---|"]
    for name, own in names.items():
        arguments = "<br>".join(spell(own))
        results = "<br>".join(dict.fromkeys(rule.result for rule in own))
        notes = "<br>".join(dict.fromkeys(rule.note for rule in own if rule.note))
        rows.append(f"| {cell(name)} | {cell(arguments)} | {cell(results)} | {cell(notes)} |")
    return "\n".join(rows) + "\n"


def spell(listed: Iterable[Rule]) -> list[str]:
    """Returns the arguments of rules of one name, those that differ in the part of a date only as one."""
    parts: dict[str, list[str]] = {}
    for rule in listed:
        found = PART.search(rule.arguments)
        spelled = PART.sub("*part*", rule.arguments, count=1)
        spelled = ", ".join(f"*{one}*" if one.islower() and "*" not in one else one for one in spelled.split(", "))
        part = re.sub(r"\(.*", "(*weekday*)", found.group()) if found else ""
        parts.setdefault(spelled, []).append(part)
    return [
        f"{spelled}; *part* is {', '.join(dict.fromkeys(named))}" if named != [""] else spelled
        for spelled, named in parts.items()
    ]


def cell(text: str) -> str:
    return text.replace("|", r"\|").replace("ARRAY<", "ARRAY&lt;")


def main() -> None:
    OUTPUT.write_text(page(), encoding="utf-8")
    print(f"Wrote {OUTPUT}")


if __name__ == "__main__":
    main()
