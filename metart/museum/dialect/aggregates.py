"""The allow-list of aggregate and window functions."""

from metart.museum.dialect.rules import Rule

# {over} is the window, if any. {distinct}, {order}, {filter} or {ignore} (IGNORE NULLS), {cut} and {uncut} (LIMIT) are
# for what a query may say inside the parentheses; where a rule does not have them, the query must not.
SUM_NOTE = "the last digit may differ, as from one run to the next on BigQuery"

AGGREGATES = [
    Rule("COUNT(*)", "", "INT64", "count(*){over}"),
    Rule("COUNT", "T", "INT64", "count({distinct}{0}){over}"),
    Rule("COUNTIF", "BOOL", "INT64", "count({distinct}CASE WHEN {0} THEN TRUE END){over}"),
    Rule("SUM", "INT64", "INT64", "try(CAST(sum({distinct}{0}){over} AS BIGINT))"),
    Rule("SUM", "FLOAT64", "FLOAT64", "sum({distinct}{0}){over}", SUM_NOTE),
    Rule("AVG", "INT64", "FLOAT64", "avg({distinct}{0}){over}"),
    Rule("AVG", "FLOAT64", "FLOAT64", "avg({distinct}{0}){over}", SUM_NOTE),
    Rule("GROUPING", "O", "INT64", "grouping({0})"),
    Rule("MIN", "O", "O", "min({0}){over}"),
    Rule("MAX", "O", "O", "max({0}){over}"),
    Rule("LOGICAL_AND", "BOOL", "BOOL", "bool_and({0}){over}"),
    Rule("LOGICAL_OR", "BOOL", "BOOL", "bool_or({0}){over}"),
    Rule("BIT_AND", "INT64", "INT64", "bit_and({distinct}{0})"),
    Rule("BIT_OR", "INT64", "INT64", "bit_or({distinct}{0})"),
    Rule("BIT_XOR", "INT64", "INT64", "bit_xor({distinct}{0})"),
    Rule("ANY_VALUE", "T", "T", "any_value({0}){over}", "any of them, on BigQuery too"),
    Rule(
        "STRING_AGG",
        "STRING",
        "STRING",
        "array_to_string({cut}list({distinct}{0}{order}) FILTER ({0} IS NOT NULL){over}{uncut}, ',')",
        "in any order without ORDER BY, on BigQuery too",
    ),
    Rule(
        "STRING_AGG",
        "STRING, literal",
        "STRING",
        "array_to_string({cut}list({distinct}{0}{order}) FILTER ({0} IS NOT NULL){over}{uncut}, {1})",
    ),
    Rule(
        "ARRAY_AGG",
        "T",
        "ARRAY<T>",
        "{cut}list({distinct}{0}{order}){filter}{over}{uncut}",
        "in any order without ORDER BY, on BigQuery too",
    ),
]

WINDOW_FUNCTIONS = [
    *(Rule(name, "", "INT64", f"{name.lower()}(){{over}}") for name in ("ROW_NUMBER", "RANK", "DENSE_RANK")),
    *(Rule(name, "", "FLOAT64", f"{name.lower()}(){{over}}") for name in ("PERCENT_RANK", "CUME_DIST")),
    Rule("NTILE", "count", "INT64", "ntile({0}){over}"),
    *(
        rule
        for name in ("LAG", "LEAD")
        for rule in (
            Rule(name, "T", "T", f"{name.lower()}({{0}}){{over}}"),
            Rule(name, "T, count", "T", f"{name.lower()}({{0}}, {{1}}){{over}}"),
            Rule(name, "T, count, T", "T", f"{name.lower()}({{0}}, {{1}}, {{2}}){{over}}"),
        )
    ),
    *(Rule(name, "T", "T", f"{name.lower()}({{0}}{{ignore}}){{over}}") for name in ("FIRST_VALUE", "LAST_VALUE")),
    Rule("NTH_VALUE", "T, count", "T", "nth_value({0}, {1}{ignore}){over}"),
]
