"""Translates expressions, as sqlglot parses them, by the rules."""

from collections.abc import Callable, Sequence
import itertools
import re
import time
from typing import Any, ClassVar

from sqlglot import exp
from sqlglot.dialects.bigquery import BigQuery
from sqlglot.parsers.bigquery import BigQueryParser

from metart.museum.dialect import aggregates, dates, functions, rules
from metart.museum.dialect.literals import Spelling
from metart.museum.dialect.names import Relation, Scope, get_field, resolve
from metart.museum.dialect.patterns import check_regex, format_date_rule, format_rule, parse_date_rule
from metart.museum.dialect.rules import Rule
from metart.museum.dialect.values import (
    BOOL,
    BYTES,
    DATE,
    FLOAT64,
    INT64,
    LAZY,
    NULL,
    STRING,
    Type,
    Value,
    array,
    call,
    cast,
    coerce,
    combine,
    common_type,
    finite,
    invalid,
    is_keyword,
    keyword,
    quote,
    refuse,
)

ARRAY_OF_QUERY = "ARRAY OF A QUERY"


class Plain(BigQuery):
    """BigQuery's grammar, with every function left as it is called."""

    class Parser(BigQueryParser):
        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            **{name: BigQueryParser.FUNCTION_PARSERS[name] for name in ("CAST", "SAFE_CAST", "EXTRACT")},
            # Under its own name, ARRAY(SELECT …)[0] would be taken for the array [0].
            "ARRAY": lambda parser: exp.Anonymous(this=ARRAY_OF_QUERY, expressions=[parser._parse_statement()]),
        }
        NO_PAREN_FUNCTIONS: ClassVar[dict[Any, Any]] = {}

        def _build_predicate(
            self, klass: Any, this: Any, expression: Any, comments: Any = None, negate: bool = False
        ) -> exp.Expr:
            """Adds no parentheses, as sqlglot would: what needs them is refused."""
            predicate = klass(this=this, expression=expression)
            if negate:
                predicate.set("negate", True)
            return self.expression(predicate, comments=comments)

        def _parse_limit(self, *arguments: Any, **named: Any) -> exp.Expr | None:
            limit = super()._parse_limit(*arguments, **named)
            if isinstance(limit, exp.Limit) and limit.args.get("offset"):
                self.raise_error("LIMIT with a comma")
            return limit


def by_name(*tables: Sequence[Rule]) -> dict[str, list[Rule]]:
    named: dict[str, list[Rule]] = {}
    for rule in itertools.chain(*tables):
        named.setdefault(rule.name, []).append(rule)
    return named


OPERATORS = by_name(rules.OPERATORS)
FUNCTIONS = by_name(rules.CONDITIONS, functions.NUMBERS, functions.STRINGS, functions.ARRAYS, dates.DATES)
AGGREGATES = by_name(aggregates.AGGREGATES)
WINDOW_FUNCTIONS = by_name(aggregates.WINDOW_FUNCTIONS)

ARITHMETIC = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/"}
# sqlglot has them all on one level, BigQuery on several: mixed, they need parentheses here.
MIXED = {exp.DPipe: "||", exp.BitwiseAnd: "&", exp.BitwiseOr: "|", exp.BitwiseXor: "^"}
RELATIONS = {exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=", exp.Like: "LIKE"}
BINARY: dict[type, str] = dict([*ARITHMETIC.items(), *MIXED.items(), *RELATIONS.items()])
# Not within each other; NOT is part of NOT IN, or binds less than they do.
COMPARISONS = (*RELATIONS, exp.Is, exp.In, exp.Between, exp.NullSafeEQ, exp.NullSafeNEQ, exp.Not)
TYPES = {
    exp.DType.BIGINT: INT64,
    exp.DType.INT: INT64,
    exp.DType.SMALLINT: INT64,
    exp.DType.DOUBLE: FLOAT64,
    exp.DType.BOOLEAN: BOOL,
    exp.DType.TEXT: STRING,
    exp.DType.BINARY: BYTES,
    exp.DType.DATE: DATE,
}

# BigQuery's reserved words; sqlglot takes most of them for names where they are in the way.
RESERVED = re.compile(
    "ALL|AND|ANY|ARRAY|AS|ASC|ASSERT_ROWS_MODIFIED|AT|BETWEEN|BY|CASE|CAST|COLLATE|CONTAINS|CREATE|CROSS|CUBE|"
    "CURRENT|DEFAULT|DEFINE|DESC|DISTINCT|ELSE|END|ENUM|ESCAPE|EXCEPT|EXCLUDE|EXISTS|EXTRACT|FALSE|FETCH|"
    "FOLLOWING|FOR|FROM|FULL|GROUP|GROUPING|GROUPS|HASH|HAVING|IF|IGNORE|IN|INNER|INTERSECT|INTERVAL|INTO|IS|"
    "JOIN|LATERAL|LEFT|LIKE|LIMIT|LOOKUP|MERGE|NATURAL|NEW|NO|NOT|NULL|NULLS|OF|ON|OR|ORDER|OUTER|OVER|PARTITION|"
    "PRECEDING|PROTO|QUALIFY|RANGE|RECURSIVE|RESPECT|RIGHT|ROLLUP|ROWS|SELECT|SET|SOME|STRUCT|TABLESAMPLE|THEN|"
    "TO|TREAT|TRUE|UNBOUNDED|UNION|UNNEST|USING|WHEN|WHERE|WINDOW|WITH|WITHIN",
    re.IGNORECASE,
)


class Expressions:
    """The expressions of one query."""

    def __init__(self, spelling: Spelling) -> None:
        self.strings = spelling.strings
        self.quoted_names = spelling.names

    def value(self, node: exp.Expr, scope: Scope) -> Value:
        method = SYNTAX.get(type(node))
        if not method:
            refuse(self.spell(node))
        return method(self, node, scope)

    def values(self, nodes: Sequence[exp.Expr], scope: Scope) -> list[Value]:
        return [self.value(node, scope) for node in nodes]

    def subquery(self, node: exp.Expr, scope: Scope) -> tuple[Relation, Scope]:
        """Returns a query within the scope, and its own scope."""
        raise NotImplementedError

    def aggregate(self, name: str, nodes: Sequence[exp.Expr], scope: Scope) -> Value:
        raise NotImplementedError

    def spell(self, node: exp.Expr) -> str:
        """Returns a part of the query for a message."""
        sql = re.sub(r"'s([0-9]+)'", lambda match: repr(self.strings[int(match[1])]), node.sql(dialect="bigquery"))
        return sql if len(sql) < 80 else f"{sql[:77]}…"

    def check(self, node: exp.Expr, *known: str) -> None:
        """Refuses a part of the query that says more than is looked at."""
        for name, value in node.args.items():
            if name not in known and value not in (None, False, []):
                refuse(f"{name.strip('_').upper()} in {self.spell(node)}")

    def name(self, node: exp.Expr) -> str:
        """Returns an identifier's name; sqlglot takes a string for one, BigQuery does not."""
        if not isinstance(node, exp.Identifier):
            refuse(self.spell(node))
        if node.args.get("quoted") and node.name not in self.quoted_names:
            invalid("a string where a name belongs")
        if not node.args.get("quoted") and RESERVED.fullmatch(node.name):
            invalid(f"{node.name} where a name belongs")
        return node.name

    def condition(self, node: exp.Expr, scope: Scope) -> Value:
        value = self.value(node, scope)
        if value.literal is None:
            return cast(value, BOOL, safe=False)
        if value.type != BOOL:
            invalid(f"{self.spell(node)} is no BOOL")
        return value

    # Literals and names.

    def literal(self, node: exp.Literal, scope: Scope) -> Value:
        if node.is_string:
            string = self.strings[int(node.name[1:])]
            return Value(quote(string), STRING, constant=True, literal=string)
        if re.fullmatch("[0-9]+", node.name):
            return integer(int(node.name))
        number = float(node.name)
        if number == float("inf"):
            refuse(f"a number as large as {node.name}")
        # With an exponent, lest DuckDB reads a DECIMAL.
        return Value(f"{number!r}{'' if 'e' in repr(number) else 'e0'}", FLOAT64, constant=True, literal=number)

    def hexadecimal(self, node: exp.HexString, scope: Scope) -> Value:
        return integer(int(node.name, 16))

    def bytes(self, node: exp.ByteString, scope: Scope) -> Value:
        content = self.strings[int(node.name[1:])].encode("latin-1")
        return Value(f"unhex('{content.hex()}')", BYTES, constant=True, literal=content)

    def null(self, node: exp.Null, scope: Scope) -> Value:
        return NULL

    def boolean(self, node: exp.Boolean, scope: Scope) -> Value:
        return Value(str(bool(node.this)).upper(), BOOL, constant=True, literal=bool(node.this))

    def array(self, node: exp.Array, scope: Scope, element: Type | None = None) -> Value:
        values = [finite(value) for value in self.values(node.expressions, scope)]
        if not values:
            return (
                Value("[]", array(INT64), constant=True)
                if not element
                else Value(f"CAST([] AS {array(element).duckdb})", array(element), constant=True)
            )
        kind = element or common_type(values)
        elements = [coerce(value, kind) if kind else None for value in values]
        if not kind or None in elements or kind.name == "ARRAY":
            refuse(f"an array of {', '.join(str(value.type) for value in values)}")
        return combine(f"[{', '.join(map(str, elements))}]", array(kind), values)

    def struct(self, nodes: Sequence[exp.Expr], scope: Scope) -> Value:
        names = [
            self.name(node.args["alias"]) if isinstance(node, exp.Alias) else own_name(node) or "" for node in nodes
        ]
        if len({name.lower() for name in names if name}) < len(list(filter(None, names))):
            refuse("a STRUCT with two fields of one name")
        values = [finite(self.value(node.unalias(), scope)) for node in nodes]
        packed = ", ".join(f"f{index} := {value}" for index, value in enumerate(values))
        fields = tuple((name, value.type) for name, value in zip(names, values, strict=True))
        return combine(f"struct_pack({packed})", Type("STRUCT", fields), values)

    def parentheses(self, node: exp.Paren, scope: Scope) -> Value:
        return self.value(node.this, scope)

    def column(self, node: exp.Column, scope: Scope) -> Value:
        self.check(node, "this", "table", "db", "catalog")
        parts = [self.name(part) for part in node.parts]
        if len(parts) == 1 and parts[0].upper() == "CURRENT_DATE":
            return self.function("CURRENT_DATE", [], scope)
        return resolve(scope, *parts)

    def field(self, node: exp.Dot, scope: Scope) -> Value:
        return get_field(self.value(node.this, scope), self.name(node.expression))

    # Operators.

    def operator(self, name: str, *values: Value) -> Value:
        if any(value.literal is None for value in values):
            invalid(f"NULL as an operand of {name}; write IS NULL, or CAST(NULL AS …)")
        return call(OPERATORS.get(name), name, values)

    def operand(self, node: exp.Expr, scope: Scope, mixed: tuple[type, ...] = COMPARISONS) -> Value:
        if isinstance(node, mixed):
            refuse(f"{self.spell(node)} beside another operator without parentheses")
        return self.value(node, scope)

    def binary(self, node: exp.Expr, scope: Scope) -> Value:
        self.check(node, "this", "expression", "safe", "typed", "negate")
        mixed = COMPARISONS
        if type(node) in MIXED:
            mixed = tuple(kind for kind in (*ARITHMETIC, *MIXED) if kind is not type(node))
        operands = [self.operand(operand, scope, mixed) for operand in (node.this, node.expression)]
        value = self.operator(BINARY[type(node)], *operands)
        return self.operator("NOT", value) if node.args.get("negate") else value

    def sign(self, node: exp.Neg, scope: Scope) -> Value:
        if isinstance(node.this, exp.Literal) and re.fullmatch("[0-9]+", node.this.name):
            return integer(-int(node.this.name))
        return self.operator("- (sign)", self.value(node.this, scope))

    def invert(self, node: exp.BitwiseNot, scope: Scope) -> Value:
        return self.operator("~", self.value(node.this, scope))

    def negate(self, node: exp.Not, scope: Scope) -> Value:
        return self.operator("NOT", self.value(node.this, scope))

    def logic(self, node: exp.Connector, scope: Scope) -> Value:
        return self.operator(type(node).__name__.upper(), *(self.condition(one, scope) for one in node.flatten()))

    def is_(self, node: exp.Is, scope: Scope) -> Value:
        name = "IS NULL" if isinstance(node.expression, exp.Null) else f"IS {str(node.expression.this).upper()}"
        return call(OPERATORS.get(name), name, [self.operand(node.this, scope)])

    def is_distinct(self, node: exp.Binary, scope: Scope) -> Value:
        values = [self.operand(operand, scope) for operand in (node.this, node.expression)]
        value = call(OPERATORS["IS DISTINCT FROM"], "IS DISTINCT FROM", values)
        return self.operator("NOT", value) if isinstance(node, exp.NullSafeEQ) else value

    def between(self, node: exp.Between, scope: Scope) -> Value:
        self.check(node, "this", "low", "high")
        operands = [self.operand(node.args[operand], scope) for operand in ("this", "low", "high")]
        return call(OPERATORS["BETWEEN"], "BETWEEN", operands)

    def in_(self, node: exp.In, scope: Scope) -> Value:
        self.check(node, "this", "expressions", "query", "unnest")
        value = self.operand(node.this, scope)
        if unnest := node.args.get("unnest"):
            self.check(unnest, "expressions")
            return call(OPERATORS["IN UNNEST"], "IN UNNEST", [value, *self.values(unnest.expressions, scope)])
        if not node.args.get("query"):
            return call(OPERATORS["IN"], "IN", [value, *self.values(node.expressions, scope)])
        query, inner = self.subquery(node.args["query"], scope)
        kinds = [kind for _, kind in query.columns]
        needle = coerce(finite(value), kinds[0])
        if len(kinds) != 1 or not needle or needle.type.fields:
            refuse(f"{value.type} IN a query of {', '.join(map(str, kinds))}")
        return self._of_query(f"({needle} IN ({query.sql}))", BOOL, inner, needle)

    def element(self, node: exp.Bracket, scope: Scope) -> Value:
        self.check(node, "this", "expressions", "offset", "safe")
        name = f"[{'SAFE_' * bool(node.args.get('safe'))}{'ORDINAL' if node.args.get('offset') else 'OFFSET'}]"
        return call(OPERATORS[name], name, [self.value(node.this, scope), *self.values(node.expressions, scope)])

    # Queries as values.

    def scalar(self, node: exp.Subquery, scope: Scope) -> Value:
        query, inner = self.subquery(node, scope)
        if len(query.columns) != 1:
            invalid("a query of several columns where one value belongs")
        return self._of_query(f"({query.sql})", query.columns[0][1], inner)

    def exists(self, node: exp.Exists, scope: Scope) -> Value:
        query, inner = self.subquery(node.this, scope)
        return self._of_query(f"EXISTS ({query.sql})", BOOL, inner)

    def array_of_query(self, node: exp.Expr, scope: Scope) -> Value:
        query, inner = self.subquery(node, scope)
        if len(query.columns) != 1 or query.columns[0][1].name == "ARRAY":
            invalid("ARRAY takes a query of one column, which is no array")
        return self._of_query(f"ARRAY({query.sql})", array(query.columns[0][1]), inner)

    def _of_query(self, sql: str, kind: Type, inner: Scope, *values: Value) -> Value:
        value = combine(sql, kind, values, fails=True)
        return value._replace(columns=value.columns | inner.outer, constant=False)

    # Conditions, conversions and functions.

    def case(self, node: exp.Case, scope: Scope) -> Value:
        self.check(node, "this", "ifs", "default")
        branches = node.args["ifs"]
        if node.this:
            subject = self.value(node.this, scope)
            conditions = [call(OPERATORS["="], "=", [subject, self.value(one.this, scope)]) for one in branches]
        else:
            conditions = [self.condition(one.this, scope) for one in branches]
        results = [finite(self.value(one.args["true"], scope)) for one in branches]
        results.append(finite(self.value(node.args["default"], scope)) if node.args.get("default") else NULL)
        kind = common_type(results)
        coerced = [value for result in results if kind and (value := coerce(result, kind))]
        if not kind or len(coerced) < len(results):
            refuse(f"CASE with {', '.join(str(result.type) for result in results)}")
        pairs = zip(conditions, coerced, strict=False)
        sql = "".join(f" WHEN {condition} THEN {result}" for condition, result in pairs)
        return combine(f"CASE{sql} ELSE {coerced[-1]} END", kind, [*conditions, *coerced])

    def if_(self, node: exp.If, scope: Scope) -> Value:
        operands = [node.args[operand] for operand in ("this", "true", "false") if node.args.get(operand)]
        return call(FUNCTIONS["IF"], "IF", self.values(operands, scope))

    def cast(self, node: exp.Cast, scope: Scope) -> Value:
        self.check(node, "this", "to", "safe")
        kind = self.type(node.args["to"])
        if kind.name == "ARRAY" and isinstance(node.this, exp.Array):  # ARRAY<STRING>[…].
            return self.array(node.this, scope, kind.element)
        return cast(finite(self.value(node.this, scope)), kind, safe=isinstance(node, exp.TryCast))

    def type(self, node: exp.DataType) -> Type:
        if node.this == exp.DType.ARRAY and len(node.expressions) == 1:
            return array(self.type(node.expressions[0]))
        if node.expressions or node.this not in TYPES:
            refuse(f"the type {self.spell(node)}")
        return TYPES[node.this]

    def extract(self, node: exp.Extract, scope: Scope) -> Value:
        self.check(node, "this", "expression")
        words = [keyword(self.spell(node.this)), keyword("FROM")]
        return call(FUNCTIONS["EXTRACT"], "EXTRACT", [*words, self.value(node.expression, scope)])

    def safe_function(self, node: exp.SafeFunc, scope: Scope) -> Value:
        function = node.this
        if not isinstance(function, exp.Anonymous) or function.name.upper() in (*LAZY, "NULLIF", *AGGREGATES):
            refuse(self.spell(node))
        return self.function(function.name.upper(), function.expressions, scope, safe=True)

    def named_function(self, node: exp.Anonymous, scope: Scope) -> Value:
        self.check(node, "this", "expressions")
        return self.function(node.name.upper(), node.expressions, scope)

    def function(self, name: str, nodes: Sequence[exp.Expr], scope: Scope, safe: bool = False) -> Value:
        if name in AGGREGATES:
            return self.aggregate(name, nodes, scope)
        if name == ARRAY_OF_QUERY:
            return self.array_of_query(nodes[0], scope)
        if name == "STRUCT" and nodes:
            return self.struct(nodes, scope)
        known = FUNCTIONS.get(name, [])
        arguments = self._arguments(known, nodes, scope)
        if name in ("FORMAT", "FORMAT_DATE", "PARSE_DATE"):
            known = [self._pattern_rule(name, arguments)]
        if name.startswith("REGEXP_") and known:
            arguments = check_regex(name, arguments)
        today = "DATE '{:04}-{:02}-{:02}'".format(*time.gmtime()[:3])
        words = {"today": today} if name == "CURRENT_DATE" else {}
        return call(known, f"the function {name}", arguments, safe=safe, words=words)

    def _arguments(self, known: Sequence[Rule], nodes: Sequence[exp.Expr], scope: Scope) -> list[Value]:
        """Returns the arguments of a function; where a rule has a word, such as DAY, they are that."""
        words = {index for rule in known for index, spec in enumerate(rule.specs) if is_keyword(spec)}
        arguments: list[Value] = []
        for node in nodes:
            if isinstance(node, exp.Interval):
                amount, unit = node.this, node.args.get("unit")
                # sqlglot makes a string of a number; strings of the query are called s0, s1, ….
                if isinstance(amount, exp.Literal) and re.fullmatch("-?[0-9]+", amount.name):
                    number = integer(int(amount.name))
                elif isinstance(amount, exp.Literal) and not re.fullmatch("s[0-9]+", amount.name):
                    number = self.value(exp.Literal.number(amount.name), scope)
                else:
                    number = self.value(amount, scope)
                arguments += [keyword("INTERVAL"), number, keyword(self.spell(unit) if unit else "")]
            elif len(arguments) in words:
                arguments.append(keyword(self.spell(node)))
            else:
                arguments.append(self.value(node, scope))
        return arguments

    def _pattern_rule(self, name: str, values: Sequence[Value]) -> Rule:
        pattern = values[0].literal if values else None
        kinds = [str(value.type) for value in values[1:]]
        rule = None
        if isinstance(pattern, str):
            rule = {
                "FORMAT": lambda: format_rule(pattern, kinds),
                "FORMAT_DATE": lambda: format_date_rule(pattern),
                "PARSE_DATE": lambda: parse_date_rule(pattern),
            }[name]()
        if not rule:
            shown = repr(pattern) if isinstance(pattern, str) else "a pattern that is not written out"
            refuse(f"{name} with {shown} and {', '.join(kinds) or 'nothing'}")
        return rule


def integer(number: int) -> Value:
    if not -(2**63) <= number < 2**63:
        invalid(f"{number} is too large for INT64")
    return Value(f"CAST({number} AS BIGINT)", INT64, constant=True, literal=number)


def own_name(node: exp.Expr) -> str | None:
    """Returns the name that a column of a result has from its expression."""
    return node.name if isinstance(node, (exp.Column, exp.Dot)) else None


# What each kind of node is translated by. A kind that is not here is refused.
SYNTAX: dict[type, Callable[[Any, Any, Scope], Value]] = {
    exp.Literal: Expressions.literal,
    exp.HexString: Expressions.hexadecimal,
    exp.ByteString: Expressions.bytes,
    exp.Null: Expressions.null,
    exp.Boolean: Expressions.boolean,
    exp.Array: Expressions.array,
    exp.Paren: Expressions.parentheses,
    exp.Column: Expressions.column,
    exp.Dot: Expressions.field,
    **dict.fromkeys(BINARY, Expressions.binary),
    exp.Neg: Expressions.sign,
    exp.BitwiseNot: Expressions.invert,
    exp.Not: Expressions.negate,
    exp.And: Expressions.logic,
    exp.Or: Expressions.logic,
    exp.Is: Expressions.is_,
    exp.NullSafeEQ: Expressions.is_distinct,
    exp.NullSafeNEQ: Expressions.is_distinct,
    exp.Between: Expressions.between,
    exp.In: Expressions.in_,
    exp.Bracket: Expressions.element,
    exp.Subquery: Expressions.scalar,
    exp.Exists: Expressions.exists,
    exp.Case: Expressions.case,
    exp.If: Expressions.if_,
    exp.Cast: Expressions.cast,
    exp.TryCast: Expressions.cast,
    exp.Extract: Expressions.extract,
    exp.SafeFunc: Expressions.safe_function,
    exp.Anonymous: Expressions.named_function,
}
