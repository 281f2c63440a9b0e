"""Labels as text, as folder names and as numbers: one mapping for all scripts.

A label is any text of the museum ("Italian, Florence", "Roman/Cypriot", "中国"). As a folder it must
survive every file system a reader may use, so what they forbid is percent-encoded, and what they
confuse (case, Unicode form) or cut off (long names) gets a short hash of the label.
"""

from collections.abc import Iterable
import contextlib
import hashlib
import os
from pathlib import Path
import re
import unicodedata
from urllib.parse import unquote

from metart.common.files import open_replacing
from metart.common.flags import Retry, UserError

PICTURES_FOLDER = "met_art"  # In DATASET_DIR, with a folder for each label.
LABELS_FILENAME = "labels.txt"
FULL_LABEL_FILENAME = ".label"  # In the folder of a label too long for a folder name.
MAX_FOLDER_BYTES = 200  # File systems stop at 255 bytes; archives and temporary names need the rest.

# Categories of Unicode: blanks, controls, marks of direction and width, accents and variants of the letter before.
INVISIBLE = {"Zs", "Zl", "Zp", "Cc", "Cf", "Mn", "Me"}
_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"  # Letters by their category: of Hangul, and of Braille without a dot.

_FORBIDDEN = re.compile(
    r'[\x00-\x1f\x7f/\\:*?"<>|%]|^[. ~]|[. ]$'
    r"|^(?:con|prn|aux|nul|com\d|lpt\d)(?=\.|$)",  # Devices, on Windows.
    re.IGNORECASE,
)
_HASH = re.compile(r"%~[0-9a-f]{8}$")
# Words the museum writes in lower case: "Chinese, for American market" needs no hash, "chinese" does.
# fmt: off
_SMALL_WORDS = {
    "a", "an", "and", "by", "de", "decoration", "for", "from", "in", "market", "mount", "mounts", "of", "on", "or",
    "people", "peoples", "possibly", "probably", "province", "region", "style", "the", "with",
}
# fmt: on


def normalise_label(text: str) -> str:
    """Returns a label as every script writes it; two spellings of the same letters are one label.

    One line with single blanks, in Unicode form NFC, and empty if there is nothing to see: a blank is no label.
    """
    text = text.replace("_x000D_", " ")  # How Excel writes a carriage return.
    printable = "".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text)
    label = " ".join(unicodedata.normalize("NFC", printable).split())
    seen = (letter for letter in label if letter not in _BLANK_LETTERS)
    return label if any(unicodedata.category(letter) not in INVISIBLE for letter in seen) else ""


def is_text(label: str) -> bool:
    """Returns whether a label can be written to a file: not the halves of letters that Python makes of odd bytes."""
    return label == label.encode(errors="replace").decode()


def folder_name(label: str) -> str:
    """Returns the folder name of a label; distinct labels get names distinct on any file system.

    Args:
        label: Any text that is not empty.

    Returns:
        At most 200 bytes of UTF-8: the label itself where that is safe.
    """
    if not label:
        raise ValueError("an empty label has no folder")
    name = _FORBIDDEN.sub(_percent_encode, label)
    if len(name.encode()) > MAX_FOLDER_BYTES - 10:
        kept = name.encode()[: MAX_FOLDER_BYTES - 10].decode(errors="ignore")
        # Not in the middle of an escape, and no space or dot at the end.
        return re.sub(r"%[0-9A-F]?$", "", kept).rstrip(" .") + _hash(label)
    if label != _usual_spelling(label):
        return name + _hash(label)
    return name


def write_folder(parent: Path, label: str) -> Path:
    """Makes the folder of a label below `parent` and returns it; restores one whose label is lost or damaged."""
    folder = parent / folder_name(label)
    folder.mkdir(parents=True, exist_ok=True)
    full = folder / FULL_LABEL_FILENAME
    is_there = full.is_symlink() or (full.is_file() and full.read_bytes().rstrip(b"\r\n") == label.encode())
    if _label_of_name(folder.name) != label and not is_there:
        # Two shards may come here at once with the same label; whichever comes second need not write it.
        with contextlib.suppress(Retry), open_replacing(full) as file:
            file.write(label)
    return folder


def label_of_folder(folder: Path) -> str:
    """Returns the label a folder was made for; the inverse of `write_folder`.

    Raises:
        UserError: The label was too long for a name, and its file is lost.
        UnicodeDecodeError: That file is damaged.
    """
    full = folder / FULL_LABEL_FILENAME
    if full.is_file():
        return full.read_bytes().decode("utf-8-sig")  # Some editors begin with a byte-order mark.
    label = _label_of_name(folder.name)
    if label is None:
        raise UserError(
            f"{folder} has lost its file {FULL_LABEL_FILENAME} with the whole label; run download.py again, which fixes"
            " that, or give the folder the name of its label"
        )
    return label


def _label_of_name(name: str) -> str | None:
    """Returns the label that a folder's name holds; None if only a part of it has room there."""
    plain, suffix = _HASH.subn("", name)
    label = unquote(plain)
    composed = unicodedata.normalize("NFC", label)  # Some file systems hand names back decomposed.
    if not suffix:
        return composed
    return next((text for text in (label, composed) if _hash(text) == name[len(plain) :]), None)


def _percent_encode(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode())


def _hash(label: str) -> str:
    return "%~" + hashlib.sha256(label.encode()).hexdigest()[:8]


def _usual_spelling(label: str) -> str:
    """Returns, of all spellings that a file system may take for the same name, the one that needs no hash."""

    def usual(match: re.Match[str]) -> str:
        word = match.group()
        return word if word in _SMALL_WORDS and match.start() > 0 else word[:1].upper() + word[1:]

    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", label).casefold())
    return re.sub(r"[^\W\d_]+(?:['’][^\W\d_]+)*", usual, folded)


def labels_text(label_names: Iterable[str]) -> str:
    """Returns the content of `labels.txt`: a line `index:name` for each label, in slim's form."""
    return "".join(f"{index}:{name}\n" for index, name in enumerate(label_names))


def write_labels(label_names: Iterable[str], folder: str | os.PathLike[str]) -> None:
    """Writes `labels.txt`."""
    with open_replacing(Path(folder) / LABELS_FILENAME) as file:
        file.write(labels_text(label_names))


def read_labels(folder: str | os.PathLike[str]) -> list[str]:
    """Reads `labels.txt`.

    Returns:
        The label names; a label's number is its position.

    Raises:
        UserError: No such file, or its lines are not `0:name`, `1:name`, ….
    """
    path = Path(folder) / LABELS_FILENAME
    if not path.is_file():
        raise UserError(f"{path} is missing; run convert.py --dataset_dir={folder}, or copy labels.txt there")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; write it again with convert.py") from None
    names: dict[int, str] = {}
    for line_number, line in enumerate(text.split("\n"), 1):
        if not line:
            continue
        index, colon, name = line.partition(":")
        if not (colon and re.fullmatch("[0-9]{1,9}", index) and name) or int(index) in names:
            raise UserError(
                f"{path}:{line_number} is not a line `index:name` of its own; write it again with convert.py"
            )
        names[int(index)] = name
    if not names or sorted(names) != list(range(len(names))):
        raise UserError(f"{path} does not number its labels 0, 1, 2, …; write it again with convert.py")
    return [names[index] for index in range(len(names))]
