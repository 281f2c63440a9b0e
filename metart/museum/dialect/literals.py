"""Reads BigQuery's string literals, which sqlglot does not decode as BigQuery does."""

import re
from typing import NamedTuple

from metart.museum.dialect.values import invalid, refuse

# A comment, a name in backquotes, a string or bytes literal, or any other character.
TOKEN = re.compile(
    r"""
    (?P<comment> \#[^\n]* | --[^\n]* | /\*.*?\*/ )
    | (?P<name> `[^`\\\n]*` )
    | (?P<prefix> \b(?:r|b|rb|br) )?
      (?P<quoted> '{3} (?:\\.|[^\\])*? '{3} | "{3} (?:\\.|[^\\])*? "{3} | '(?:\\.|[^\\'\n])*' | "(?:\\.|[^\\"\n])*" )
    | (?P<word> [A-Za-z_0-9]+ )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
ESCAPE = re.compile(r"\\(?:[xX]([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)
SINGLE = dict(zip("abfnrtv\\?\"'`", "\a\b\f\n\r\t\v\\?\"'`", strict=True))
# What has no rule, or is another dialect's; sqlglot takes some of it for what it is not.
FOREIGN = re.compile(r"[^\x20-\x7e\t\n\r]|[@$%{}\\:?]|==|!(?!=)|->|=>|\|>|&&|//|\*\*|~\*|<=>")
# What sqlglot passes over: commas and words without what belongs behind them, numbers that end in letters.
MISPLACED = re.compile(
    r",\s*([)\]]|;?\s*$|(?i:as|group|having|intersect|limit|order|qualify|union|where)\b)|[,([+/-]\s*,"
    r"|\b(?i:and|as|between|by|distinct|else|from|in|is|like|limit|not|on|or|select|then|when|where)\s*([,)\]]|;?\s*$)"
    r"|\b(?i:as)\b\s*[0-9.]"
    r"|(?<![\w.])(?!0[xX])[0-9]++\.?+[0-9]*+([eE][-+]?[0-9]+)?+[A-Za-z_]+"
)


class Spelling(NamedTuple):
    """A query whose literals are 's0', 's1', …, and what they stand for."""

    sql: str
    strings: list[str]
    names: set[str]  # In backquotes.


def read_literals(sql: str) -> Spelling:
    """Takes the comments and the literals out of a query.

    Raises:
        UserError: A literal is not BigQuery's, something is missing or out of place, or there is a character that
            BigQuery's SQL has no use for.
    """
    strings: list[str] = []
    names: set[str] = set()
    pieces = []
    for token in TOKEN.finditer(sql):
        kind = token.lastgroup
        if kind == "comment":
            pieces.append(" ")
        elif kind == "name":
            if token.group() == "``":
                invalid("an empty name")
            names |= {token.group()[1:-1], *token.group()[1:-1].split(".")}  # Of a path, too.
            pieces.append(token.group())
        elif kind == "quoted":
            prefix = (token["prefix"] or "").lower()
            quoted = token["quoted"]
            width = 3 if quoted[:3] in ("'''", '"""') and len(quoted) >= 6 else 1
            strings.append(_decode(quoted[width:-width], prefix))
            pieces.append(f" {'b' * ('b' in prefix)}'s{len(strings) - 1}' ")
        else:
            pieces.append(token.group())
    plain = re.sub(r"'s[0-9]+'", "0", re.sub("`[^`]*`", "x", "".join(pieces)))
    if quote := re.search(r"['\"`]", plain):
        invalid(f"{quote.group()} without an end")
    if plain.count("(") != plain.count(")") or plain.count("[") != plain.count("]"):
        invalid("a bracket without its other half")
    if misplaced := MISPLACED.search(plain):
        invalid(f"something is missing or out of place at {misplaced.group()!r}")
    if foreign := FOREIGN.search(plain):
        refuse(foreign.group())
    return Spelling("".join(pieces), strings, names)


def _decode(body: str, prefix: str) -> str:
    """Returns the value of a literal; one character for each byte of a bytes literal."""
    body = body.replace("\r\n", "\n").replace("\r", "\n")
    if "b" in prefix:
        body = body.encode().decode("latin-1")
    if "r" in prefix:
        return body

    def unescape(match: re.Match[str]) -> str:
        short, *wide, octal, single = match.groups()
        code = next((int(digits, 16) for digits in (short, *wide) if digits), None)
        if octal:
            code = int(octal, 8)
        if single:
            if single not in SINGLE:
                invalid(f"there is no escape \\{single}; write r'…' or \\\\{single}")
            return SINGLE[single]
        assert code is not None
        limit = 0xFF if "b" in prefix else 0x10FFFF
        if code > limit or 0xD800 <= code < 0xE000 or ("b" in prefix and any(wide)) or (octal and code > 0xFF):
            invalid(f"{match.group()} is no character")
        return chr(code)

    return ESCAPE.sub(unescape, body)
