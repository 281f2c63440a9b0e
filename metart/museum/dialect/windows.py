"""Translates aggregate and window functions, and ORDER BY, which both may have inside."""

from collections.abc import Sequence
import re

from sqlglot import exp

from metart.museum.dialect.expressions import AGGREGATES, SYNTAX, WINDOW_FUNCTIONS, Expressions
from metart.museum.dialect.names import Column, Scope
from metart.museum.dialect.rules import Rule
from metart.museum.dialect.values import FLOAT64, Rows, Value, call, finite, invalid, refuse

EDGES = ["UNBOUNDED PRECEDING", "n PRECEDING", "CURRENT ROW", "n FOLLOWING", "UNBOUNDED FOLLOWING"]  # Of frames.


class Windows(Expressions):
    """Expressions on many rows."""

    def aggregate(self, name: str, nodes: Sequence[exp.Expr], scope: Scope) -> Value:
        value = self._over_rows(AGGREGATES[name], nodes, scope, "")
        if value.rows:
            invalid(f"an aggregate or window function inside {name}")
        scope.aggregates = True
        if value.outer and not value.columns:  # To DuckDB it is the query around that is aggregated.
            refuse(f"{name} of nothing but columns of a query around it")
        return value._replace(columns=frozenset(), rows=Rows.GROUP)

    def window(self, node: exp.Window, scope: Scope) -> Value:
        self.check(node, "this", "partition_by", "order", "spec", "alias", "over")
        function, alias = node.this, node.args.get("alias")
        name = function.name.upper() if isinstance(function, exp.Anonymous) else ""
        rules = [rule for rule in (WINDOW_FUNCTIONS.get(name) or AGGREGATES.get(name, [])) if "{over}" in rule.sql]
        if not rules:
            refuse(self.spell(node))
        window: exp.Expr = node
        if alias:
            named = scope.windows.get(self.name(alias).lower())
            if not named or any(node.args.get(part) for part in ("partition_by", "order", "spec")):
                refuse(f"the window {self.spell(node)}")
            window = named
        partition = [finite(value) for value in self.values(window.args.get("partition_by") or [], scope)]
        if any(value.type.fields or value.type == FLOAT64 for value in partition):
            invalid("PARTITION BY a FLOAT64, an ARRAY or a STRUCT")
        over = f"PARTITION BY {', '.join(map(str, partition))}" if partition else ""
        order = window.args.get("order")
        keys = [self.value(one.this, scope) for one in order.expressions] if order else []
        over += self.order(order.expressions, scope) if order else ""
        if spec := window.args.get("spec"):
            over += self._frame(spec, bool(order))
        value = self._over_rows(rules, function.expressions, scope, f" OVER ({over.strip()})")
        if any(one.rows == Rows.WINDOW for one in (value, *partition, *keys)):
            invalid(f"a window function inside another, {self.spell(node)}")
        return value._replace(
            columns=value.columns.union(*(one.columns for one in (*partition, *keys))), rows=Rows.WINDOW
        )

    def _frame(self, node: exp.WindowSpec, ordered: bool) -> str:
        self.check(node, "kind", "start", "start_side", "end", "end_side")

        def edge(name: str) -> str:
            bound, side = node.args.get(name) or "CURRENT ROW", node.args.get(f"{name}_side")
            if isinstance(bound, exp.Expr):
                if not side:
                    invalid(f"{bound.name} without PRECEDING or FOLLOWING")
                if node.args["kind"] != "ROWS" or not re.fullmatch("[0-9]+", bound.name):
                    refuse("RANGE with numbers")
                bound = bound.name
            return f"{bound} {side or ''}".strip()

        if node.args["kind"] not in ("ROWS", "RANGE") or not ordered:
            refuse(f"a window without ORDER BY, or by {node.args['kind']}")
        start, end = edge("start"), edge("end")
        places = [EDGES.index(re.sub("^[0-9]+", "n", each)) for each in (start, end)]
        if places[0] == len(EDGES) - 1 or places[1] == 0 or places[0] > places[1]:
            invalid(f"a frame from {start} to {end}")
        return f" {node.args['kind']} BETWEEN {start} AND {end}"

    def _over_rows(self, rules: Sequence[Rule], nodes: Sequence[exp.Expr], scope: Scope, over: str) -> Value:
        """Returns the value of a function of many rows, by a rule that knows all that its call asks for."""
        name = rules[0].name
        if name == "COUNT" and len(nodes) == 1 and isinstance(nodes[0], exp.Star):
            self.check(nodes[0])
            return call(AGGREGATES["COUNT(*)"], "COUNT(*)", [], words={"over": over})._replace(constant=False)
        words = dict.fromkeys(("distinct", "order", "filter", "ignore", "cut", "uncut"), "")
        nodes = list(nodes)
        for index, node in enumerate(nodes):
            if isinstance(node, exp.Limit):
                if self.number(node) == "0":
                    refuse(f"LIMIT 0 inside {name}")
                words |= {"cut": "list_slice(", "uncut": f", 1, {self.number(node)})"}
                node = node.this
            if isinstance(node, exp.Order):
                if any(isinstance(key.this, exp.Literal) for key in node.expressions):
                    invalid(f"ORDER BY a literal inside {name}")
                words["order"] = self.order(node.expressions, scope)
                node = node.this
            if isinstance(node, exp.IgnoreNulls):
                words |= {"filter": " FILTER ({0} IS NOT NULL)", "ignore": " IGNORE NULLS"}
            if isinstance(node, (exp.IgnoreNulls, exp.RespectNulls)):
                node = node.this
            nodes[index] = node
        if len(nodes) == 1 and isinstance(nodes[0], exp.Distinct):
            self.check(nodes[0], "expressions")
            words["distinct"] = "DISTINCT "
            nodes = nodes[0].expressions
        if over and (words["order"] or words["cut"] or (words["distinct"] and words["filter"])):
            invalid(f"ORDER BY or LIMIT inside {name} with OVER")
        asked = {word for word, sql in words.items() if sql} - {"filter", "ignore"}
        fitting = [
            rule
            for rule in rules
            if all(f"{{{word}}}" in rule.sql for word in asked)
            and (not words["filter"] or "{filter}" in rule.sql or "{ignore}" in rule.sql)
        ]
        values = self.values(nodes, scope)
        if words["distinct"] and values and values[0].type.fields:
            invalid(f"{name} of DISTINCT {values[0].type.name}")
        if name in WINDOW_FUNCTIONS and values and values[0].may_be_null:
            refuse(f"{name} of a constant")
        if name in ("LAG", "LEAD") and len(values) > 2 and not values[2].constant:
            invalid(f"{name} with a default that is no constant")
        words["filter"] = words["filter"].format(*(finite(value) for value in values))
        asks = " ".join(sorted(word for word in asked if word != "uncut")).upper()
        return call(fitting, f"{name} {asks}".strip(), values, words={**words, "over": over})._replace(constant=False)

    def number(self, node: exp.Limit | exp.Offset) -> str:
        """Returns the number of LIMIT or OFFSET."""
        self.check(node, "this", "expression")
        count = node.expression
        if not isinstance(count, exp.Literal) or count.is_string or not re.fullmatch("[0-9]+", count.name):
            refuse(self.spell(node))
        return count.name

    def order(
        self,
        nodes: Sequence[exp.Expr],
        scope: Scope,
        outputs: Sequence[Column] = (),
        only_outputs: bool = False,
    ) -> str:
        """Returns ORDER BY and what comes after it, with NULL where BigQuery sorts it.

        Args:
            outputs: The columns of the result, for which numbers stand.
            only_outputs: The rows have no other columns, after DISTINCT and UNION.
        """
        items = []
        for node in nodes:
            self.check(node, "this", "desc", "nulls_first")
            key = node.this
            position = 0
            if isinstance(key, exp.Literal) and outputs:
                position = int(key.name) if key.name.isdecimal() else 0
                if not 1 <= position <= len(outputs):
                    invalid(f"ORDER BY {self.spell(key)}, which is no column of the result")
            elif only_outputs:
                names = [column.key for column in outputs]
                if not isinstance(key, exp.Column) or len(key.parts) > 1 or names.count(key.name.lower()) != 1:
                    refuse(f"ORDER BY {self.spell(key)} after DISTINCT or a set operation")
                position = names.index(key.name.lower()) + 1
            value = outputs[position - 1].value if position else finite(self.value(key, scope))
            if value.type.fields:
                invalid(f"ORDER BY an {value.type.name}")
            if position or not value.constant or value.fails:  # Constants do not sort.
                direction = "DESC" if node.args.get("desc") else "ASC"
                nulls = "FIRST" if node.args.get("nulls_first") else "LAST"
                items.append(f"{position or value} {direction} NULLS {nulls}")
        return f" ORDER BY {', '.join(items)}" if items else ""


SYNTAX[exp.Window] = Windows.window
