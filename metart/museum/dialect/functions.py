"""The allow-list of functions of numbers, strings and arrays."""

from metart.museum.dialect.rules import JOINED_ARRAYS, Rule

LONGEST = 1 << 20  # What LPAD, RPAD and REPEAT make is not longer.

# Unicode's White_Space, which TRIM removes; DuckDB's own takes blanks only.
SPACES = "'\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B))) + "'"
# Letters whose other case is more than one letter, depends on the neighbours, or is newer than DuckDB's Unicode.
ODD_SMALL_LETTERS = (
    r"'[ŉƛǰɤևﬀ-ﬆﬓ-ﬗ\x{{390}}\x{{3b0}}\x{{1c8a}}\x{{1e96}}-\x{{1e9a}}\x{{1f50}}\x{{1f52}}\x{{1f54}}\x{{1f56}}"
    r"\x{{1f80}}-\x{{1faf}}\x{{1fb2}}-\x{{1fb4}}\x{{1fb6}}\x{{1fb7}}\x{{1fbc}}\x{{1fc2}}-\x{{1fc4}}\x{{1fc6}}\x{{1fc7}}"
    r"\x{{1fcc}}\x{{1fd2}}\x{{1fd3}}\x{{1fd6}}\x{{1fd7}}\x{{1fe2}}-\x{{1fe4}}\x{{1fe6}}\x{{1fe7}}\x{{1ff2}}-\x{{1ff4}}"
    r"\x{{1ff6}}\x{{1ff7}}\x{{1ffc}}\x{{a7cd}}\x{{a7db}}\x{{10d70}}-\x{{10d85}}]'"
)
ODD_CAPITAL_LETTERS = r"'[İΣ\x{{1c89}}\x{{a7cb}}\x{{a7cc}}\x{{a7da}}\x{{a7dc}}\x{{10d50}}-\x{{10d65}}]'"

# FLOAT64 from here on have no decimals.
INTEGERS = "4503599627370496"
# printf writes the exact decimal value, but what lies exactly in the middle goes to even; on BigQuery away from zero.
ROUNDED = (
    f"CASE WHEN abs({{0}}) >= {INTEGERS} THEN {{0}} ELSE"
    " CAST(printf('%.{1.size}f', CASE WHEN {0} * 2e{1.size} = round({0} * 2e{1.size})"
    " AND printf('%.80f', {0}) LIKE '%5' || repeat('0', 79 - {1.size}) THEN nextafter({0}, 2 * {0}) ELSE {0} END)"
    " AS DOUBLE) END"
)
CUT = (
    f"CASE WHEN abs({{0}}) >= {INTEGERS} THEN {{0}} ELSE"
    r" CAST(regexp_extract(printf('%.80f', {0}), '^-?[0-9]+\.[0-9]{{{1.size}}}') AS DOUBLE) END"
)
WHOLE = (
    "CASE WHEN abs({0}) >= 9e15 THEN refuse('a number above 9e15') ELSE %s(trunc({0}) / 1e{1.size}) * 1e{1.size} END"
)

NUMBERS = [
    Rule("ABS", "INT64", "INT64", "try(abs({0}))"),
    Rule("ABS", "FLOAT64", "FLOAT64", "abs({0})"),
    Rule("SIGN", "INT64", "INT64", "CAST(sign({0}) AS BIGINT)"),
    Rule("SIGN", "FLOAT64", "FLOAT64", "CAST(sign({0}) AS DOUBLE)"),
    Rule(
        "DIV",
        "INT64, INT64",
        "INT64",
        "CASE WHEN {1} = 0 AND {0} IS NOT NULL THEN fail('division by zero') ELSE try({0} // {1}) END",
    ),
    Rule(
        "MOD",
        "INT64, INT64",
        "INT64",
        "CASE WHEN {1} = 0 AND {0} IS NOT NULL THEN fail('division by zero') WHEN {1} = -1 THEN {0} - {0}"
        " ELSE {0} % {1} END",
    ),
    Rule("ROUND", "FLOAT64", "FLOAT64", "round({0})", "halves away from zero"),
    Rule("ROUND", "FLOAT64, decimals", "FLOAT64", ROUNDED, "2.675 is a little less and becomes 2.67"),
    Rule("ROUND", "FLOAT64, tens", "FLOAT64", WHOLE % "round"),
    Rule("TRUNC", "FLOAT64", "FLOAT64", "trunc({0})"),
    Rule("TRUNC", "FLOAT64, decimals", "FLOAT64", CUT),
    Rule("TRUNC", "FLOAT64, tens", "FLOAT64", WHOLE % "trunc"),
    Rule("CEIL", "FLOAT64", "FLOAT64", "ceil({0})"),
    Rule("CEILING", "FLOAT64", "FLOAT64", "ceil({0})"),
    Rule("FLOOR", "FLOAT64", "FLOAT64", "floor({0})"),
    Rule("SQRT", "FLOAT64", "FLOAT64", "CASE WHEN {0} < 0 THEN fail('square root of a negative') ELSE sqrt({0}) END"),
    Rule("SAFE_ADD", "INT64, INT64", "INT64", "TRY({0} + {1})"),
    Rule("SAFE_SUBTRACT", "INT64, INT64", "INT64", "TRY({0} - {1})"),
    Rule("SAFE_MULTIPLY", "INT64, INT64", "INT64", "TRY({0} * {1})"),
    Rule("SAFE_NEGATE", "INT64", "INT64", "TRY(- {0})"),
    Rule("SAFE_NEGATE", "FLOAT64", "FLOAT64", "({0} * -1)"),
    Rule(
        "SAFE_DIVIDE",
        "FLOAT64, FLOAT64",
        "FLOAT64",
        "CASE WHEN {1} <> 0 AND isfinite({0} / {1}) THEN {0} / {1} END",
        "NULL where / is an error",
    ),
    Rule(
        "IEEE_DIVIDE",
        "FLOAT64, FLOAT64",
        "FLOAT64",
        "CASE WHEN {0} IS NULL OR {1} IS NULL THEN NULL WHEN isfinite({0} / {1}) THEN {0} / {1}"
        " ELSE refuse('infinity or NaN') END",
    ),
    Rule("IS_NAN", "FLOAT64", "BOOL", "CASE WHEN {0} IS NOT NULL THEN FALSE END"),
    Rule("IS_INF", "FLOAT64", "BOOL", "CASE WHEN {0} IS NOT NULL THEN FALSE END"),
    Rule(
        "RANGE_BUCKET",
        "O, ARRAY<O>",
        "INT64",
        "CASE WHEN {nulls} THEN NULL WHEN list_count({1}) < len({1}) OR list_sort({1}) <> {1}"
        " THEN fail('the array of RANGE_BUCKET must be ascending')"
        " ELSE len(list_filter({1}, lambda bound: bound <= {0})) END",
    ),
    Rule("BIT_COUNT", "INT64", "INT64", "CAST(bit_count({0}) AS BIGINT)"),
]

CHARACTERS = "string_split({0}, '')"  # Code points; DuckDB's reverse() takes graphemes.


def _padded(function: str) -> list[Rule]:
    sql = (
        f"CASE WHEN {{nulls}} THEN NULL WHEN {{1}} < 0 OR {{1}} > {LONGEST} OR FILL = '' THEN"
        f" fail('{function.upper()} to a negative length, above 1 MB or with nothing')"
        f" WHEN {{1}} > {LONGEST // 4} THEN refuse('{function.upper()} to more than 1 MB of long letters')"
        f" ELSE {function}({{0}}, CAST({{1}} AS INTEGER), FILL) END"
    )
    return [
        Rule(function.upper(), "STRING, INT64", "STRING", sql.replace("FILL", "' '")),
        Rule(function.upper(), "STRING, INT64, STRING", "STRING", sql.replace("FILL", "{2}")),
    ]


def _trimmed(function: str) -> list[Rule]:
    return [
        Rule(function.upper(), "STRING", "STRING", f"{function}({{0}}, {SPACES})", "all of Unicode's spaces"),
        Rule(function.upper(), "STRING, STRING", "STRING", f"{function}({{0}}, {{1}})"),
    ]


def _clamped(length: str) -> str:
    """Returns the SQL of a length that DuckDB takes; NULL, not the other one, if it is."""
    return f"CASE WHEN {length} > 4294967295 THEN 4294967295 ELSE {length} END"


def _not_negative(length: str, *others: str) -> str:
    known = "".join(f" AND {other} IS NOT NULL" for other in others)
    return f"CASE WHEN {length} < 0{known} THEN fail('negative length') ELSE "


STRINGS = [
    Rule("CONCAT", "S...", "STRING", "({all: || })", "NULL if one of them is"),
    Rule("LENGTH", "STRING", "INT64", "length({0})", "code points"),
    Rule("LENGTH", "BYTES", "INT64", "octet_length(CAST({0} AS BLOB))"),
    Rule("CHAR_LENGTH", "STRING", "INT64", "length({0})"),
    Rule("CHARACTER_LENGTH", "STRING", "INT64", "length({0})"),
    Rule("BYTE_LENGTH", "STRING", "INT64", "strlen({0})"),
    Rule("BYTE_LENGTH", "BYTES", "INT64", "octet_length(CAST({0} AS BLOB))"),
    Rule("OCTET_LENGTH", "STRING", "INT64", "strlen({0})"),
    Rule(
        "LOWER",
        "STRING",
        "STRING",
        f"CASE WHEN regexp_matches({{0}}, {ODD_CAPITAL_LETTERS}) THEN refuse('LOWER of a Greek or rare letter')"
        " ELSE lower({0}) END",
        "not of Σ and some rare letters",
    ),
    Rule(
        "UPPER",
        "STRING",
        "STRING",
        f"CASE WHEN regexp_matches({{0}}, {ODD_SMALL_LETTERS}) THEN refuse('UPPER of a rare letter')"
        " ELSE upper(replace({0}, 'ß', 'SS')) END",
        "not of some rare letters",
    ),
    *(
        Rule(
            name,
            arguments,
            "STRING",
            f"{check}substring({{0}}, CASE WHEN {{1}} > 0 THEN {_clamped('{1}')} WHEN {{1}} = 0 THEN 1"
            f" WHEN {{1}} < 0 THEN greatest(length({{0}}) + {{1}} + 1, 1) END{length}",
            "from 1, or from the end if negative; 0 is 1",
        )
        for name in ("SUBSTR", "SUBSTRING")
        for arguments, check, length in (
            ("STRING, INT64", "", ")"),
            ("STRING, INT64, INT64", _not_negative("{2}", "{0}", "{1}"), f", {_clamped('{2}')}) END"),
        )
    ),
    *(
        Rule(
            name,
            "STRING, INT64",
            "STRING",
            f"{_not_negative('{1}', '{0}')}{name.lower()}({{0}}, {_clamped('{1}')}) END",
        )
        for name in ("LEFT", "RIGHT")
    ),
    Rule("STRPOS", "STRING, STRING", "INT64", "strpos({0}, {1})", "0 if there is none"),
    Rule("INSTR", "STRING, STRING", "INT64", "strpos({0}, {1})"),
    Rule("STARTS_WITH", "STRING, STRING", "BOOL", "starts_with({0}, {1})"),
    Rule("ENDS_WITH", "STRING, STRING", "BOOL", "ends_with({0}, {1})"),
    *_padded("lpad"),
    *_padded("rpad"),
    *_trimmed("trim"),
    *_trimmed("ltrim"),
    *_trimmed("rtrim"),
    Rule(
        "REPEAT",
        "STRING, INT64",
        "STRING",
        "CASE WHEN {nulls} THEN NULL WHEN {0} = '' AND {1} >= 0 THEN ''"
        f" WHEN {{1}} < 0 OR {{1}} > {LONGEST} OR strlen({{0}}) * {{1}} > {LONGEST}"
        " THEN fail('REPEAT a negative number of times or above 1 MB') ELSE repeat({0}, {1}) END",
    ),
    Rule("REPLACE", "STRING, STRING, STRING", "STRING", "replace({0}, {1}, {2})"),
    Rule("REVERSE", "STRING", "STRING", f"array_to_string(list_reverse({CHARACTERS}), '')", "code points"),
    Rule(
        "TRANSLATE",
        "STRING, STRING, STRING",
        "STRING",
        "CASE WHEN {nulls} THEN NULL WHEN list_unique(string_split({1}, '')) < length({1})"
        " THEN fail('a character twice in TRANSLATE') ELSE translate({0}, {1}, {2}) END",
    ),
    Rule("SPLIT", "STRING", "ARRAY<STRING>", "string_split({0}, ',')"),
    Rule("SPLIT", "STRING, STRING", "ARRAY<STRING>", "CASE WHEN {1} IS NOT NULL THEN string_split({0}, {1}) END"),
    Rule("NORMALIZE", "STRING", "STRING", "nfc_normalize({0})", "NFC only"),
    Rule("NORMALIZE", "STRING, NFC", "STRING", "nfc_normalize({0})"),
    Rule(
        "ASCII",
        "STRING",
        "INT64",
        "CASE WHEN {0} = '' THEN 0 WHEN unicode({0}) > 127 THEN fail('no ASCII') ELSE CAST(unicode({0}) AS BIGINT) END",
    ),
    Rule("UNICODE", "STRING", "INT64", "CASE WHEN {0} = '' THEN 0 ELSE CAST(unicode({0}) AS BIGINT) END"),
    Rule(
        "CHR",
        "INT64",
        "STRING",
        "CASE WHEN {0} < 0 OR {0} > 1114111 OR {0} BETWEEN 55296 AND 57343 THEN fail('no code point')"
        " ELSE chr(CAST({0} AS INTEGER)) END",
    ),
    Rule(
        "TO_CODE_POINTS",
        "STRING",
        "ARRAY<INT64>",
        f"CASE WHEN {{0}} = '' THEN [] ELSE list_transform({CHARACTERS}, lambda one: CAST(unicode(one) AS BIGINT)) END",
    ),
    Rule("TO_HEX", "BYTES", "STRING", "lower(hex({0}))"),
    Rule(
        "FROM_HEX",
        "STRING",
        "BYTES",
        "CASE WHEN NOT regexp_full_match({0}, '[0-9a-fA-F]*') THEN fail('not hexadecimal') ELSE unhex({0}) END",
    ),
    Rule("TO_BASE64", "BYTES", "STRING", "to_base64({0})"),
    Rule("MD5", "STRING", "BYTES", "unhex(md5({0}))"),
    Rule("SHA1", "STRING", "BYTES", "unhex(sha1({0}))"),
    Rule("SHA256", "STRING", "BYTES", "unhex(sha256({0}))"),
    Rule(
        "REGEXP_CONTAINS",
        "STRING, regex",
        "BOOL",
        "regexp_matches({0}, {1})",
        "the pattern is a literal, here as below",
    ),
    *(
        Rule(
            name,
            "STRING, regex",
            "STRING",
            "CASE WHEN regexp_matches({0}, {1}) THEN regexp_extract({0}, {1}, {1.groups}) END",
            "NULL if nothing matches",
        )
        for name in ("REGEXP_EXTRACT", "REGEXP_SUBSTR")
    ),
    Rule("REGEXP_EXTRACT_ALL", "STRING, regex", "ARRAY<STRING>", "regexp_extract_all({0}, {1}, {1.groups})"),
    Rule("REGEXP_REPLACE", "STRING, regex, rewrite", "STRING", "regexp_replace({0}, {1}, {2}, 'g')", "every match"),
]

ARRAYS = [
    Rule("ARRAY_LENGTH", "ARRAY<T>", "INT64", "len({0})"),
    Rule(
        "ARRAY_CONCAT",
        "ARRAY<T>...",
        "ARRAY<T>",
        JOINED_ARRAYS,
        "NULL if one of them is",
    ),
    Rule("ARRAY_REVERSE", "ARRAY<T>", "ARRAY<T>", "list_reverse({0})"),
    Rule(
        "ARRAY_TO_STRING",
        "ARRAY<STRING>, literal",
        "STRING",
        "CASE WHEN {0} IS NOT NULL THEN coalesce(array_to_string({0}, {1}), '') END",
        "leaves out NULL",
    ),
    Rule(
        "ARRAY_TO_STRING",
        "ARRAY<STRING>, literal, literal",
        "STRING",
        "CASE WHEN {0} IS NOT NULL THEN"
        " coalesce(array_to_string(list_transform({0}, lambda one: coalesce(one, {2})), {1}), '') END",
    ),
    *(
        Rule(
            name,
            "ARRAY<T>",
            "T",
            f"CASE WHEN len({{0}}) = 0 THEN fail('empty array') ELSE list_extract({{0}}, {position}) END",
        )
        for name, position in (("ARRAY_FIRST", 1), ("ARRAY_LAST", -1))
    ),
    *(
        Rule(
            "GENERATE_ARRAY",
            arguments,
            "ARRAY<INT64>",
            f"CASE WHEN {{nulls}} THEN NULL WHEN {step} = 0 THEN fail('a step of 0')"
            f" WHEN (CAST({{1}} AS DOUBLE) - {{0}}) / {step} >= 16000 THEN refuse('more than 16,000 elements')"
            f" ELSE generate_series({{0}}, {{1}}, {step}) END",
        )
        for arguments, step in (("INT64, INT64", "1"), ("INT64, INT64, INT64", "{2}"))
    ),
]
