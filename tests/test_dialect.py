"""bigquery.py's SQL on the CSV against ZetaSQL, Google's own engine of BigQuery's dialect."""

from collections import Counter
from collections.abc import Sequence
import csv
from pathlib import Path
from random import Random
import re
from typing import Any, NamedTuple

import duckdb
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
import pytest
import sql
from sql_grammar import BY_RESULT, COLUMNS, ORDERED, TABLE, Grammar, column_names, rows
from sql_queries import Queries
from zetasql_engine import Engine, Failed, Invalid

from metart.common.flags import UserError
from metart.museum.dialect import aggregates, dates, functions, rules
from metart.museum.dialect.queries import Tables, translate
from metart.museum.dialect.values import explain
from metart.museum.metadata_file import column_name, open_metadata_file
from metart.museum.metobjects import DUCKDB, create_tables

BATCH = 20  # Expressions in one query.
EDGES = Path(__file__).with_name("sql_edges.txt")


class Answer(NamedTuple):
    """What a query comes to: rows; `failed` while it runs; `invalid`; `refused` by the CSV only."""

    kind: str
    rows: Sequence[list[Any]] = ()
    message: str = ""


class Both:
    """The CSV and ZetaSQL with the same rows."""

    def __init__(self, path: Path) -> None:
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([list(COLUMNS), *rows()])
        self.database = duckdb.connect(config={**DUCKDB, "threads": 1})
        with open_metadata_file(path) as file:
            self.tables: Tables = create_tables(self.database, file)
        types = {column_name(header): kind for header, (kind, _) in COLUMNS.items()}
        self.engine = Engine({TABLE.strip("`"): (types, rows())})

    def on_csv(self, query: str) -> Answer:
        try:
            found = self.database.execute(translate(query, self.tables).sql).fetchall()
            return Answer("rows", [list(row) for row in found])
        except UserError as error:
            kind = "refused" if "runs on BigQuery only" in str(error) else "invalid"
            return Answer(kind, message=str(error))
        except duckdb.Error as error:
            if not (message := explain(error)):
                raise
            return Answer("refused" if "runs on BigQuery only" in message else "failed", message=message)

    def on_zetasql(self, query: str) -> Answer:
        try:
            return Answer("rows", self.engine.query(query)[1])
        except Failed as error:
            return Answer("failed", message=str(error))
        except Invalid as error:
            # It computes constants, such as the pattern of LIKE, beforehand.
            return Answer("failed" if "OUT_OF_RANGE" in str(error) else "invalid", message=str(error))

    def compare(self, query: str, own: Answer | None = None, exactly: bool = True) -> str:
        """Asks both; returns the kind of their answer, once it is the same or the CSV's is a refusal.

        Args:
            own: The answer of the CSV, where it is known.
            exactly: FLOAT64 to the last digit, and errors also where the result does not depend on what fails, such as
                a column that is not used; BigQuery leaves that open.
        """
        own = own or self.on_csv(query)
        if own.kind == "refused":
            return own.kind
        other = self.on_zetasql(query)
        if "RESOURCE_EXHAUSTED" in other.message:  # It has 128 MB for values.
            return "open"
        same = own.kind == other.kind or {own.kind, other.kind} == {"invalid", "failed"}
        if not exactly and {own.kind, other.kind} == {"rows", "failed"} and (own.rows or not other.rows):
            return "open"
        if own.kind == "rows" and same:
            left, right = ([spelled(row, exactly) for row in answer.rows] for answer in (own, other))
            if "ORDER BY" not in query.rpartition(")")[2].upper():
                left, right = sorted(left), sorted(right)
            same = left == right
        assert same, f"{query}\n\nCSV: {own}\n\nZetaSQL: {other}"
        return own.kind


def spelled(value: Any, exactly: bool) -> str:
    """Returns a value as text, in which -0.0 is not 0.0, if exactly."""
    if isinstance(value, float) and not exactly:
        return f"{value + 0:.12g}"
    if isinstance(value, list):
        return f"[{', '.join(spelled(one, exactly) for one in value)}]"
    return repr(value)


pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp("csv") / "MetObjects.csv")


def of_all_rows(*expressions: str, where: str = "TRUE") -> str:
    listed = ", ".join(f"{expression} AS v{number}" for number, expression in enumerate(expressions))
    return f"SELECT {listed} FROM {TABLE} WHERE {where} ORDER BY object_id"


def compare_expressions(both: Both, expressions: list[str]) -> None:
    """Compares expressions: those with values all at once, the others one by one, also on single rows."""
    answers = [both.on_csv(of_all_rows(expression)) for expression in expressions]
    with_values = []
    for expression, answer in zip(expressions, answers, strict=True):
        if answer.kind == "rows":
            with_values.append((expression, answer))
        elif both.compare(of_all_rows(expression), answer) == "failed":
            row = 1 + len(expression) % len(rows())
            both.compare(of_all_rows(expression, where=f"object_id = {row}"))
    columns = [[row[0] for row in answer.rows] for _, answer in with_values]
    try:
        if with_values:
            together = Answer("rows", [list(row) for row in zip(*columns, strict=True)])
            both.compare(of_all_rows(*(expression for expression, _ in with_values)), together)
    except AssertionError:
        for expression, answer in with_values:
            both.compare(of_all_rows(expression), answer)
        raise


def test_every_rule(both: Both) -> None:
    """Each rule gives at least one value, and never another one than ZetaSQL."""
    listed = [
        *rules.OPERATORS,
        *rules.CONDITIONS,
        *functions.NUMBERS,
        *functions.STRINGS,
        *functions.ARRAYS,
        *dates.DATES,
    ]
    for number, rule in enumerate(listed):
        if rule.name == "CURRENT_DATE":
            continue
        rng = Random(number)
        kinds: list[str] = []
        while "rows" not in kinds:
            assert len(kinds) < 300, f"{rule} never gives a value: {kinds}"
            kind = {"T": "STRING", "O": rng.choice(ORDERED), "ARRAY<T>": "ARRAY<INT64>"}.get(rule.result, rule.result)
            kinds.append(both.compare(of_all_rows(Grammar(rng, column_names()).call(rule, kind, depth=1))))
    assert not set(BY_RESULT) - {
        "T",
        "O",
        "ARRAY<T>",
        *rules.DUCKDB_TYPES,
        *(f"ARRAY<{kind}>" for kind in rules.DUCKDB_TYPES),
    }
    names = {rule.name for rule in (*listed, *aggregates.AGGREGATES, *aggregates.WINDOW_FUNCTIONS)}
    casts = [cast for cast in rules.CASTS if cast.source != cast.target]
    assert len(names) + len(casts) >= 150


FLOATS = ["object_end_date * -0.5", "SAFE_DIVIDE(object_id - 1, -3e9)"]
LONG_RUN = [pytest.mark.slow, pytest.mark.timeout(6 * 3600)]


def generated(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],  # What fails is named by itself, and a seed cannot be made simpler.
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("count", [500, pytest.param(100_000, marks=LONG_RUN)])
def test_random_expressions(count: int, both: Both) -> None:
    compared = 0

    @generated(count // BATCH)
    @given(st.integers(0, 2**48), st.integers(1, 3))
    def compare_some(seed: int, depth: int) -> None:
        nonlocal compared
        grammar = Grammar(Random(seed), column_names())
        compare_expressions(both, [grammar.any(depth) for _ in range(BATCH)])
        compared += BATCH

    compare_some()
    assert compared >= count


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=LONG_RUN)])
def test_random_queries(count: int, both: Both) -> None:
    kinds: Counter[str] = Counter()

    @generated(count)
    @given(st.integers(0, 2**48))
    def compare_one(seed: int) -> None:
        kinds[both.compare(Queries(Random(seed)).any(), exactly=False)] += 1

    compare_one()
    assert kinds["rows"] > count // 2


def test_every_format(both: Both) -> None:
    """Flags, widths and precisions of FORMAT, each with each."""
    values = {"d": ["object_end_date"], "f": FLOATS, "e": FLOATS, "G": FLOATS, "s": ["title"], "t": FLOATS, "%": []}
    calls = [
        f'FORMAT("%{flags}{width}{precision}{letter}", {value})' if value else f'FORMAT("%{flags}{width}{precision}%")'
        for flags in ("", "-", "+", " ", "0", "'", "-0", "+ ", "+0")
        for width in ("", "12")
        for precision in ("", ".", ".0", ".00", ".3")
        for letter, listed in values.items()
        for value in listed or [""]
    ]
    assert sum(both.on_csv(of_all_rows(call)).kind == "rows" for call in calls) > 200
    compare_expressions(both, calls)


def test_edges(both: Both) -> None:
    """What is not random: odd strings, escapes, clauses, names, statements that are none."""
    kinds: Counter[str] = Counter()
    for line in EDGES.read_text(encoding="utf-8").splitlines():
        kinds[both.compare(line.replace("$T", TABLE))] += 1
    assert kinds["rows"] > 250


@pytest.mark.parametrize("count", [1000, pytest.param(100_000, marks=LONG_RUN)])
def test_what_is_no_sql_is_refused_in_one_line(count: int, both: Both) -> None:
    """The edges with words left out, doubled and exchanged: neither the translation nor DuckDB stumbles."""
    lines = EDGES.read_text(encoding="utf-8").replace("$T", TABLE).splitlines()
    word = re.compile(r"""`[^`]*`|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\w+|\s+|.""")
    rng = Random(count)
    kinds: Counter[str] = Counter()
    for _ in range(count):
        words = word.findall(rng.choice(lines))
        for place in rng.choices(range(len(words)), k=rng.randint(1, 3)):
            words[place] = rng.choice(
                ["", words[place] * 2, rng.choice(words), rng.choice(word.findall(rng.choice(lines)))]
            )
        query = "".join(words)
        answer = both.on_csv(query)
        assert "\n" not in answer.message, query
        kinds[answer.kind] += 1
    assert min(kinds["rows"], kinds["invalid"]) > count / 20


@pytest.mark.slow
def test_every_letter(both: Both) -> None:
    """UPPER, LOWER, TRIM and NORMALIZE of all characters; few are refused."""

    def compare_all(function: str, first: int, last: int) -> int:
        codes = f"UNNEST(GENERATE_ARRAY({first}, {last})) AS code"
        kind = both.compare(f"SELECT {function} FROM {codes}, UNNEST([CHR(code)]) AS one ORDER BY code")
        if kind == "rows" or first == last:
            return int(kind != "rows")
        middle = (first + last) // 2
        return compare_all(function, first, middle) + compare_all(function, middle + 1, last)

    def count_refused(function: str) -> int:
        surrogates = range(0xD800, 0xE000)
        return sum(compare_all(function, n, n + 2047) for n in range(0, 0x20000, 2048) if n not in surrogates)

    assert count_refused("UPPER(one)") < 140 and count_refused("LOWER(one)") < 30
    assert not count_refused("NORMALIZE(one)") and not count_refused("LENGTH(TRIM(one))")


def test_the_page_of_what_runs_on_both_is_current() -> None:
    assert sql.page() == sql.OUTPUT.read_text(encoding="utf-8"), "run: python doc/sql.py"
