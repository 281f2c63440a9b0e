"""Rules that depend on a pattern of the query: FORMAT, FORMAT_DATE, PARSE_DATE and regular expressions."""

from collections.abc import Sequence
import re

import duckdb

from metart.common.flags import UserError
from metart.museum.dialect.rules import CASTS, Rule, date_in_range
from metart.museum.dialect.values import Value, constants, refuse

# Elements of FORMAT_DATE: the SQL of their text. Those of a time, which no DATE has, are refused.
DATE_ELEMENTS = {
    "Y": "CAST(year({1}) AS VARCHAR)",
    "F": "CAST({1} AS VARCHAR)",
    "E4Y": "strftime({1}, '%Y')",
    "Q": "CAST(quarter({1}) AS VARCHAR)",
    "e": "lpad(CAST(day({1}) AS VARCHAR), 2, ' ')",
    "C": "lpad(CAST(year({1}) // 100 AS VARCHAR), 2, '0')",
    "D": "strftime({1}, '%m/%d/%y')",
    "x": "strftime({1}, '%m/%d/%y')",
    "h": "strftime({1}, '%b')",
    **{element: f"strftime({{1}}, '%{element}')" for element in "mdBbAajyUWuwVG"},
    "%": "'%'",
    "n": "chr(10)",
    "t": "chr(9)",
}
# Elements of PARSE_DATE: what they match. Next to each other all but the last are of full length.
DATE_DIGITS = {"Y": 4, "m": 2, "d": 2}


def format_rule(pattern: str, types: Sequence[str]) -> Rule | None:
    """Returns the rule of a call of FORMAT with that pattern; None if it has none."""
    sql: list[str] = []
    specs: list[str] = []
    for plain, flags, width, digits, letter in re.findall(
        r"([^%]+|%%)|%([-+ 0']*)([0-9]{0,3})(?:\.(0|[1-9][0-9]?))?([a-zA-Z]?)", pattern
    ):
        if plain:
            sql.append(_quoted(plain.replace("%%", "%")))
            continue
        if not letter or len(specs) == len(types):
            return None
        kind = types[len(specs)]
        specs.append(kind)
        value = f"{{{len(specs)}}}"
        if letter == "t" and not flags + width + digits:
            cast = next(
                (cast.sql.replace("{0}", value) for cast in CASTS if (cast.source, cast.target) == (kind, "STRING")),
                None,
            )
            if cast is None or kind == "BYTES":
                return None
            if kind == "FLOAT64":
                cast = f"regexp_replace({cast}, '^(-?[0-9]+)$', '\\1.0')"
                cast = f"CASE WHEN {value} = 0 AND signbit({value}) THEN '-0.0' ELSE {cast} END"
            sql.append(f"coalesce({cast}, 'NULL')")
        elif letter == "s" and kind == "STRING" and flags in ("", "-"):
            text = f"left({value}, {int(digits)})" if digits else value
            side = "rpad" if flags else "lpad"
            sql.append(f"{side}({text}, CAST(greatest(length({text}), {width}) AS INTEGER), ' ')" if width else text)
        elif letter in "di" and kind == "INT64" and flags == "'" and not width + digits:
            sql.append(f"format('{{{{:,}}}}', {value})")
        elif "'" not in flags and (
            (letter in "di" and kind == "INT64" and not digits)
            or (letter in "fFeE" and kind == "FLOAT64")
            or (letter in "gG" and kind == "FLOAT64" and digits != "0")
        ):
            # + comes before a blank and - before 0; printf of DuckDB takes the last one.
            flags = flags.replace(" ", "" if "+" in flags else " ").replace("0", "" if "-" in flags else "0")
            number = value if letter in "di" else f"{value} + 0.0"  # -0.0 + 0.0 is 0.0, and BigQuery writes no -0.
            text = f"printf('%{flags}{width}{digits and '.'}{digits}{letter.replace('i', 'd')}', {number})"
            if letter in "fF":
                text = f"CASE WHEN abs({value}) > 1e22 THEN refuse('%f of a number above 1e22') ELSE {text} END"
            sql.append(text)
        else:
            return None
    if len(specs) != len(types):
        return None
    return Rule("FORMAT", ", ".join(["literal", *specs]), "STRING", f"({' || '.join(sql) or _quoted('')})")


def format_date_rule(pattern: str) -> Rule | None:
    """Returns the rule of a call of FORMAT_DATE with that pattern; None if it has none."""
    sql = []
    for plain, element in re.findall(r"([^%]+)|%(E4Y|.?)", pattern, re.DOTALL):
        if not plain and element not in DATE_ELEMENTS:
            return None
        sql.append(_quoted(plain) if plain else DATE_ELEMENTS[element])
    return Rule("FORMAT_DATE", "literal, DATE", "STRING", f"({' || '.join([*sql, 'left(CAST({1} AS VARCHAR), 0)'])})")


def parse_date_rule(pattern: str) -> Rule | None:
    """Returns the rule of a call of PARSE_DATE with that pattern; None if it has none."""
    pieces = re.findall(r"%([Ymd])|([^%])", pattern)
    if "".join(f"%{element}" if element else plain for element, plain in pieces) != pattern:
        return None
    elements = [element for element, _ in pieces if element]
    if len(set(elements)) < len(elements) or any(plain.isalnum() or plain.isspace() for _, plain in pieces if plain):
        return None
    regex = ""
    for (element, plain), (following, _) in zip(pieces, [*pieces[1:], ("", "")], strict=True):
        if plain:
            regex += re.escape(plain)
        else:
            digits = DATE_DIGITS[element]
            regex += f"([0-9]{{{digits}}})" if following else f"([0-9]{{1,{digits}}})"
    regex = _quoted(rf"\s*{regex}\s*")
    parts = [
        f"CAST(regexp_extract({{1}}, {regex}, {elements.index(element) + 1}) AS BIGINT)"
        if element in elements
        else default
        for element, default in (("Y", "1970"), ("m", "1"), ("d", "1"))
    ]
    date = date_in_range(f"make_date({', '.join(parts)})")
    sql = (
        f"CASE WHEN regexp_full_match({{1}}, {regex}) THEN {date} WHEN {{1}} IS NOT NULL THEN fail('no such date') END"
    )
    return Rule("PARSE_DATE", "literal, STRING", "DATE", sql)


PROBES = ("", "a", "a b", "1", "\n")  # What can match nothing at all does so in one of them.


def check_regex(name: str, values: Sequence[Value]) -> list[Value]:
    """Checks what a function of regular expressions is called with, and counts the groups of the expression."""
    pattern = values[1].literal if len(values) > 1 else None
    if not isinstance(pattern, str):
        refuse(f"{name} without a pattern that is written out")
    groups, optional = count_groups(pattern)
    try:
        found = [
            constants().execute("SELECT regexp_extract_all(?, ?)", [probe, pattern]).fetchone() for probe in PROBES
        ]
    except duckdb.Error as error:
        raise UserError(f"{name}: {pattern} is no regular expression: {error}") from None
    if name in ("REGEXP_EXTRACT", "REGEXP_SUBSTR", "REGEXP_EXTRACT_ALL"):
        if groups > 1:
            raise UserError(f"{name}: {pattern} has several groups; begin those that you do not ask for with (?:")
        if groups and optional:
            refuse(f"{name} of a group that a match may leave out, {pattern}")
    if name == "REGEXP_EXTRACT_ALL" and any(matches and "" in matches[0] for matches in found):
        refuse(f"{name} of what may be empty, {pattern}")
    if name == "REGEXP_REPLACE" and len(values) > 2 and isinstance(values[2].literal, str):
        for group in re.findall(r"\\(.?)", values[2].literal, re.DOTALL):
            if group not in ("\\", *map(str, range(groups + 1))):
                refuse(f"{name} with \\{group}, which is no group of {pattern}")
    return [value._replace(groups=groups) for value in values]


def count_groups(pattern: str) -> tuple[int, bool]:
    """Returns the number of capturing groups of a regular expression, and whether a match may leave one out."""
    if re.search(r"\\[QpP]", pattern):
        refuse(f"\\Q or \\p in the regular expression {pattern}")
    bare = re.sub(r"\\.", "_", pattern, flags=re.DOTALL)
    bare = re.sub(r"\[\^?\]?(?:\[:\w+:\]|[^\]])*\]", "_", bare)
    groups = len(re.findall(r"\((?!\?)|\(\?P?<", bare))
    while bare != (bare := re.sub(r"\(\?(?!P?<)[^()]*\)", "_", bare)):  # Groups that do not capture, the inner first.
        pass
    always = re.fullmatch(r"[^()|]*\((?:\?P?<\w+>)?[^()]*\)(?![?*{])[^()|]*", bare)
    return groups, not always


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''").replace("{", "{{").replace("}", "}}") + "'"
