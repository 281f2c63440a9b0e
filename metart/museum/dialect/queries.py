"""Translates a query of BigQuery's dialect for DuckDB, or says that it runs on BigQuery only.

Names are resolved and types are checked here, as BigQuery does it. What DuckDB gets has a table's name at every column.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
import itertools
import logging
from typing import NamedTuple

import sqlglot
from sqlglot import exp

from metart.common.flags import UserError
from metart.museum.dialect.expressions import Plain, own_name
from metart.museum.dialect.literals import Spelling, read_literals
from metart.museum.dialect.names import Column, Relation, Scope, Source, get_field
from metart.museum.dialect.rules import DUCKDB_TYPES
from metart.museum.dialect.values import (
    BOOL,
    INT64,
    Rows,
    Type,
    Value,
    combine,
    common_type,
    expand,
    finite,
    identifier,
    invalid,
    refuse,
)
from metart.museum.dialect.windows import Windows

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # It warns of what is refused anyway.
Tables = Mapping[str, Sequence[tuple[str, Type]]]
NULL_ELEMENT = "fail('NULL in an array of the result')"
FILTERS = ("where", "group", "having", "qualify")
SETS: Mapping[type[exp.Expr], str] = {exp.Rollup: "ROLLUP ", exp.Cube: "CUBE ", exp.GroupingSets: "GROUPING SETS "}


class Translation(NamedTuple):
    """A query for DuckDB and the names of its columns."""

    sql: str
    columns: list[str]


def translate(sql: str, tables: Tables) -> Translation:
    """Translates one SELECT of BigQuery's dialect.

    Args:
        tables: Name and type of the columns, by the path of the table.

    Raises:
        UserError: The query is not valid, or runs on BigQuery only.
    """
    spelling = read_literals(sql)
    try:
        statements = sqlglot.parse(spelling.sql, read=Plain)
        query = statements[0] if len(statements) == 1 else None
        if not isinstance(query, exp.Query):
            raise UserError("the query must be one SELECT statement")
        relation = Queries(spelling, tables, query).query(query, Scope())
    except (sqlglot.ParseError, sqlglot.TokenError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the query is not valid SQL, or one that runs on BigQuery only: {reason}") from None
    except RecursionError:
        refuse("so long a query")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # sqlglot leaves holes in some that are none.
        invalid("a part of it is missing or not where it belongs")
    numbers = itertools.count()
    names = [name or f"f{next(numbers)}_" for name, _ in relation.columns]
    if len({name.lower() for name in names}) < len(names):
        invalid(f"several columns of the result have the same name: {', '.join(names)}")
    return Translation(relation.sql, names)


class Queries(Windows):
    """One query and those inside it."""

    def __init__(self, spelling: Spelling, tables: Tables, whole: exp.Query) -> None:
        super().__init__(spelling)
        self.tables = tables
        self.whole = whole  # Its columns are the result.
        self.count = 0

    def subquery(self, node: exp.Expr, scope: Scope) -> tuple[Relation, Scope]:
        inner = Scope(scope)
        return self.query(node, inner), inner

    def query(self, node: exp.Expr, scope: Scope) -> Relation:
        """Translates a query into a scope made for it."""
        prefix = ""
        if with_ := node.args.get("with_"):
            self.check(with_, "expressions")
            names = [self.name(table.args["alias"].this).lower() for table in with_.expressions]
            if len(set(names)) < len(names):
                invalid("WITH with two tables of one name")
            prefix = f"WITH {', '.join(self._common(table, scope) for table in with_.expressions)} "
        if isinstance(node, exp.Select):
            relation = self._select(node, scope)
        elif isinstance(node, exp.SetOperation):
            relation = self._set_operation(node, scope)
        elif isinstance(node, exp.Subquery) and isinstance(node.this, exp.Query):
            self.check(node, "this", "with_", "alias")
            if node is self.whole:
                self.whole = node.this
            relation = self.query(node.this, scope)
        else:
            refuse(self.spell(node))
        return relation._replace(sql=prefix + relation.sql)

    def _common(self, node: exp.CTE, scope: Scope) -> str:
        """Adds a table of WITH to the scope; returns its SQL."""
        self.check(node, "this", "alias")
        self.check(node.args["alias"], "this")
        relation, _ = self.subquery(node.this, scope)
        name = self._new_name()
        scope.relations[self.name(node.args["alias"].this).lower()] = relation._replace(sql=name)
        return f"{name} AS ({_closed(relation)})"

    def _new_name(self) -> str:
        self.count += 1
        return f"t{self.count}"

    # SELECT.

    def _select(self, node: exp.Select, scope: Scope) -> Relation:
        self.check(
            node,
            "expressions",
            "distinct",
            "from_",
            "joins",
            *FILTERS,
            "windows",
            "order",
            "limit",
            "offset",
            "with_",
            "kind",
        )
        if not node.expressions:
            invalid("SELECT of nothing")
        if not node.args.get("from_") and any(node.args.get(clause) for clause in (*FILTERS, "distinct")):
            invalid("DISTINCT, WHERE, GROUP BY, HAVING and QUALIFY need FROM")
        sql = self._from(node, scope)
        for window in node.args.get("windows") or ():
            self.check(window, "this", "partition_by", "order", "spec")
            scope.windows[self.name(window.this).lower()] = window
        if where := node.args.get("where"):
            sql += f" WHERE {self._filter(where.this, scope)}"
        columns = self._columns(node, scope)
        if not node.args.get("from_") and any(column.value.rows for column in columns):
            invalid("an aggregate or window function without FROM")
        if node.args.get("having") and not node.args.get("group") and not scope.aggregates:
            invalid("HAVING needs GROUP BY, or an aggregate in the SELECT list")
        group, keys = self._group(node.args.get("group"), scope, columns)
        scope.aliases = [
            Column(name, value._replace(columns=frozenset()) if value.sql in keys else value)
            for name, value in scope.aliases
        ]
        filters = {
            clause: finite(self.condition(node.args[clause].this, scope))
            for clause in ("having", "qualify")
            if node.args.get(clause)
        }
        if "having" in filters and filters["having"].rows == Rows.WINDOW:
            invalid("a window function in HAVING; that is QUALIFY")
        filters |= self._having(node, filters.get("having"))
        if "qualify" in filters and not any(node.args.get(clause) for clause in FILTERS[:3]):
            invalid("QUALIFY needs WHERE, GROUP BY or HAVING")
        if "qualify" in filters and all(
            one.rows < Rows.WINDOW for one in (filters["qualify"], *(one.value for one in columns))
        ):
            invalid("QUALIFY needs a window function")
        distinct = node.args.get("distinct")
        if distinct:
            self.check(distinct)
            if any(column.value.type.fields for column in columns):
                invalid("DISTINCT of an ARRAY or a STRUCT")
        end = self._end(node, scope, columns, bool(distinct))
        if group or scope.aggregates or "having" in filters:
            self._check_grouped(node, scope, [*(column.value for column in columns), *filters.values()], keys)
        results = self._results(node, columns)
        listed = ", ".join(f"{column.value} AS c{index}" for index, column in enumerate(results))
        sql = f"SELECT {'DISTINCT ' * bool(distinct)}{listed}{sql}{group}"
        sql += "".join(f" {clause.upper()} {value}" for clause, value in filters.items())
        fails = any(column.value.fails for column in columns)
        return Relation(sql + end, [(column.name, column.value.type) for column in results], fails)

    def _check_grouped(self, node: exp.Select, scope: Scope, values: Sequence[Value], keys: frozenset[str]) -> None:
        """Makes sure that what is selected, filtered or sorted by is grouped or aggregated."""
        order = node.args.get("order")
        sorted_by = [one.this for one in order.expressions] if order and not node.args.get("distinct") else []
        for value in (*values, *(self.value(key, scope) for key in sorted_by if not isinstance(key, exp.Literal))):
            if finite(value).sql not in keys and not value.columns <= keys:
                names = [one.name for one in self._all_columns(scope) if one.value.sql in value.columns - keys]
                if not names:
                    refuse("a field of the elements of an array in a grouped query")
                invalid(f"{', '.join(filter(None, names))} is neither grouped nor aggregated")

    def _having(self, node: exp.Select, condition: Value | None) -> dict[str, Value]:
        """Returns HAVING with a count, where DuckDB needs it."""
        group = node.args.get("group")
        if group and any(type(one) in SETS for one in group.expressions):
            # Of no rows DuckDB makes a total, BigQuery does not.
            return {
                "having": (condition or Value("TRUE", BOOL))._replace(sql=f"(count(*) > 0 AND {condition or 'TRUE'})")
            }
        if condition and condition.fails:  # Lest DuckDB moves it before WHERE, and ends with errors of other rows.
            return {"having": condition._replace(sql=f"CASE WHEN count(*) >= 0 THEN {condition} END")}
        return {}

    def _filter(self, node: exp.Expr, scope: Scope) -> Value:
        """Returns the condition of WHERE or ON.

        Between tables AND stays AND whatever may be an error, for DuckDB to find what it joins by: what BigQuery
        computes of the condition of a join is open.
        """
        if len(scope.sources) > 1 and isinstance(node, exp.And):
            parts = [self.condition(part, scope) for part in node.flatten()]
            condition = combine(f"({' AND '.join(map(str, parts))})", BOOL, parts)
        else:
            condition = self.condition(node, scope)
        if condition.rows:
            invalid("an aggregate or window function in WHERE or ON; those are HAVING and QUALIFY")
        return condition

    def _columns(self, node: exp.Select, scope: Scope) -> list[Column]:
        """Returns the columns of the SELECT list; from now on its names can be used."""
        columns: list[Column] = []
        aliases: list[Column] = []
        for one in node.expressions:
            if isinstance(one, exp.Star):
                columns += self._star(one, scope, self._all_columns(scope))
            elif isinstance(one, exp.Column) and isinstance(one.this, exp.Star):
                self.check(one, "this", "table")
                source = scope.find(self.name(one.args["table"])) if one.args.get("table") else None
                if not isinstance(source, Source):
                    refuse(self.spell(one))
                columns += self._star(one.this, scope, source.columns)
            else:
                name = self.name(one.args["alias"]) if isinstance(one, exp.Alias) else own_name(one)
                columns.append(Column(name, finite(self.value(one.unalias(), scope))))
                if isinstance(one, exp.Alias):
                    aliases.append(columns[-1])
        scope.aliases = aliases
        return columns

    def _all_columns(self, scope: Scope) -> list[Column]:
        if not scope.sources:
            invalid("SELECT * needs FROM")
        columns = [column for source in scope.sources for column in source.columns]
        merged = [Column(name, value) for name, value in scope.merged.items()]
        return [*merged, *(column for column in columns if column.key not in scope.merged)]

    def _star(self, node: exp.Star, scope: Scope, columns: Sequence[Column]) -> list[Column]:
        """Returns what * stands for, with EXCEPT and REPLACE."""
        self.check(node, "except_", "replace")
        left_out = {one.name.lower() for one in node.args.get("except_") or ()}
        replaced = {
            self.name(one.args["alias"]).lower(): finite(self.value(one.this, scope))
            for one in node.args.get("replace") or ()
        }
        if unknown := {*left_out, *replaced} - {column.key for column in columns}:
            invalid(f"* has no column {', '.join(sorted(unknown))}")
        kept = [column for column in columns if column.key not in left_out]
        return [Column(column.name, replaced.get(column.key or "", column.value)) for column in kept]

    def _results(self, node: exp.Select, columns: list[Column]) -> list[Column]:
        """Returns the columns as the query hands them over."""
        kind = node.args.get("kind")
        if kind == "STRUCT" and not node.args.get("distinct"):
            values = [column.value for column in columns]
            packed = ", ".join(f"f{index} := {value}" for index, value in enumerate(values))
            fields = tuple((column.name or "", column.value.type) for column in columns)
            columns = [Column(None, combine(f"struct_pack({packed})", Type("STRUCT", fields), values))]
        elif kind:
            refuse(f"SELECT AS {kind}")
        if node is not self.whole:
            return columns
        return [Column(name, value._replace(sql=as_result(value.sql, value.type))) for name, value in columns]

    def _group(self, node: exp.Group | None, scope: Scope, columns: Sequence[Column]) -> tuple[str, frozenset[str]]:
        """Returns GROUP BY, and the SQL of what it groups by."""
        if not node:
            return "", frozenset()
        self.check(node, "expressions")
        keys = set()

        def item(one: exp.Expr) -> str:
            if type(one) in SETS or isinstance(one, exp.Tuple):
                self.check(one, "expressions")
                return f"{SETS.get(type(one), '')}({', '.join(map(item, one.expressions))})"
            if isinstance(one, exp.Literal) and one.name.isdecimal():
                if not 1 <= int(one.name) <= len(columns):
                    invalid(f"GROUP BY {one.name}, which is no column of the result")
                value = columns[int(one.name) - 1].value
            else:
                value = finite(self.value(one, scope))
            if value.type.fields:
                invalid(f"GROUP BY an {value.type.name}")
            if value.rows:
                invalid("GROUP BY an aggregate or window function")
            if value.constant:
                refuse("GROUP BY a constant")
            keys.add(value.sql)
            return value.sql

        sql = f" GROUP BY {', '.join(map(item, node.expressions))}"
        selected = Counter(column.value.sql for column in columns)
        if any(type(one) in SETS for one in node.expressions) and any(selected[key] > 1 for key in keys):
            refuse("sets of groups by columns that are the same")  # One may be NULL where the other is not.
        return sql, frozenset(keys)

    def _end(self, node: exp.Query, scope: Scope, columns: Sequence[Column], only_outputs: bool) -> str:
        """Returns ORDER BY, LIMIT and OFFSET."""
        order, limit, offset = (node.args.get(clause) for clause in ("order", "limit", "offset"))
        sql = ""
        if order:
            self.check(order, "expressions")
            sql += self.order(order.expressions, scope, columns, only_outputs)
        if (limit or offset) and not isinstance(limit, exp.Limit):
            refuse("FETCH, or OFFSET without LIMIT")
        if limit:
            sql += f" LIMIT {self.number(limit)}"
        if offset:
            sql += f" OFFSET {self.number(offset)}"
        return sql

    # UNION, INTERSECT, EXCEPT.

    def _set_operation(self, node: exp.SetOperation, scope: Scope) -> Relation:
        self.check(node, "this", "expression", "distinct", "with_", "order", "limit", "offset")
        name, distinct = type(node).__name__.upper(), node.args.get("distinct")
        if distinct is None or not (distinct or name == "UNION"):
            invalid(f"{name} needs {'ALL or ' * (name == 'UNION')}DISTINCT")
        sides = (node.this, node.expression)
        for side in sides:
            other = isinstance(side, exp.SetOperation) and (type(side), side.args.get("distinct")) != (
                type(node),
                distinct,
            )
            if other or (name == "EXCEPT" and isinstance(node.expression, exp.SetOperation)):
                invalid("set operations of several kinds need parentheses")
        relations = [self.subquery(side, scope)[0] for side in sides]
        left, right = (relation.columns for relation in relations)
        if len(left) != len(right):
            invalid(f"{name} of {len(left)} and of {len(right)} columns")
        columns: list[tuple[str | None, Type]] = []
        for (column, one), (_, other_kind) in zip(left, right, strict=True):
            kind = common_type([Value("", one), Value("", other_kind)])
            if not kind or (kind.fields and (distinct or node is self.whole)):
                refuse(f"{name} of {one} and {other_kind}")
            columns.append((column, kind))
        casts = ", ".join(f"CAST(c{index} AS {kind.duckdb}) AS c{index}" for index, (_, kind) in enumerate(columns))
        joined = f" {name}{' ALL' * (not distinct)} ".join(f"(SELECT {casts} FROM ({one.sql}))" for one in relations)
        outputs = [Column(column, Value("", kind)) for column, kind in columns]
        sql = joined + self._end(node, scope, outputs, only_outputs=True)
        return Relation(sql, columns, any(relation.fails for relation in relations))

    # FROM.

    def _from(self, node: exp.Select, scope: Scope) -> str:
        from_ = node.args.get("from_")
        if not from_:
            return ""
        self.check(from_, "this")
        sql = f" FROM {self._source(from_.this, scope)}"
        for join in node.args.get("joins") or ():
            self.check(join, "this", "kind", "side", "on", "using")
            kind, side, on, using = (join.args.get(part) for part in ("kind", "side", "on", "using"))
            kind, side = kind or "", side or ""
            is_array = isinstance(join.this, exp.Unnest)
            if kind not in ("", "CROSS", "INNER", "OUTER") or (is_array and side in ("RIGHT", "FULL")):
                refuse(self.spell(join))
            if bool(on or using) == (kind == "CROSS") and not is_array:
                invalid("JOIN needs ON or USING, CROSS JOIN has neither")
            earlier = len(scope.sources)
            source = self._source(join.this, scope)
            if using:
                condition = " AND ".join(self._using(self.name(name), side, earlier, scope) for name in using)
            else:
                value = self._filter(on, scope) if on else Value("TRUE", BOOL)
                condition = str(value)
                if is_array and side and not value.columns and condition != "TRUE":  # DuckDB has no such join.
                    refuse(self.spell(join))
            sql += f" CROSS JOIN {source}" if kind == "CROSS" else f" {side} JOIN {source} ON {condition}"
        return sql

    def _using(self, name: str, side: str, earlier: int, scope: Scope) -> str:
        """Makes one column of two; returns the condition of the join."""
        key = name.lower()

        def only(sources: Sequence[Source]) -> Value:
            found = [column.value for one in sources for column in one.columns if column.key == key]
            if len(found) != 1 or found[0].type.name not in DUCKDB_TYPES:
                refuse(f"USING ({name}), which is not once on each side")
            return found[0]

        left = scope.merged.get(key) or only(scope.sources[:earlier])
        right = only(scope.sources[earlier:])
        if left.type != right.type:
            refuse(f"USING ({name}) of {left.type} and {right.type}")
        both = combine(f"coalesce({left}, {right})", left.type, [left, right])
        scope.merged[key] = {"": left, "LEFT": left, "RIGHT": right}.get(side, both)
        return f"{left} = {right}"

    def _source(self, node: exp.Expr, scope: Scope) -> str:
        """Adds a table, subquery or array to the scope; returns its SQL."""
        if isinstance(node, exp.Unnest):
            return self._unnest(node, scope)
        alias, own = node.args.get("alias"), self._new_name()
        if alias:
            self.check(alias, "this")
        name = self.name(alias.this) if alias else None
        if isinstance(node, exp.Subquery):
            around = Scope(scope.parent)  # It does not see its neighbours.
            around.relations = scope.relations
            relation = self.query(node, around)
            sql, names = f"({_closed(relation)})", [f"c{index}" for index in range(len(relation.columns))]
            if around.parent:
                scope.outer |= around.outer
        elif isinstance(node, exp.Table):
            self.check(node, "this", "db", "catalog", "alias")
            path = ".".join(map(self.name, node.parts))
            name = name or path.rpartition(".")[2]
            if path.lower() in scope.relations:
                relation = scope.relations[path.lower()]
                sql, names = relation.sql, [f"c{index}" for index in range(len(relation.columns))]
            elif path in self.tables:
                relation = Relation(".".join(map(identifier, path.split("."))), list(self.tables[path]))
                sql, names = relation.sql, [identifier(column or "") for column, _ in relation.columns]
            else:
                raise UserError(f"there is no {path}; the CSV stands for {' and '.join(self.tables)}")
        else:
            refuse(self.spell(node))
        columns = [
            Column(column, _of_row(f"{own}.{spelled}", kind))
            for (column, kind), spelled in zip(relation.columns, names, strict=True)
        ]
        scope.add(Source(name, columns))
        return f"{sql} AS {own}"

    def _unnest(self, node: exp.Unnest, scope: Scope) -> str:
        self.check(node, "expressions", "alias", "offset")
        alias, offset = node.args.get("alias"), node.args.get("offset")
        name = None
        if alias:
            self.check(alias, "this", "columns")
            name = self.name(alias.this or alias.args["columns"][0])
        value = finite(self.value(node.expressions[0], scope))
        if len(node.expressions) != 1 or value.type.name != "ARRAY" or value.rows:
            refuse(self.spell(node))
        own = self._new_name()
        element = _of_row(f"{own}.c0", value.type.element)
        columns = [Column(name, element)]
        if element.type.name == "STRUCT":
            if not all(field for field, _ in element.type.fields):
                refuse("UNNEST of a STRUCT with a field without a name")
            columns = [Column(field, get_field(element, field)) for field, _ in element.type.fields]
        scope.add(Source(name, columns, element if name else None))
        positions = ""
        if offset:
            positions = f", generate_subscripts({value}, 1) - 1 AS c1"
            name, position = self.name(offset), _of_row(f"{own}.c1", INT64)
            scope.add(Source(name, [Column(name, position)], position))
        return f"(SELECT unnest({value}) AS c0{positions}) AS {own}"


def _closed(relation: Relation) -> str:
    """Returns the SQL of a subquery into which DuckDB does not move conditions from outside.

    Otherwise it would compute, to test them, columns of rows that the subquery leaves out, and end with their errors.
    """
    return f"SELECT * FROM ({relation.sql}) LIMIT {2**63 - 1}" if relation.fails else relation.sql


def _of_row(sql: str, kind: Type) -> Value:
    return Value(sql, kind, columns=frozenset([sql]))


def as_result(sql: str, kind: Type) -> str:
    """Returns the SQL of a value as BigQuery hands it over: fields have names, arrays are never NULL and have none."""
    if kind.name == "ARRAY":
        element = as_result("one", kind.element)
        whole = sql if element == "one" else f"list_transform({sql}, lambda one: {element})"
        error = f"CASE WHEN {expand(NULL_ELEMENT, BOOL, safe=False)} THEN NULL END"
        return f"CASE WHEN list_count({sql}) < len({sql}) THEN {error} ELSE coalesce({whole}, []) END"
    if kind.name == "STRUCT":
        values = [
            as_result(f"struct_extract({sql}, 'f{index}')", field) for index, (_, field) in enumerate(kind.fields)
        ]
        names = [identifier(name or f"_field_{index}") for index, (name, _) in enumerate(kind.fields, 1)]
        parts = [f"{name} := {value}" for name, value in zip(names, values, strict=True)]
        return f"CASE WHEN {sql} IS NOT NULL THEN struct_pack({', '.join(parts)}) END"
    return sql
