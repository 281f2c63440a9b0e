"""The allow-list of functions of dates."""

from metart.museum.dialect.rules import Rule, date_in_range, to_add

LARGEST_INT32 = (1 << 31) - 1  # DATE of Google's engine looks at the last 32 bits of a number.
PERIODS = {  # Part: the SQL of {1} of them as an interval.
    "DAY": f"to_days({to_add(1, date=0)})",
    "WEEK": f"to_days({to_add(1, date=0, times=' * 7')})",
    "MONTH": f"to_months({to_add(1, date=0)})",
    "QUARTER": f"to_months({to_add(1, date=0, times=' * 3')})",
    "YEAR": f"to_years({to_add(1, date=0)})",
}
# Part: the days from its first day to the Monday after. 0001-01-01 was a Monday.
WEEKS = {
    "WEEK": 1,
    "ISOWEEK": 0,
    "WEEK(SUNDAY)": 1,
    "WEEK(MONDAY)": 0,
    "WEEK(TUESDAY)": 6,
    "WEEK(WEDNESDAY)": 5,
    "WEEK(THURSDAY)": 4,
    "WEEK(FRIDAY)": 3,
    "WEEK(SATURDAY)": 2,
}


def _weeks(date: str, shift: int) -> str:
    return f"(date_diff('day', DATE '0001-01-01', {date}) + {shift}) // 7"


def _weekday(date: str, shift: int) -> str:
    return f"(date_diff('day', DATE '0001-01-01', {date}) + {shift}) % 7"


DATES = [
    Rule("CURRENT_DATE", "", "DATE", "{today}", "in UTC"),
    Rule(
        "DATE",
        "INT64, INT64, INT64",
        "DATE",
        "CASE WHEN {nulls} THEN NULL"
        f" WHEN greatest({{0}}, {{1}}, {{2}}) > {LARGEST_INT32} OR least({{0}}, {{1}}, {{2}}) < -{LARGEST_INT32}"
        " THEN refuse('a number of more than 32 bits in DATE')"
        " WHEN greatest({0}, {1}, {2}) > 9999 OR least({0}, {1}, {2}) < -9999 THEN fail('no such date')"
        f" ELSE {date_in_range('make_date({0}, {1}, {2})')} END",
    ),
    *(
        Rule("DATE_ADD", f"DATE, INTERVAL INT64 {part}", "DATE", date_in_range(f"{{0}} + {sql}"))
        for part, sql in PERIODS.items()
    ),
    *(
        Rule("DATE_SUB", f"DATE, INTERVAL INT64 {part}", "DATE", date_in_range(f"{{0}} - {sql}"))
        for part, sql in PERIODS.items()
    ),
    *(
        Rule("DATE_DIFF", f"DATE, DATE, {part}", "INT64", f"date_diff('{part}', {{1}}, {{0}})")
        for part in ("DAY", "MONTH", "QUARTER", "YEAR")
    ),
    *(
        Rule("DATE_DIFF", f"DATE, DATE, {part}", "INT64", f"({_weeks('{0}', shift)} - {_weeks('{1}', shift)})")
        for part, shift in WEEKS.items()
    ),
    Rule("DATE_DIFF", "DATE, DATE, ISOYEAR", "INT64", "(isoyear({0}) - isoyear({1}))"),
    Rule("DATE_TRUNC", "DATE, DAY", "DATE", "{0}"),
    *(
        Rule("DATE_TRUNC", f"DATE, {part}", "DATE", date_in_range(f"date_trunc('{part}', {{0}})"))
        for part in ("MONTH", "QUARTER", "YEAR", "ISOYEAR")
    ),
    *(
        Rule("DATE_TRUNC", f"DATE, {part}", "DATE", date_in_range(f"{{0}} - CAST({_weekday('{0}', shift)} AS INTEGER)"))
        for part, shift in WEEKS.items()
    ),
    *(
        Rule("EXTRACT", f"{part} FROM DATE", "INT64", f"{part.lower()}({{0}})")
        for part in ("YEAR", "QUARTER", "MONTH", "DAY", "DAYOFYEAR", "ISOYEAR")
    ),
    Rule("EXTRACT", "DAYOFWEEK FROM DATE", "INT64", "(dayofweek({0}) + 1)", "Sunday is 1"),
    Rule("EXTRACT", "ISOWEEK FROM DATE", "INT64", "weekofyear({0})"),
    *(
        Rule(
            "EXTRACT",
            f"{part} FROM DATE",
            "INT64",
            f"((dayofyear({{0}}) + 6 - {_weekday('{0}', shift)}) // 7)",
            "days before the first such weekday are week 0",
        )
        for part, shift in WEEKS.items()
        if part != "ISOWEEK"
    ),
    Rule("LAST_DAY", "DATE", "DATE", "last_day({0})"),
    Rule("LAST_DAY", "DATE, MONTH", "DATE", "last_day({0})"),
    Rule("LAST_DAY", "DATE, QUARTER", "DATE", "last_day(CAST(date_trunc('quarter', {0}) + INTERVAL 2 MONTH AS DATE))"),
    Rule("LAST_DAY", "DATE, YEAR", "DATE", "make_date(year({0}), 12, 31)"),
    *(
        Rule(
            "LAST_DAY", f"DATE, {part}", "DATE", date_in_range(f"{{0}} + CAST(6 - {_weekday('{0}', shift)} AS INTEGER)")
        )
        for part, shift in WEEKS.items()
    ),
    Rule("UNIX_DATE", "DATE", "INT64", "date_diff('day', DATE '1970-01-01', {0})"),
    Rule("DATE_FROM_UNIX_DATE", "INT64", "DATE", date_in_range("DATE '1970-01-01' + CAST({0} AS INTEGER)")),
    Rule(
        "GENERATE_DATE_ARRAY",
        "DATE, DATE",
        "ARRAY<DATE>",
        "CASE WHEN {nulls} THEN NULL WHEN date_diff('day', {0}, {1}) >= 16000 THEN refuse('more than 16,000 elements')"
        " ELSE CAST(generate_series({0}, {1}, INTERVAL 1 DAY) AS DATE[]) END",
    ),
]
