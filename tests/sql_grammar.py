"""Random expressions of all that metart/museum/dialect allows, put together by type, and the table they are about."""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from metart.museum.dialect.expressions import FUNCTIONS
from metart.museum.dialect.patterns import DATE_ELEMENTS
from metart.museum.dialect.rules import CASTS, DUCKDB_TYPES, OPERATORS, Cast, Rule

TABLE = "`bigquery-public-data.the_met.objects`"
# Header, type and values of the columns of the CSV.
COLUMNS: dict[str, tuple[str, list[Any]]] = {
    "Object ID": ("INT64", list(range(1, 13))),
    "Object Begin Date": ("INT64", [1850, -400, 0, None, 7, 1, -1, 3, 1999, 12, 5, 11]),
    "Object End Date": ("INT64", [1855, None, 0, 3, 2, 10, -5, 4, 2001, 100, 5, 1]),
    "Is Public Domain": ("BOOL", [True, False, None, True, False, True, True, None, False, True, False, True]),
    "Is Highlight": ("BOOL", [False, False, True, None, True, None, True, False, False, True, True, False]),
    "Title": (
        "STRING",
        [
            "Bowl",
            "Straße",
            None,
            "Žižka é",
            "Bowl, 100%",
            "a_b",
            " x ",
            "\u3000日本の茶碗\u00a0",
            "e\u0301🏺",
            'O\'Hara "x"',
            "two\nlines",
            "aXbX",
        ],
    ),
    "Culture": (
        "STRING",
        ["Japan", None, "Italian, Florence", "French", "japan", "China", "Ωmega", "TRUE", "abc", "abc", "-", "\\%"],
    ),
    "Object Number": (
        "STRING",
        ["66.1", "12", " 7 ", "1e3", "-0", None, "2017-02-01", "9" * 20, "false", "+5", "1850", "2020-2-30"],
    ),
    "Tags": ("STRING", ["Men|Portraits", "a|b|c", None, "|", "x", "Men", "a||b", "|a", "日|本", "1|2", "b|a", "Women"]),
    "Link Resource": ("STRING", [f"http://www.metmuseum.org/art/collection/search/{n}" for n in range(1, 13)]),
    "Department": ("STRING", ["Asian Art", "Asian Art", "Drawings"] * 4),
}
SCALARS = tuple(DUCKDB_TYPES)
ORDERED = ("INT64", "FLOAT64", "STRING", "BOOL", "DATE")
LITERALS: dict[str, list[str]] = {
    "INT64": [*map(str, (*range(-20, 21), 31, 100, 1850, 2**31, 2**53 + 1, 2**63 - 1, -(2**63))), "0x1F"],
    "FLOAT64": [
        "0.0",
        "0.5",
        "1.5",
        "2.5",
        "2.675",
        "0.1",
        ".25",
        "3.",
        "1E16",
        "123456.789",
        "1e-7",
        "1e308",
        "1850.25",
        "99.995",
    ],
    "BOOL": ["TRUE", "FALSE"],
    "STRING": [
        *(
            "''",
            "'a'",
            "'abc'",
            "'é'",
            "'ß'",
            "' '",
            "'a,b'",
            r"r'\%'",
            "'%a%'",
            "'_'",
            "'12'",
            "'-7.25'",
            "'2020-02-29'",
        ),
        *(
            "'true'",
            "'X'",
            "'日本'",
            r"'a\nb'",
            "'|'",
            "'Bowl'",
            '"it\'s"',
            "'''x'y'''",
            r"'\x41\u00e9\101'",
            r"R'''\\'''",
        ),
    ],
    "BYTES": ["b''", "b'abc'", r"b'\xff\x00'", "B'é'"],
    "DATE": [
        f"DATE '{day}'" for day in ("2020-02-29", "1999-12-31", "0001-01-01", "9999-12-31", "2017-2-1", "2021-01-03")
    ],
}
# What a rule wants to be written out.
WRITTEN: dict[str, list[str]] = {
    "literal": ["','", "''", "'é'", "' | '"],
    "plain": ["'%a%'", "'_'", "'a%'", "'%l'", "''", "'a_b'", "'%'"],
    "regex": [
        *(r"r'[a-z]+'", "r'([0-9]+)'", "r'^.'", r"r'(\d+)$'", "r'[^|]+'", "r'a|b'", r"r'\s'", "r'(?i)BOWL'", "r'.*'"),
        *("r'(.)x'", "r'X'", r"'\\.'", "r'(?:a|b)c'", "r'[[:alpha:]]{2,}'", r"r'\w+'", "r'(Men|Women)'", r"r'\b\w'"),
        *(
            "r'^$'",
            "r'.'",
            "r'(?s).+'",
            "'(a)?b'",
            "r'(a)|b'",
            r"r'[\]x]'",
            "r'x*'",
            "r'(?P<n>[a-z])'",
            "r'((?:a|b)+)'",
        ),
    ],
    "rewrite": ["''", "'-'", r"r'<\0>'", r"r'\1\1'", r"r'\\'"],
    "count": ["0", "1", "2", "3"],
    "decimals": ["0", "1", "2", "3", "6", "15"],
    "tens": ["-1", "-2", "-4"],
}
FORMATS = {
    "INT64": ["%d", "%i", "%5d", "%-5d|", "%05d", "%+d", "% d", "%'d", "%.3d", "%t"],
    "FLOAT64": ["%f", "%.2f", "%e", "%g", "%G", "%E", "%08.3f", "%+.1f", "%-9.1f|", "%.0f", "%t"],
    "STRING": ["%s", "%10s", "%-10s|", "%.2s", "%5.1s", "%t"],
    "BOOL": ["%t"],
    "DATE": ["%t"],
}
DATE_PATTERNS = ["%Y-%m-%d", "%m-%Y", "%Y%m%d", "%d.%m.%Y", "%m/%d/%Y", "%Y", "%Y|%m", "%d%m%Y"]
DATE_TEXTS = [
    "2017-2-1",
    "20170201",
    " 1.2.2017 ",
    "2/29/2017",
    "1999",
    "12/31/99",
    "0000-1-1",
    "2017|3",
    "2017-02-01x",
]
LAZY = ("IF", "COALESCE", "IFNULL", "NULLIF")  # No functions to BigQuery: they do not go with SAFE.

BY_RESULT: dict[str, list[Rule]] = {}
for _rule in (*OPERATORS, *(rule for rules in FUNCTIONS.values() for rule in rules)):
    if _rule.name != "CURRENT_DATE":
        BY_RESULT.setdefault(_rule.result, []).append(_rule)


def column_names(prefix: str = "") -> dict[str, list[str]]:
    """Returns the columns of a type, of a table of that name."""
    names: dict[str, list[str]] = {}
    for header, (kind, _) in COLUMNS.items():
        names.setdefault(kind, []).append(prefix + header.lower().replace(" ", "_"))
    return names


def rows() -> list[tuple[Any, ...]]:
    return list(zip(*(values for _, values in COLUMNS.values()), strict=True))


class Grammar:
    """Writes expressions on some columns."""

    def __init__(self, rng: Random, columns: Mapping[str, Sequence[str]]) -> None:
        self.rng = rng
        self.columns = columns

    def chance(self, one_in: int) -> bool:
        return self.rng.randrange(one_in) == 0

    def any(self, depth: int) -> str:
        extra = ("INT64", "STRING", "BOOL", "ARRAY<STRING>", "ARRAY<INT64>")
        return self.expression(self.rng.choice([*SCALARS, *extra]), depth)

    def expression(self, kind: str, depth: int) -> str:
        """Returns an expression of a type, with at most that many rules within each other."""
        if depth <= 0 or self.chance(10):
            return self.leaf(kind)
        choices: list[Rule | Cast | Callable[[str, int], str]] = [*BY_RESULT.get(kind, [])]
        if kind.startswith("ARRAY<"):
            choices += BY_RESULT["ARRAY<T>"]
        else:
            casts = [cast for cast in CASTS if cast.target == kind]
            choices += [*BY_RESULT["T"] * 2, *casts * 2, self.case]
        if kind in ORDERED:
            choices += BY_RESULT["O"]
        if kind == "STRING":
            choices += [self.format] * 3
        if kind == "DATE":
            choices += [self.parse_date] * 3
        choice = self.rng.choice(choices)
        if isinstance(choice, Cast):
            cast = "CAST" if choice.source != "STRING" or self.chance(4) else "SAFE_CAST"
            return f"{cast}({self.expression(choice.source, depth - 1)} AS {kind})"
        return self.call(choice, kind, depth) if isinstance(choice, Rule) else choice(kind, depth)

    def leaf(self, kind: str) -> str:
        if kind.startswith("ARRAY<"):
            element = kind[6:-1]
            values = [self.rng.choice(["NULL", *LITERALS[element]]) for _ in range(self.rng.randint(0, 3))]
            return f"ARRAY<{element}>[{', '.join(values)}]"
        if self.columns.get(kind) and not self.chance(4):
            return self.rng.choice(self.columns[kind])
        return f"CAST(NULL AS {kind})" if self.chance(15) else self.rng.choice(LITERALS[kind])

    def case(self, kind: str, depth: int) -> str:
        subject = self.rng.choice(ORDERED) if self.chance(2) else ""
        start = self.expression(subject, depth - 1) if subject else ""
        branches = " ".join(
            f"WHEN {self.expression(subject or 'BOOL', depth - 1)} THEN {self.expression(kind, depth - 1)}"
            for _ in range(self.rng.randint(1, 2))
        )
        return f"CASE {start} {branches} {f'ELSE {self.expression(kind, depth - 1)}' if self.chance(2) else ''} END"

    def parse_date(self, kind: str, depth: int) -> str:
        text = self.expression("STRING", depth - 1) if self.chance(4) else f"'{self.rng.choice(DATE_TEXTS)}'"
        return f"PARSE_DATE('{self.rng.choice(DATE_PATTERNS)}', {text})"

    def format(self, kind: str, depth: int) -> str:
        if self.chance(2):
            elements = [*(f"%{element}" for element in DATE_ELEMENTS), "-", "é ", "x"]
            pattern = "".join(self.rng.choices(elements, k=self.rng.randint(0, 4)))
            return f"FORMAT_DATE('{pattern}', {self.expression('DATE', depth - 1)})"
        kinds = self.rng.choices(list(FORMATS), k=self.rng.randint(0, 3))
        between = self.rng.choice([" ", ": ", "", "%%"])
        pattern = self.rng.choice(["", "a "]) + between.join(self.rng.choice(FORMATS[one]) for one in kinds)
        return (
            f"FORMAT({', '.join([chr(34) + pattern + chr(34), *(self.expression(one, depth - 1) for one in kinds)])})"
        )

    def arguments(self, rule: Rule, kind: str, depth: int) -> list[str]:
        """Returns the arguments of a rule, which is to give a value of that type."""
        specs = rule.specs
        if specs and specs[-1].endswith("..."):
            last = specs.pop()[:-3]
            specs += [last] * self.rng.randint(1 if specs else 2, 3)
        wanted = {"T": kind, "O": kind, "ARRAY<T>": kind[6:-1]}.get(rule.result)
        types = {"T": wanted or self.rng.choice(SCALARS), "O": wanted or self.rng.choice(ORDERED)}
        values = []
        for spec in specs:
            if spec in WRITTEN:
                values.append(self.rng.choice(WRITTEN[spec]))
            elif spec == "S":
                values.append(self.expression(self.rng.choice(["STRING", *ORDERED]), depth - 1))
            elif spec.startswith("ARRAY<"):
                values.append(self.expression(f"ARRAY<{types.get(spec[6:-1], spec[6:-1])}>", depth - 1))
            elif spec in types or spec in SCALARS:
                values.append(self.expression(types.get(spec, spec), depth - 1))
            else:
                values.append(spec)
        return values

    def call(self, rule: Rule, kind: str, depth: int) -> str:
        name, values = rule.name, self.arguments(rule, kind, depth)
        first, last = (values[0], values[-1]) if values else ("", "")
        maybe_not = "NOT " if self.chance(2) else ""
        if name.startswith("["):
            return f"({first})[{last if name == '[OFFSET]' and self.chance(3) else f'{name[1:-1]}({last})'}]"
        if name == "IN":
            return f"({first} {maybe_not}IN ({', '.join(values[1:])}))"
        if name == "IN UNNEST":
            return f"({first} {maybe_not}IN UNNEST({last}))"
        if name == "BETWEEN":
            return f"({first} {maybe_not}BETWEEN {values[1]} AND {last})"
        if name == "LIKE":
            return f"({first} {maybe_not}LIKE {last})"
        if name.startswith("IS ") and len(values) == 1:
            return f"({first} IS {maybe_not}{name[3:]})"
        if name == "IS DISTINCT FROM":
            return f"({first} IS {maybe_not}DISTINCT FROM {last})"
        if name in ("NOT", "~", "- (sign)"):
            return f"({name.split()[0]} {first})"
        if not name[0].isalpha() or name in ("AND", "OR"):
            joined = f" {name} ".join(values)
            return joined if self.chance(8) else f"({joined})"
        if name == "EXTRACT":
            return f"EXTRACT({' '.join(values)})"
        if "INTERVAL" in values:
            at = values.index("INTERVAL")
            values[at:] = [f"INTERVAL ({values[at + 1]}) {values[at + 2]}"]
        safe = "SAFE." if name not in LAZY and self.chance(6) else ""
        return f"{safe}{name}({', '.join(values)})"
