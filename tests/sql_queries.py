"""Random whole queries of all clauses that metart/museum/dialect allows."""

from collections.abc import Mapping, Sequence
from random import Random

from sql_grammar import TABLE, Grammar, column_names

TAGS = "UNNEST(SPLIT(o.tags, '|')) AS tag WITH OFFSET AS pos"
STRUCTS = ", ".join(
    f"STRUCT({number} AS n, {string} AS s, {boolean} AS b)"
    for number, string, boolean in (
        ("1", "'x'", "TRUE"),
        ("2", "CAST(NULL AS STRING)", "FALSE"),
        ("CAST(NULL AS INT64)", "'y'", "CAST(NULL AS BOOL)"),
        ("2", "'x'", "TRUE"),
    )
)

Columns = Mapping[str, Sequence[str]]


def merge(*columns: Columns) -> dict[str, list[str]]:
    merged: dict[str, list[str]] = {}
    for one in columns:
        for kind, names in one.items():
            merged.setdefault(kind, []).extend(names)
    return merged


class Queries:
    """Writes whole queries; the result of each is the same whatever BigQuery leaves open."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng

    def chance(self, one_in: int) -> bool:
        return self.rng.randrange(one_in) == 0

    def pick(self, *options: str) -> str:
        return self.rng.choice(options)

    def any(self) -> str:
        kinds = [self.plain, self.plain, self.grouped, self.grouped, self.windows, self.union, self.arrays]
        return self.rng.choice(kinds)()

    def source(self) -> tuple[str, Columns]:
        """Returns what comes after FROM, and its columns."""
        kinds = [self.one_table, self.joined, self.crossed, self.tags, self.using, self.inner, self.numbers]
        return self.rng.choice([*kinds, self.structs])()

    def one_table(self) -> tuple[str, Columns]:
        return TABLE, column_names()

    def joined(self) -> tuple[str, Columns]:
        same = "o.object_id = p.object_begin_date"
        on = self.pick(same, "o.culture = p.culture", "o.department = p.department AND p.object_id < 5")
        join = self.pick("JOIN", "INNER JOIN", "LEFT JOIN", "RIGHT OUTER JOIN", "FULL JOIN")
        return f"{TABLE} AS o {join} {TABLE} p ON {on}", merge(column_names("o."), column_names("p."))

    def crossed(self) -> tuple[str, Columns]:
        where = self.pick("p.object_id < 4", "o.object_id = p.object_end_date", "o.tags < p.tags")
        few = f"(SELECT * FROM {TABLE} AS p WHERE object_id < 6) AS p"
        source = f"{TABLE} o{self.pick(',', ' CROSS JOIN')} {few} WHERE {where}"
        return source, merge(column_names("o."), column_names("p."))

    def tags(self) -> tuple[str, Columns]:
        join = self.pick(",", " LEFT JOIN", " CROSS JOIN", " INNER JOIN")
        columns = merge(column_names("o."), {"STRING": ["tag"] * 5, "INT64": ["pos"] * 3})
        return f"{TABLE} AS o{join} {TAGS}", columns

    def using(self) -> tuple[str, Columns]:
        join = self.pick("JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN")
        key = self.pick("object_id", "culture", "department", "is_highlight")
        right = f"(SELECT {key}, COUNT(*) AS n, MAX(title) AS last_title FROM {TABLE} GROUP BY 1)"
        own = column_names("o.")
        kind = next(kind for kind, names in own.items() if f"o.{key}" in names)
        own[kind].remove(f"o.{key}")
        others = {"INT64": ["n", "q.n"], "STRING": ["q.last_title"]}
        return f"{TABLE} o {join} {right} q USING ({key})", merge(own, {kind: [key] * 3}, others)

    def inner(self) -> tuple[str, Columns]:
        number = self.pick("object_begin_date", "LENGTH(title)", "object_id * 2")
        string = self.pick("culture", "REVERSE(tags)", "NULLIF(department, 'Drawings')")
        where = Grammar(self.rng, column_names()).expression("BOOL", 1)
        listed = f"object_id, {number} AS a, {string} AS b, is_highlight OR title IS NULL c"
        columns = {"INT64": ["object_id", "s.a", "a"], "STRING": ["b"], "BOOL": ["s.c"]}
        return f"(SELECT {listed} FROM {TABLE} WHERE {where}) AS s", columns

    def numbers(self) -> tuple[str, Columns]:
        numbers = self.pick("GENERATE_ARRAY(1, 6)", "[3, 1, NULL, 3]", f"ARRAY(SELECT object_id FROM {TABLE})")
        return f"UNNEST({numbers}) AS i WITH OFFSET", {"INT64": ["i", "offset"]}

    def structs(self) -> tuple[str, Columns]:
        return f"UNNEST([{STRUCTS}]) AS u", {"INT64": ["n", "u.n"], "STRING": ["s"], "BOOL": ["u.b"]}

    def conditions(self, source: str, grammar: Grammar) -> str:
        """Returns a WHERE clause, with queries inside, or none."""
        if self.chance(3):
            return ""
        condition = grammar.expression("BOOL", 2)
        number, string = grammar.expression("INT64", 1), grammar.expression("STRING", 0)
        maximum = self.pick("MAX", "MIN", "COUNT")
        condition = self.pick(
            condition,
            condition,
            f"{number} {self.pick('', 'NOT ')}IN (SELECT z.object_end_date FROM {TABLE} z)",
            f"{self.pick('', 'NOT ')}EXISTS (SELECT 1 FROM {TABLE} z WHERE z.culture = {string})",
            f"{number} < (SELECT {maximum}(z.object_id) FROM {TABLE} z WHERE z.object_id <> 3)",
            f"{string} IN UNNEST(['Japan', 'Bowl', 'x', 'a'])",
        )
        return f" {'AND' if ' WHERE ' in source.rpartition(')')[2] else 'WHERE'} ({condition})"

    def ending(self, count: int) -> str:
        """Returns an order by all columns, and perhaps a limit."""
        keys = ", ".join(
            f"{number}{self.pick('', ' DESC', ' ASC')}{self.pick('', '', ' NULLS FIRST', ' NULLS LAST')}"
            for number in self.rng.sample(range(1, count + 1), count)
        )
        limit = f" LIMIT {self.rng.randint(0, 9)}{self.pick('', ' OFFSET 2')}"
        return f" ORDER BY {keys}{self.pick('', '', limit)}"

    def plain(self) -> str:
        source, columns = self.source()
        grammar = Grammar(self.rng, columns)
        kinds = self.rng.choices(["INT64", "STRING", "BOOL", "FLOAT64", "DATE"], k=self.rng.randint(1, 4))
        listed = [
            f"{grammar.expression(kind, self.rng.randint(0, 2))}{self.pick(f' AS x{number}', f' x{number}')}"
            for number, kind in enumerate(kinds)
        ]
        where = self.conditions(source, grammar)
        if source == TABLE and self.chance(3):
            listed.append(self.pick("*", "* EXCEPT (tags, culture)", "* REPLACE (object_id + 1 AS object_id)"))
            return f"SELECT {', '.join(listed)} FROM {source}{where} ORDER BY object_id"
        distinct = self.pick("", "", "DISTINCT ")
        return f"SELECT {distinct}{', '.join(listed)} FROM {source}{where}{self.ending(len(kinds))}"

    def aggregate(self, grammar: Grammar) -> str:
        """Returns a call of an aggregate function whose result does not depend on the order of the rows."""
        number, string, boolean, date = (grammar.expression(kind, 1) for kind in ("INT64", "STRING", "BOOL", "DATE"))
        small, real = f"MOD({number}, 1000)", grammar.expression("FLOAT64", 1)
        value = self.pick(number, string, boolean, date)
        distinct = self.pick("", "", "DISTINCT ")
        separator = self.pick("", ", '; '")
        order = f"ORDER BY {string}{self.pick('', ' DESC', ' ASC NULLS LAST', ' DESC NULLS FIRST')}"
        order += self.pick("", " LIMIT 2", " LIMIT 0")
        return self.pick(
            "COUNT(*)",
            f"COUNT({distinct}{value})",
            f"COUNTIF({boolean})",
            f"SUM({distinct}{small})",
            f"AVG({distinct}{small})",
            f"SUM({real})",
            f"MIN({value})",
            f"MAX({value})",
            f"LOGICAL_AND({boolean})",
            f"LOGICAL_OR({boolean})",
            f"BIT_AND({number})",
            f"BIT_OR({distinct}{number})",
            f"BIT_XOR({number})",
            f"STRING_AGG({distinct}{string}{separator} {order})",
            f"ARRAY_TO_STRING(ARRAY_AGG({distinct}{string} {order}), '|', '?')",
            f"ARRAY_AGG({string} IGNORE NULLS {order})",
            f"ARRAY_LENGTH(ARRAY_AGG({distinct}{value}))",
        )

    def grouped(self) -> str:
        source, columns = self.source()
        grammar = Grammar(self.rng, columns)
        where = self.conditions(source, grammar)
        kinds = self.rng.choices(["STRING", "BOOL", "INT64"], k=self.rng.randint(0, 2))
        listed = [f"{grammar.expression(kind, self.rng.randint(0, 1))} AS k{n}" for n, kind in enumerate(kinds)]
        listed += [self.aggregate(grammar) for _ in range(self.rng.randint(1, 2))]
        group = having = ""
        if kinds:
            names = ", ".join(self.pick(f"k{n}", str(n + 1)) for n in range(len(kinds)))
            sets = self.pick(f"ROLLUP ({names})", f"CUBE ({names})", f"GROUPING SETS ({names}, ())")
            group = f" GROUP BY {self.pick(names, names, sets)}"
            having = " HAVING k0 IS NOT NULL"
        having = self.pick("", having, " HAVING COUNT(*) > 1", f" HAVING MAX({grammar.leaf('STRING')}) IS NOT NULL")
        return f"SELECT {', '.join(listed)} FROM {source}{where}{group}{having}"

    def windows(self) -> str:
        grammar = Grammar(self.rng, column_names())
        qualify = self.chance(3)
        depth = 0 if qualify else 1  # What rows QUALIFY leaves to be computed is open.
        value = grammar.expression(self.pick("INT64", "STRING", "BOOL"), depth)
        string, boolean = (grammar.expression(kind, depth) for kind in ("STRING", "BOOL"))
        small = f"MOD({grammar.expression('INT64', depth)}, 1000)"
        partition = self.pick("", f"PARTITION BY {grammar.expression(self.pick('STRING', 'BOOL'), depth)} ")
        key = grammar.expression(self.pick("STRING", "INT64", "FLOAT64"), depth)
        loose = f"{partition}ORDER BY {key}{self.pick('', ' DESC', ' DESC NULLS LAST')}"
        strict = f"{loose}, object_id"
        by_value = " RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING"
        frame = self.pick(
            "",
            " ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING",
            " ROWS UNBOUNDED PRECEDING",
            " ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING",
            by_value,
        )
        nulls = self.pick("", " IGNORE NULLS", " RESPECT NULLS")
        calls = [
            f"ROW_NUMBER() OVER ({strict})",
            f"RANK() OVER ({loose})",
            f"DENSE_RANK() OVER ({loose})",
            f"PERCENT_RANK() OVER ({loose})",
            f"CUME_DIST() OVER ({loose})",
            f"NTILE(3) OVER ({strict})",
            f"LAG({value}) OVER ({strict})",
            f"LEAD({value}, 2) OVER ({strict})",
            f"LAG({value}, 1, NULL) OVER ({strict})",
            f"FIRST_VALUE({value}{nulls}) OVER ({strict}{frame})",
            f"LAST_VALUE({value}{nulls}) OVER ({strict}{frame})",
            f"NTH_VALUE({value}, 2{nulls}) OVER ({strict}{frame})",
            f"SUM({small}) OVER ({strict}{frame})",
            f"COUNT({value}) OVER ({loose}{self.pick('', by_value)})",
            f"COUNT({value}) OVER ({strict}{frame})",
            f"MAX({value}) OVER ({strict}{frame})",
            f"MIN({value}) OVER ({partition.strip()})",
            f"AVG({small}) OVER ({partition.strip()})",
            f"COUNT(*) OVER ({strict}{frame})",
            f"STRING_AGG({string}) OVER ({strict}{frame})",
            f"COUNTIF({boolean}) OVER w",
            f"LOGICAL_OR({boolean}) OVER (w)",
        ]
        listed = self.rng.sample(calls, 2)
        window = f" WINDOW w AS ({strict})" if any(call in calls[-2:] for call in listed) else ""
        where = ""
        if qualify:
            condition = self.pick("TRUE", grammar.expression("BOOL", depth))
            where = f" WHERE {condition} QUALIFY ROW_NUMBER() OVER ({strict}) <= 2"
        return f"SELECT object_id, {', '.join(listed)} FROM {TABLE}{where}{window} ORDER BY object_id"

    def union(self) -> str:
        kinds = self.rng.choices(["INT64", "STRING", "BOOL"], k=self.rng.randint(1, 2))

        def side() -> str:
            source, columns = self.source()
            grammar = Grammar(self.rng, columns)
            wider = ["FLOAT64" if kind == "INT64" and self.chance(4) else kind for kind in kinds]
            listed = [f"{grammar.expression(one, 1)} AS x{number}" for number, one in enumerate(wider)]
            return f"SELECT {', '.join(listed)} FROM {source}{self.conditions(source, grammar)}"

        operator = self.pick("UNION ALL", "UNION DISTINCT", "INTERSECT DISTINCT", "EXCEPT DISTINCT")
        both = f"({side()}) {operator} ({side()})"
        if self.chance(2):
            return both + self.ending(len(kinds))
        counted = f"WITH q AS (SELECT COUNT(*) AS n, 1 AS one FROM ({both}))"
        return f"{counted} SELECT q.n, one, z.n m FROM q JOIN q AS z USING (one)"

    def arrays(self) -> str:
        grammar = Grammar(self.rng, column_names("o."))
        inner = Grammar(self.rng, merge(column_names("o."), {"STRING": ["tag"] * 6, "INT64": ["pos"] * 4}))
        string, where, position = (inner.expression(*kind) for kind in (("STRING", 1), ("BOOL", 1), ("INT64", 0)))
        order = f"ORDER BY pos{self.pick('', ' DESC')}"
        structs = f"SELECT AS STRUCT tag, pos AS p FROM {TAGS}"
        value = self.pick(
            f"ARRAY(SELECT {string} FROM {TAGS} WHERE {string} IS NOT NULL AND {where} {order})",
            f"(SELECT COUNT(*) FROM {TAGS} WHERE {where})",
            f"(SELECT STRING_AGG({string}, '/' ORDER BY {string}) FROM {TAGS})",
            f"EXISTS (SELECT 1 FROM {TAGS} WHERE {where})",
            f"(SELECT tag FROM {TAGS} WHERE pos = {position})",
            f"{grammar.expression('STRING', 1)} IN (SELECT tag FROM {TAGS})",
            f"ARRAY({structs} WHERE pos < 2 ORDER BY pos)",
            f"ARRAY({structs} ORDER BY pos)[SAFE_OFFSET(1)].tag",
            "STRUCT(o.title AS t, o.object_id AS i).i",
        )
        return f"SELECT o.object_id, {value} AS v FROM {TABLE} AS o{self.conditions('', grammar)} ORDER BY 1"
