"""Pieces of DuckDB's SQL with what is known of them, and how a rule makes one of others."""

from collections.abc import Iterable, Mapping, Sequence
import enum
import functools
import re
import types
from typing import Any, NamedTuple, NoReturn

import duckdb

from metart.common.flags import UserError
from metart.museum.dialect.rules import CASTS, DUCKDB_TYPES, Rule

LONGEST_SQL = 100_000  # Characters.
LONG_SQL = 300  # What is longer and needed several times is computed once.
LAZY = ("IF", "COALESCE", "IFNULL")  # What they do not need is not computed.
SUMS = ("+", "-", "*", "- (sign)")  # A chain of these with constants is checked for being finite at its end only.
UNCHECKED = (*SUMS, "/", "SUM", "AVG")


class Type(NamedTuple):
    """INT64, STRING, …; the only field of an ARRAY is its element."""

    name: str
    fields: tuple[tuple[str, "Type"], ...] = ()

    @property
    def element(self) -> "Type":
        return self.fields[0][1]

    @property
    def duckdb(self) -> str:
        if self.name == "ARRAY":
            return f"{self.element.duckdb}[]"
        if self.name == "STRUCT":
            return f"STRUCT({', '.join(f'f{index} {kind.duckdb}' for index, (_, kind) in enumerate(self.fields))})"
        return DUCKDB_TYPES[self.name]

    def __str__(self) -> str:
        inner = ", ".join(f"{name} {kind}".strip() for name, kind in self.fields)
        return f"{self.name}<{inner}>" if inner else self.name


INT64, FLOAT64, BOOL, STRING, BYTES, DATE = map(Type, DUCKDB_TYPES)
NONE: Mapping[str, str] = types.MappingProxyType({})
KEYWORD = Type("")  # Of an argument such as DAY.


def array(element: Type) -> Type:
    return Type("ARRAY", (("", element),))


class Rows(enum.IntEnum):
    """How many rows a value is made from."""

    ONE = 0
    GROUP = 1  # By an aggregate function.
    WINDOW = 2  # By an analytic function.


class Value(NamedTuple):
    """A piece of DuckDB's SQL."""

    sql: str
    type: Type
    fails: bool = False  # It may be an error.
    finite: bool = True  # False for a FLOAT64 that has not been checked.
    columns: frozenset[str] = frozenset()  # What it takes from the row, outside of aggregate functions.
    outer: bool = False  # It takes something from the row of a query around.
    rows: Rows = Rows.ONE
    constant: bool = False  # The same for every row.
    computed: bool = False  # A constant that is known to be neither NULL nor an error.
    literal: Any = ...  # The value, if the query spells it out.
    groups: int = 0  # Of a regular expression.

    def __str__(self) -> str:
        return self.sql

    @property
    def size(self) -> int:
        return abs(self.literal)

    @property
    def known(self) -> bool:
        """True for what is neither NULL nor an error, whatever the row."""
        return self.computed or self.literal not in (None, ...)

    @property
    def may_be_null(self) -> bool:
        """True for a constant that is NULL, an error or not known."""
        return self.constant and not self.known


NULL = Value("CAST(NULL AS BIGINT)", INT64, constant=True, literal=None)


def keyword(word: str) -> Value:
    return Value(word.upper(), KEYWORD, constant=True)


def is_keyword(spec: str) -> bool:
    """Says whether a word among the arguments of a rule stands for itself."""
    return spec.isupper() and not spec.startswith("ARRAY<") and spec.rstrip(".") not in (*DUCKDB_TYPES, "T", "O", "S")


def quote(string: str) -> str:
    if "\0" in string:
        refuse("the character 0 in a string")
    return "'" + string.replace("'", "''") + "'"


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def refuse(what: str) -> NoReturn:
    raise UserError(f"this query runs on BigQuery only, if at all: {what}; doc/sql.md says what runs on the CSV")


def invalid(what: str) -> NoReturn:
    raise UserError(f"the query is not valid SQL: {what}")


def explain(error: duckdb.Error) -> str | None:
    """Returns what the user is told of an error of a query's values; None if the error is another one."""
    if match := re.search(r"Could not convert string '([!?])(.*?)' to INT64", str(error)):
        if match[1] == "?":
            return f"this query runs on BigQuery only: it comes to {match[2]}; doc/sql.md says what runs on the CSV"
        return f"the query ends with an error: {match[2]}"
    ours = (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.InvalidInputException)
    if isinstance(error, ours) and "CSV" not in str(error):  # Of the file, not of a value.
        return f"the query ends with an error: {str(error).partition(': ')[2].splitlines()[0]}"
    return None


def expand(template: str, result: Type, safe: bool) -> str:
    """Spells fail, refuse and try out in DuckDB's SQL."""

    def error(match: re.Match[str]) -> str:
        if safe and match[1] == "fail":
            return f"CAST(NULL AS {result.duckdb})"
        message = ("!" if match[1] == "fail" else "?") + match[2]
        # To DuckDB's optimizer its error() is a random number, and TRY does not take it; a conversion is neither.
        return f"CAST(CAST(CAST('{message}' AS BIGINT) AS VARCHAR) AS {result.duckdb})"

    return re.sub(r"\b(fail|refuse)\('([^']*)'\)", error, template).replace("try(", "TRY(" if safe else "(")


def finite(value: Value) -> Value:
    """Makes an error of infinity and NaN, as BigQuery does."""
    if value.finite:
        return value
    check = "CASE WHEN isfinite({0}) THEN {0} WHEN {0} IS NOT NULL THEN fail('floating point overflow') END"
    sql = fill(expand(check, FLOAT64, safe=False), [value], NONE, once=True)
    return value._replace(sql=sql, finite=True, fails=True)


def combine(sql: str, kind: Type, values: Sequence[Value], fails: bool = False) -> Value:
    """Returns the value of SQL that has these values in it."""
    if len(sql) > LONGEST_SQL:
        refuse("so long an expression")
    return Value(
        sql,
        kind,
        fails=fails or any(value.fails for value in values),
        columns=frozenset().union(*(value.columns for value in values)),
        outer=any(value.outer for value in values),
        rows=max((value.rows for value in values), default=Rows.ONE),
        constant=all(value.constant for value in values),
    )


def coerce(value: Value, kind: Type) -> Value | None:
    """Returns the value as another type if BigQuery takes it for that without CAST."""
    if value.type == kind:
        return value
    if value.literal is None or (value.sql == "[]" and kind.name == "ARRAY"):
        return value._replace(sql=f"CAST({value} AS {kind.duckdb})", type=kind)
    if (value.type, kind) == (INT64, FLOAT64):
        return value._replace(sql=f"CAST({value} AS DOUBLE)", type=kind)
    if (value.type, kind) == (STRING, DATE) and isinstance(value.literal, str):
        return cast(value, DATE, safe=False)
    return None


def common_type(values: Iterable[Value]) -> Type | None:
    """Returns the type that BigQuery takes all of them for."""
    typed = [value for value in values if value.literal is not None and value.sql != "[]"] or list(values) or [NULL]
    for kind in (*dict.fromkeys(value.type for value in typed), FLOAT64):
        if all(coerce(value, kind) for value in typed):
            return kind
    return None


def cast(value: Value, kind: Type, safe: bool) -> Value:
    """Returns CAST or SAFE_CAST of a value."""
    if value.literal is None:
        return value._replace(sql=f"CAST(NULL AS {kind.duckdb})", type=kind, literal=...)
    if value.type == kind:
        return value._replace(literal=...)
    for rule in CASTS:
        if (rule.source, rule.target) == (str(value.type), str(kind)):
            return apply(rule.sql, [finite(value)], kind, safe=safe)
    refuse(f"CAST of {value.type} to {kind}")


class Joined:
    """The arguments of a rule: {all:, } has commas between them."""

    def __init__(self, values: Sequence[Value]) -> None:
        self.values = values

    def __format__(self, separator: str) -> str:
        return separator.join(map(str, self.values))


def apply(
    template: str,
    arguments: Sequence[Value],
    result: Type,
    *,
    safe: bool = False,
    lazy: bool = False,
    words: Mapping[str, str] = NONE,
) -> Value:
    """Returns the value of a rule's SQL.

    Args:
        safe: NULL instead of an error of its own; errors of the arguments stay errors.
        lazy: The arguments need not all be computed.
        words: What else stands in the SQL in braces.
    """
    spelled = expand(template, result, safe)
    null = [value for value in arguments if value.may_be_null]
    if null and any(value.constant and value.fails and value is not null[0] for value in arguments):
        refuse("a constant that is an error beside one that may be NULL")  # Of which DuckDB sees the NULL only.
    if null and result.name in DUCKDB_TYPES and not words:  # Of which DuckDB forgets the type.
        spelled = f"CAST({spelled} AS {result.duckdb})"
    failing = [f"{{{index}}} IS NULL" for index, value in enumerate(arguments) if value.fails]
    if failing and not lazy and (len(arguments) > 1 or any("TRY(" in sql for sql in (spelled, arguments[0].sql))):
        # DuckDB does not compute what cannot change the result. BigQuery does, and ends with its error.
        spelled = f"CASE WHEN len([{', '.join(failing)}]) > 0 THEN {spelled} END"
    sql = fill(spelled, arguments, words, once=not lazy)
    value = combine(sql, result, arguments, fails=bool(re.search(r"\b(fail|refuse|try)\(", template)))
    return compute(value) if value.constant and not words else value


def fill(template: str, arguments: Sequence[Value], words: Mapping[str, str], once: bool) -> str:
    """Returns a template with its arguments.

    Args:
        once: Whether a long argument that stands in it several times is computed only once, whatever it comes to.
    """
    marked = [value._replace(sql=f"\0{index}\0") for index, value in enumerate(arguments)]
    nulls = " OR ".join(f"{value} IS NULL" for value in marked)
    sql = template.format(*marked, all=Joined(marked), rest=Joined(marked[1:]), nulls=nulls, **words)
    pairs = list(zip(map(str, marked), arguments, strict=True))
    once = once and any(sql.count(mark) > 1 and len(value.sql) > LONG_SQL for mark, value in pairs)
    packed = []
    for index, (mark, value) in enumerate(pairs):
        if once and not value.constant:
            packed.append(f"f{index} := {value}")
            sql = sql.replace(mark, f"struct_extract(once, 'f{index}')")  # once.f0 is none to HAVING.
        else:
            sql = sql.replace(mark, value.sql)
    return f"list_extract(list_transform([struct_pack({', '.join(packed)})], lambda once: {sql}), 1)" if packed else sql


def compute(value: Value) -> Value:
    """Returns a constant with what there is to know of it."""
    try:
        found = constants().execute(f"SELECT {value}").fetchone()
    except duckdb.Error:
        return value
    if found == (None,):
        return value._replace(sql=f"CAST(NULL AS {value.type.duckdb})", fails=False)
    return value._replace(fails=False, computed=True)


@functools.cache
def constants() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1})


def bind(rule: Rule, arguments: Sequence[Value]) -> tuple[list[Value], Type] | None:
    """Returns the arguments as what the rule asks for, without keywords, and the type of the result."""
    specs = rule.specs
    if specs and specs[-1].endswith("...") and len(arguments) >= len(specs):
        specs[-1:] = [specs[-1][:-3]] * (len(arguments) - len(specs) + 1)
    if len(specs) != len(arguments):
        return None
    pairs = list(zip(specs, arguments, strict=True))
    bound: dict[str, Type] = {}
    for letter in ("T", "O"):
        plain = [argument for spec, argument in pairs if spec == letter]
        arrays = [argument for spec, argument in pairs if spec == f"ARRAY<{letter}>"]
        if any(argument.type.name != "ARRAY" for argument in arrays):
            return None
        elements = [Value("", argument.type.element) for argument in arrays if argument.sql != "[]"]
        kind = common_type([*plain, *elements])
        if not kind or (letter == "O" and kind.fields) or any(element.type != kind for element in elements):
            return None
        bound[letter] = kind
    values = [_as_asked(spec, argument, bound) for spec, argument in pairs]
    if not all(values):
        return None
    return [value for value in values if value and value.type != KEYWORD], _type(rule.result, bound)


def _type(spec: str, types: Mapping[str, Type]) -> Type:
    return array(_type(spec[6:-1], types)) if spec.startswith("ARRAY<") else types.get(spec) or Type(spec)


def _as_asked(spec: str, argument: Value, types: Mapping[str, Type]) -> Value | None:
    """Returns an argument as what one word of a rule asks for."""
    literal = argument.literal
    if is_keyword(spec):
        return argument if argument == keyword(spec) else None
    if spec in ("literal", "plain", "regex", "rewrite"):
        return argument if isinstance(literal, str) and not (spec == "plain" and "\\" in literal) else None
    if spec in ("count", "decimals", "tens"):
        bounds = {"count": (0, 2**63), "decimals": (0, 16), "tens": (-15, 0)}[spec]
        return argument if argument.type == INT64 and isinstance(literal, int) and literal in range(*bounds) else None
    if argument.type == KEYWORD:
        return None
    if spec == "S":
        return None if argument.type.fields or argument.type == BYTES else cast(argument, STRING, safe=False)
    return coerce(argument, _type(spec, types))


def call(
    rules: Sequence[Rule] | None,
    name: str,
    arguments: Sequence[Value],
    *,
    safe: bool = False,
    words: Mapping[str, str] = NONE,
) -> Value:
    """Returns the value of an operator or function, by the first of its rules that fits the arguments."""
    for rule in rules or ():
        if bound := bind(rule, arguments):
            values, result = bound
            unsure = [value for value in values if not (value.known and value.finite)]
            if rule.name not in SUMS or len(unsure) > 1:  # One that is NULL would hide that another is infinite.
                values = [finite(value) for value in values]
            value = apply(rule.sql, values, result, safe=safe, lazy=rule.name in LAZY or bool(words), words=words)
            return value._replace(finite=not (rule.name in UNCHECKED and result == FLOAT64))
    kinds = ["NULL" if value.literal is None else str(value.type) or value.sql for value in arguments]
    refuse(f"{name} with {', '.join(kinds)}" if rules and kinds else name)
