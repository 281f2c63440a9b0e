"""Label cleaning: what becomes of each label of the museum, decided from the counts alone.

The rules are a table that readers see and edit (culture-labels.csv), and each says how many artworks it touched.
"""

from collections import Counter
from collections.abc import Collection, Mapping
import csv
import io
from pathlib import Path
import re
import sys
from typing import NamedTuple

from metart.common.files import read_text
from metart.common.flags import UserError
from metart.common.labels import normalise_label

IDLE_SHOWN = 3  # Rules that matched nothing.
BEFORE_COMMA = re.compile(r"((?:\([^()]*\)|[^,(])*),")  # Not in "Pakistan (ancient region of Gandhara, Bajaur)".


class Rule(NamedTuple):
    """Labels that match `source`, where * stands for any text, become `target`; empty drops them."""

    source: str
    target: str

    def __str__(self) -> str:
        return f'"{self.source}" -> "{self.target}"' if self.target else f'"{self.source}" dropped'


def read_labels_map(path: Path) -> list[Rule]:
    """Reads a CSV file with the columns from and to; others are for people. Of equal rows the first counts.

    Raises:
        UserError: No such file, or a line without `from`.
    """
    try:
        lines = list(csv.reader(io.StringIO(read_text(path), newline=""), strict=True))
    except FileNotFoundError:
        raise UserError(f"--labels_map: {path} does not exist; the one for culture is culture-labels.csv") from None
    except csv.Error as error:
        raise UserError(f"--labels_map: {path} is not a CSV file: {error}") from None
    header = [name.strip() for name in lines[0]] if lines else []
    if not header.count("from") == header.count("to") == 1:
        raise UserError(f"--labels_map: {path} must begin with the line: from,to")
    rules: dict[str, Rule] = {}
    for number, line in enumerate(lines[1:], 2):
        if not any(line):
            continue
        named = dict(zip(header, map(normalise_label, line), strict=False))
        if len(line) != len(header) or not named["from"]:
            raise UserError(
                f'--labels_map: row {number} of {path} is not {",".join(header)}; quote what has a comma: "a, b",c'
            )
        if "*" in named["to"]:
            raise UserError(f"--labels_map: row {number} of {path} has * in `to`, which is a label; write it out")
        rule = Rule(named["from"], named["to"])
        if rules.setdefault(rule.source, rule) != rule:
            raise UserError(f"--labels_map: row {number} of {path} says {rule}, and a row before it something else")
    return list(rules.values())


def clean_labels(counts: Mapping[str, int], rules: list[Rule], before_comma: bool, min_images: int) -> dict[str, str]:
    """Decides what becomes of each label, and reports on stderr how many artworks each rule touched.

    Args:
        counts: Artworks for each label.
        rules: A source equal to the label goes before those with *, of which the first that matches counts.
        before_comma: Cuts labels at the first comma outside parentheses and applies the rules to what is left.
        min_images: Labels with fewer artworks, after all other rules, are dropped.

    Returns:
        The new label of each label that is kept.
    """
    touched: dict[str, set[str]] = {str(rule): set() for rule in rules}  # Labels, by the rule that touched them.
    touched["before_comma"] = set()
    exact = {rule.source: rule for rule in rules}
    patterns = [
        (re.compile(re.escape(rule.source).replace(r"\*", ".*"), re.DOTALL), rule)
        for rule in rules
        if "*" in rule.source
    ]

    def apply_rules(name: str, label: str) -> str:
        rule = exact.get(name) or next((rule for pattern, rule in patterns if pattern.fullmatch(name)), None)
        if rule is None:
            return name
        touched[str(rule)].add(label)
        return rule.target

    new_labels = {}
    for label in counts:
        name = apply_rules(label, label)
        if before_comma and (beginning := BEFORE_COMMA.match(name)):
            touched["before_comma"].add(label)
            name = apply_rules(beginning[1].rstrip(), label)
        new_labels[label] = name
    totals: Counter[str] = Counter()
    for label, name in new_labels.items():
        totals[name] += counts[label]
    rare = {label for label, name in new_labels.items() if name and totals[name] < min_images}
    touched[f"min_images={min_images} dropped"] = rare
    kept = {label: name for label, name in new_labels.items() if name and label not in rare}

    def size(labels: Collection[str]) -> str:
        artworks = sum(counts[label] for label in labels)
        return f"{_count(artworks, 'artwork')}, {_count(len(labels), 'label')}"

    for rule_text, labels in touched.items():
        if labels:
            print(f"{rule_text}: {size(labels)}", file=sys.stderr)
    idle = [str(rule) for rule in rules if not touched[str(rule)]]
    if idle:
        more = ", …" if len(idle) > IDLE_SHOWN else ""
        print(f"matched nothing: {_count(len(idle), 'rule')}: {', '.join(idle[:IDLE_SHOWN])}{more}", file=sys.stderr)
    print(f"kept: {size(kept)} as {len(set(kept.values())):,}", file=sys.stderr)
    if counts and not kept:
        raise UserError("no label is left; lower --min_images, or change --labels_map")
    return kept


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
