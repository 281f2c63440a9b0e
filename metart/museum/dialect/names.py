"""What the names in a query mean: columns, tables, arrays."""

from typing import NamedTuple

from sqlglot import exp

from metart.common.flags import UserError
from metart.museum.dialect.values import Type, Value, invalid, refuse


class Column(NamedTuple):
    name: str | None
    value: Value

    @property
    def key(self) -> str | None:
        """The name as it is compared; None, which no name in a query is, if there is none."""
        return self.name.lower() if self.name else None


class Source(NamedTuple):
    """A table, subquery or array of a FROM clause."""

    name: str | None
    columns: list[Column]
    element: Value | None = None  # Of an array: what its name stands for.

    def __str__(self) -> str:
        columns = ", ".join(column.name or "without a name" for column in self.columns)
        return f"the columns of {self.name or 'the subquery'} are: {columns}"


class Relation(NamedTuple):
    """A query for DuckDB, or the name of one, whose columns are called c0, c1, …"""

    sql: str
    columns: list[tuple[str | None, Type]]
    fails: bool = False  # A column may be an error.


class Scope:
    """What names mean at one place of a query."""

    def __init__(self, parent: "Scope | None" = None) -> None:
        self.parent = parent
        self.relations: dict[str, Relation] = dict(parent.relations) if parent else {}  # Of WITH.
        self.sources: list[Source] = []
        self.merged: dict[str, Value] = {}  # Columns of USING.
        self.aliases: list[Column] = []  # Of the SELECT list, where its names can be used.
        self.windows: dict[str, exp.Expr] = {}
        self.aggregates = False
        self.outer: set[str] = set()  # Columns of the scope around that are used here.

    def add(self, source: Source) -> None:
        if source.name and source.name.lower() in [(one.name or "").lower() for one in self.sources]:
            invalid(f"two tables are called {source.name}")
        self.sources.append(source)

    def find(self, name: str) -> Value | Source | None:
        """Returns what the name stands for: a column, an element of an array, a table."""
        key = name.lower()
        named = {column.value.sql: column.value for column in self.aliases if column.key == key}
        if not named and key in self.merged:
            return self.merged[key]
        found: list[Value | Source] = list(named.values())
        found = found or [one.element or one for one in self.sources if one.name and one.name.lower() == key]
        if not found:  # The columns of a table are hidden by a table's own name.
            found = [column.value for source in self.sources for column in source.columns if column.key == key]
        if len(found) > 1:
            raise UserError(f"the name {name} is ambiguous in the query")
        return found[0] if found else None


def resolve(scope: Scope, name: str, *fields: str) -> Value:
    """Returns the value of column, table.column or column.field."""
    inner: Scope | None = None
    place: Scope | None = scope
    while place and (found := place.find(name)) is None:
        inner, place = place, place.parent
    if not place or not found:
        known = "".join(f"; {source}" for source in scope.sources)
        raise UserError(f'the query asks for a column named "{name}", which is none{known}')
    if isinstance(found, Source):
        if not fields:
            refuse(f"the whole row {name}")
        column, *rest = fields
        named = [one.value for one in found.columns if one.key == column.lower()]
        if len(named) != 1:
            raise UserError(f'{name} has no column named "{column}"; {found}')
        found, fields = named[0], tuple(rest)
    for field in fields:
        found = get_field(found, field)
    if inner:
        # DuckDB does not know a field that is grouped by in a query within: it is another than that of _check_grouped.
        inner.outer |= {f"{column} within" if "(" in column else column for column in found.columns}
        found = found._replace(columns=frozenset(), outer=True)
    return found


def get_field(value: Value, name: str) -> Value:
    for index, (field, kind) in enumerate(value.type.fields if value.type.name == "STRUCT" else ()):
        if field.lower() == name.lower():
            # With CASE, lest DuckDB moves a CAST of the field to where it makes the column, and ends with its errors.
            sql = f"struct_extract(CASE WHEN TRUE THEN {value} END, 'f{index}')"
            of_row = value.columns == {value.sql}  # A field of an UNNEST can be grouped by.
            return value._replace(sql=sql, type=kind, columns=frozenset([sql]) if of_row else value.columns)
    raise UserError(f'a {value.type} has no field "{name}"')
