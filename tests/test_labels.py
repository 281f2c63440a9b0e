"""labels.py: one folder for each label, on every file system, and the way back."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import csv
import os
from pathlib import Path
import unicodedata

from hypothesis import HealthCheck, example, given, settings, strategies
import pytest

from metart.common.flags import UserError
from metart.common.labels import (
    folder_name,
    label_of_folder,
    normalise_label,
    read_labels,
    write_folder,
    write_labels,
)

TEXT = strategies.text(strategies.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
# Labels that differ little: pieces that file systems forbid, confuse or cut off.
PIECES = strategies.lists(
    strategies.sampled_from(
        [
            *("Roman", "roman", "ROMAN", "market", "con", "'s", "%2F", "%~0123abcd", "x" * 190, "y" * 190),
            *"./\\%~:,* _-\n\x7féßſKΣςİi中",
            *("e\u0301", "ss", "\u212a"),
        ]
    ),
    min_size=1,
    max_size=5,
).map("".join)
LABELS = TEXT | PIECES
# The same label to a file system that does not look closely, most of the time.
CHANGES = strategies.sampled_from(
    [
        str.swapcase,
        str.title,
        str.casefold,
        lambda label: unicodedata.normalize("NFD", label),
        lambda label: unicodedata.normalize("NFC", label),
        lambda label: label.replace(",", ""),
        lambda label: label.replace("/", "%2F"),
        lambda label: label + ".",
        lambda label: label + "z",
    ]
)
RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{digit}" for name in ("com", "lpt") for digit in range(10))}


def confused(name: str) -> str:
    """Returns what is left of a name where case and Unicode form do not count, in the strictest reading."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold()).casefold()


def assert_apart(left: str, right: str) -> None:
    if right and left != right:  # A change may leave nothing.
        assert confused(folder_name(left)) != confused(folder_name(right))


@given(LABELS)
@example("CON.txt")
@example("..")
@example("a/../b")
@example("%~0123abcd")
@settings(max_examples=200, deadline=None)
def test_a_folder_name_is_allowed_everywhere(label: str) -> None:
    name = folder_name(label)
    assert 0 < len(name.encode()) <= 200
    assert not set('<>:"/\\|?*') & set(name)
    assert all(ord(letter) >= 32 and ord(letter) != 127 for letter in name)
    assert name[0] not in ". ~" and name[-1] not in ". "
    assert name.partition(".")[0].lower() not in RESERVED


@given(LABELS, LABELS)
@example("Roman, Cypriot", "Roman Cypriot")
@example("Greek", "greek")
@example("Fran\u00e7ais", "Franc\u0327ais")
@example("Strasse", "Stra\u00dfe")
@example("a" * 300, "a" * 301)
@example("a/b", "a%2Fb")
@settings(max_examples=300, deadline=None)
def test_distinct_labels_never_share_a_folder(left: str, right: str) -> None:
    assert_apart(left, right)


@given(LABELS)
@example("x" * 500)
@example("e\u0301")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_label_comes_back_from_its_folder(tmp_path: Path, label: str) -> None:
    folder = write_folder(tmp_path, label)
    assert folder.parent == tmp_path
    assert folder.is_dir()
    assert label_of_folder(folder) == label
    assert write_folder(tmp_path, label) == folder
    assert label_of_folder(folder) == label


def test_the_usual_labels_stay_as_they_are() -> None:
    for label in (
        "Japanese",
        "Italian, Florence",
        "Chinese, for American market",
        "Kievan Rus'",
        "中国",
        "French, Sèvres",
    ):
        assert folder_name(label) == label
    assert folder_name("Roman/Cypriot") == "Roman%2FCypriot"
    assert folder_name("french").startswith("french%~")


def test_folders_made_by_hand_are_labels_too(tmp_path: Path) -> None:
    assert label_of_folder(tmp_path / "my label") == "my label"
    assert label_of_folder(tmp_path / "Franc\u0327ais") == "Fran\u00e7ais"  # As macOS may hand the name back.


@pytest.mark.parametrize(
    "label", ["A label " * 40, "中" * 80, "Roman/Cypriot, " * 20, "französisch, " * 30, "e\u0301" * 100, "x" * 191]
)
def test_a_lost_long_label_is_noticed_and_restored(label: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, label)
    (folder / ".label").unlink()
    with pytest.raises(UserError, match=r"has lost its file \.label with the whole label; run download\.py again"):
        label_of_folder(folder)
    assert write_folder(tmp_path, label) == folder
    assert label_of_folder(folder) == label


@pytest.mark.parametrize("name", ["x%~01234567", "%~01234567", "french%~00000000", "%FF%~89abcdef"])
def test_a_hash_that_is_not_the_labels_is_noticed(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has lost its file"):
        label_of_folder(tmp_path / name)


def test_a_hashed_name_that_comes_back_decomposed(tmp_path: Path) -> None:
    name = folder_name("fran\u00e7ais")
    assert "%~" in name
    assert label_of_folder(tmp_path / unicodedata.normalize("NFD", name)) == "fran\u00e7ais"


def test_an_empty_label_has_no_folder() -> None:
    with pytest.raises(ValueError, match="empty label"):
        folder_name("")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (" French ", "French"),
        ("Porcelain\n(Jingdezhen ware)", "Porcelain (Jingdezhen ware)"),
        ("Porcelain\r\n\t(Jingdezhen ware)\x0b", "Porcelain (Jingdezhen ware)"),
        ("Cypriot_x000D_\n", "Cypriot"),
        ("Franc\u0327ais", "Fran\u00e7ais"),
        ("Italian,\u00a0Florence", "Italian, Florence"),
        ("a\x00b\x85c\u2028d", "a b c d"),
        ("中国", "中国"),
        ("نستعلیق\u200cها", "نستعلیق\u200cها"),  # A letter that joins nothing is part of the spelling.
        ("", ""),
        (" ", ""),
        ("\r\n", ""),
        ("\u3000\u00a0", ""),
        ("\ufeff", ""),
        ("\u200b \u200e", ""),
        ("\ufe0f", ""),  # Marks without a letter.
        ("\u034f \u0301", ""),
        ("\u3164\uffa0", ""),  # Letters that are blank.
        ("\u2800", ""),
        ("\u3164한", "\u3164한"),
    ],
)
def test_two_spellings_of_the_same_letters_are_one_label(text: str, label: str) -> None:
    assert normalise_label(text) == label


@given(LABELS)
@settings(max_examples=200, deadline=None)
def test_a_normal_label_is_one_line_and_stays(text: str) -> None:
    label = normalise_label(text)
    assert normalise_label(label) == normalise_label(unicodedata.normalize("NFD", text)) == label
    assert label.splitlines() == ([label] if label else [])
    assert label == label.strip()


def test_the_museums_labels() -> None:
    shared = os.environ.get("MET_ART_SHARED_DATA")
    if not shared:
        pytest.skip("MET_ART_SHARED_DATA does not name the folder with the museum's data")
    with open(Path(shared) / "cultures-2017.csv", encoding="utf-8", newline="") as file:
        labels = [row["culture"] for row in csv.DictReader(file) if row["culture"]]
    assert len(labels) == 4258
    assert len({confused(folder_name(label)) for label in labels}) == 4258


def test_labels_txt_is_slims(tmp_path: Path) -> None:
    names = ["American", "Italian, Florence", "Time: 12", "中国"]
    write_labels(names, tmp_path)
    assert (tmp_path / "labels.txt").read_bytes() == "0:American\n1:Italian, Florence\n2:Time: 12\n3:中国\n".encode()
    assert read_labels(tmp_path) == names
    (tmp_path / "labels.txt").write_bytes(b"1:b\r\n0:a\r\n")
    assert read_labels(tmp_path) == ["a", "b"]


@given(LABELS, CHANGES, CHANGES)
@settings(max_examples=300, deadline=None)
def test_labels_that_nearly_look_the_same_do_not_share_a_folder(
    label: str, change: Callable[[str], str], again: Callable[[str], str]
) -> None:
    assert_apart(label, again(change(label)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"labels.txt is missing; run convert.py --dataset_dir="),
        (b"", "does not number its labels 0, 1, 2"),
        (b"0:a\n2:b\n", "does not number its labels 0, 1, 2"),
        (b"0:a\nb\n", "labels.txt:2 is not a line `index:name`"),
        (b"0:a\n0:b\n", "labels.txt:2 is not a line `index:name` of its own"),
        (b"0:\n", "labels.txt:1 is not a line"),
        (b"0:\xff\n", "is not UTF-8 text"),
    ],
)
def test_a_wrong_labels_txt(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_labels(tmp_path)


def test_shards_that_meet_in_a_new_folder_write_its_label_once(tmp_path: Path) -> None:
    label = "x" * 300
    with ThreadPoolExecutor(8) as shards:
        for number in range(200):
            made = list(shards.map(write_folder, [tmp_path / str(number)] * 8, [label] * 8))
            assert {label_of_folder(folder) for folder in made} == {label}
