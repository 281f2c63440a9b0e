"""The allow-list of what runs on BigQuery and on the CSV: casts, operators, conditions; functions are beside.

A rule says for which types of arguments it holds and how DuckDB computes BigQuery's value; what has no rule is refused.
The tests compare every rule with ZetaSQL, Google's own engine of the dialect; doc/sql.md is written from this list.

In the SQL of a rule {0} is the first argument and {all:, } all of them with commas between. Three words are no DuckDB:

    fail('why')     BigQuery, too, ends with an error here; NULL under SAFE. and SAFE_CAST
    try(sql)        DuckDB itself ends with an error where BigQuery does; NULL under SAFE. and SAFE_CAST
    refuse('why')   BigQuery has a value that the CSV cannot give; an error, always

No FLOAT64 on the CSV is infinite or NaN: what would be is an error on BigQuery as well, or refused.
"""

from typing import NamedTuple


class Rule(NamedTuple):
    """An operator or function for some types of arguments.

    `arguments` are types with commas between: T is any type, O any with an order, S any that turns into a STRING beside
    one, `O...` one or more. Small letters are for what has to be written out in the query: a `literal` string, a
    `plain` one without backslashes, a `regex`, its `rewrite`, a `count` >= 0, `decimals` 0 to 15, `tens` -15 to -1.
    Other words, such as DAY, stand for themselves.
    """

    name: str
    arguments: str
    result: str
    sql: str
    note: str = ""  # For readers of doc/sql.md.

    @property
    def specs(self) -> list[str]:
        return self.arguments.replace(",", "").split()


class Cast(NamedTuple):
    """A conversion by CAST and SAFE_CAST."""

    source: str
    target: str
    sql: str
    note: str = ""


DUCKDB_TYPES = {
    "INT64": "BIGINT",
    "FLOAT64": "DOUBLE",
    "BOOL": "BOOLEAN",
    "STRING": "VARCHAR",
    "BYTES": "BLOB",
    "DATE": "DATE",
}

CASTS = [
    *(Cast(name, name, "{0}") for name in DUCKDB_TYPES),
    Cast("INT64", "FLOAT64", "CAST({0} AS DOUBLE)"),
    Cast("INT64", "BOOL", "({0} <> 0)"),
    Cast("INT64", "STRING", "CAST({0} AS VARCHAR)"),
    Cast("FLOAT64", "INT64", "try(CAST(round({0}) AS BIGINT))", "halves away from zero: 2.5 is 3"),
    Cast(
        "FLOAT64",
        "STRING",
        "CASE WHEN {0} = 0 THEN '0' WHEN CAST(printf('%.15g', {0}) AS DOUBLE) = {0} THEN printf('%.15g', {0})"
        " ELSE printf('%.17g', {0}) END",
        "15 digits, or 17 where 15 are not exact: 2.0 is 2, 1/3 is 0.33333333333333331",
    ),
    Cast("BOOL", "INT64", "CAST({0} AS BIGINT)"),
    Cast("BOOL", "STRING", "CAST({0} AS VARCHAR)", "true, false"),
    Cast(
        "STRING",
        "INT64",
        r"CASE WHEN regexp_full_match({0}, '\s*[-+]?[0-9]+\s*') THEN try(CAST({0} AS BIGINT))"
        r" WHEN regexp_full_match({0}, '\s*[-+]?0[xX][0-9a-fA-F]+\s*') THEN refuse('a hexadecimal number')"
        " WHEN {0} IS NOT NULL THEN fail('Bad INT64 value') END",
        "digits only: 926.5 is an error",
    ),
    Cast(
        "STRING",
        "FLOAT64",
        r"CASE WHEN regexp_full_match({0}, '\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*') THEN"
        " CASE WHEN isfinite(CAST({0} AS DOUBLE)) THEN CAST({0} AS DOUBLE) ELSE refuse('infinity') END"
        r" WHEN regexp_full_match({0}, '(?i)\s*[-+]?(inf|infinity|nan|0x[0-9a-f.p+-]+)\s*')"
        " THEN refuse('infinity, NaN or a hexadecimal number') WHEN {0} IS NOT NULL THEN fail('Bad FLOAT64 value') END",
    ),
    Cast(
        "STRING",
        "BOOL",
        "CASE lower({0}) WHEN 'true' THEN TRUE WHEN 'false' THEN FALSE ELSE"
        " CASE WHEN {0} IS NOT NULL THEN fail('Bad BOOL value') END END",
        "true and false only, in any case",
    ),
    Cast("STRING", "BYTES", "encode({0})"),
    Cast("BYTES", "STRING", "try(decode({0}))"),
    Cast(
        "STRING",
        "DATE",
        "CASE WHEN regexp_full_match({0}, '[0-9]{{4}}-[0-9]{{1,2}}-[0-9]{{1,2}}') AND left({0}, 4) <> '0000'"
        " THEN try(CAST({0} AS DATE)) WHEN {0} IS NOT NULL THEN fail('Invalid date') END",
        "2017-2-1, without a time",
    ),
    Cast("DATE", "STRING", "CAST({0} AS VARCHAR)"),
]


def date_in_range(sql: str) -> str:
    """Returns the SQL of a date that must lie in BigQuery's years 1 to 9999."""
    return (
        f"CASE WHEN try({sql}) NOT BETWEEN DATE '0001-01-01' AND DATE '9999-12-31' THEN fail('date out of range')"
        f" ELSE CAST(try({sql}) AS DATE) END"
    )


def to_add(number: int, date: int, times: str = "") -> str:
    """Returns the SQL of an argument as a count of days; one that is too large is no error where the date is NULL."""
    return f"CAST(CASE WHEN {{{date}}} IS NOT NULL THEN {{{number}}}{times} END AS INTEGER)"


JOINED_ARRAYS = "CASE WHEN {nulls} THEN NULL ELSE list_concat({all:, }) END"

OPERATORS = [
    Rule("+", "INT64, INT64", "INT64", "try({0} + {1})"),
    Rule("+", "FLOAT64, FLOAT64", "FLOAT64", "({0} + {1})"),
    Rule("+", "DATE, INT64", "DATE", date_in_range(f"{{0}} + {to_add(1, date=0)}")),
    Rule("+", "INT64, DATE", "DATE", date_in_range(f"{{1}} + {to_add(0, date=1)}")),
    Rule("-", "INT64, INT64", "INT64", "try({0} - {1})"),
    Rule("-", "FLOAT64, FLOAT64", "FLOAT64", "({0} - {1})"),
    Rule("-", "DATE, INT64", "DATE", date_in_range(f"{{0}} - {to_add(1, date=0)}")),
    Rule("*", "INT64, INT64", "INT64", "try({0} * {1})"),
    Rule("*", "FLOAT64, FLOAT64", "FLOAT64", "({0} * {1})"),
    Rule(
        "/",
        "FLOAT64, FLOAT64",
        "FLOAT64",
        "CASE WHEN {1} = 0 AND {0} IS NOT NULL THEN fail('division by zero') ELSE {0} / {1} END",
        "of two INT64 as well; by zero it is an error",
    ),
    Rule("- (sign)", "INT64", "INT64", "try(- {0})"),
    Rule("- (sign)", "FLOAT64", "FLOAT64", "({0} * -1)"),
    Rule("~", "INT64", "INT64", "(~ {0})"),
    Rule("&", "INT64, INT64", "INT64", "({0} & {1})"),
    Rule("|", "INT64, INT64", "INT64", "({0} | {1})"),
    Rule("^", "INT64, INT64", "INT64", "xor({0}, {1})"),
    Rule("||", "S, S", "STRING", "({0} || {1})"),
    Rule("||", "ARRAY<T>, ARRAY<T>", "ARRAY<T>", JOINED_ARRAYS),
    *(Rule(symbol, "O, O", "BOOL", f"({{0}} {symbol} {{1}})") for symbol in ("=", "<>", "<", "<=", ">", ">=")),
    Rule("BETWEEN", "O, O, O", "BOOL", "({0} BETWEEN {1} AND {2})"),
    Rule("IN", "O, O...", "BOOL", "({0} IN ({rest:, }))"),
    Rule(
        "IN UNNEST",
        "O, ARRAY<O>",
        "BOOL",
        "CASE WHEN coalesce(len({1}), 0) = 0 THEN FALSE WHEN list_contains({1}, {0}) THEN TRUE"
        " WHEN {0} IS NOT NULL AND list_count({1}) = len({1}) THEN FALSE END",
    ),
    Rule("LIKE", "STRING, plain", "BOOL", "({0} LIKE {1})"),
    Rule(
        "LIKE",
        "STRING, STRING",
        "BOOL",
        r"CASE WHEN {0} IS NULL THEN NULL"
        r" WHEN regexp_full_match({1}, '(?s)([^\\]|\\.)*\\') THEN fail('LIKE pattern ends with a backslash')"
        r" ELSE {0} LIKE {1} ESCAPE '\' END",
        r"\% and \_ are the characters themselves",
    ),
    Rule("IS NULL", "T", "BOOL", "({0} IS NULL)"),
    Rule("IS TRUE", "BOOL", "BOOL", "({0} IS TRUE)"),
    Rule("IS FALSE", "BOOL", "BOOL", "({0} IS FALSE)"),
    Rule("IS DISTINCT FROM", "O, O", "BOOL", "({0} IS DISTINCT FROM {1})"),
    Rule("NOT", "BOOL", "BOOL", "(NOT {0})"),
    Rule("AND", "BOOL...", "BOOL", "({all: AND })"),
    Rule("OR", "BOOL...", "BOOL", "({all: OR })"),
    Rule(
        "[OFFSET]",
        "ARRAY<T>, INT64",
        "T",
        "CASE WHEN {0} IS NOT NULL AND ({1} < 0 OR {1} >= len({0})) THEN fail('Array index out of bounds')"
        " ELSE list_extract({0}, {1} + 1) END",
        "from 0; also array[0]",
    ),
    Rule(
        "[ORDINAL]",
        "ARRAY<T>, INT64",
        "T",
        "CASE WHEN {0} IS NOT NULL AND ({1} < 1 OR {1} > len({0})) THEN fail('Array index out of bounds')"
        " ELSE list_extract({0}, {1}) END",
        "from 1",
    ),
    Rule(
        "[SAFE_OFFSET]",
        "ARRAY<T>, INT64",
        "T",
        "CASE WHEN {1} >= 0 AND {1} < len({0}) THEN list_extract({0}, {1} + 1) END",
    ),
    Rule(
        "[SAFE_ORDINAL]",
        "ARRAY<T>, INT64",
        "T",
        "CASE WHEN {1} >= 1 AND {1} <= len({0}) THEN list_extract({0}, {1}) END",
    ),
]

CONDITIONS = [
    Rule("IF", "BOOL, T, T", "T", "CASE WHEN {0} THEN {1} ELSE {2} END"),
    Rule("COALESCE", "T...", "T", "coalesce({all:, })"),
    Rule("IFNULL", "T, T", "T", "coalesce({0}, {1})"),
    Rule("NULLIF", "O, O", "O", "CASE WHEN {0} = {1} THEN NULL ELSE {0} END"),
    Rule("GREATEST", "O...", "O", "CASE WHEN {nulls} THEN NULL ELSE greatest({all:, }) END", "NULL if one of them is"),
    Rule("LEAST", "O...", "O", "CASE WHEN {nulls} THEN NULL ELSE least({all:, }) END", "NULL if one of them is"),
]
