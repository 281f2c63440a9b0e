"""metadata_file.py: MetObjects.csv is read as what it holds, or one line names what is wrong and where."""

from collections.abc import Callable
import csv
import gzip
import io
import os
from pathlib import Path
import subprocess
import sys
import threading

from processes import REPO
import pytest

import bigquery
from metart.common.flags import UserError
from metart.museum.metadata_file import open_metadata_file

HEADER = ["Object ID", "Is Public Domain", "Department", "Culture", "Medium", "Link Resource"]
ROWS = [
    ["1", "True", "D", "China", 'Ink, "gold"', "L/1"],
    ["2", "False", "D", "French, Sèvres", "two\nlines", "L/2"],
    ["3", "True", "D", "", "two\r\nlines", "L/3"],
    ["4", "", "D", "中国", "", "L/4"],
]
SQL = "SELECT object_id, culture, medium FROM `bigquery-public-data.the_met.objects` ORDER BY object_id"
EXPECTED = [["object_id", "culture", "medium"], *([row[0], row[3], row[4]] for row in ROWS)]


def as_csv(line_end: str = "\r\n") -> bytes:
    text = io.StringIO(newline="")
    for row in [HEADER, *ROWS]:
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="\r\n").writerow(row)
        text.write(line.getvalue()[:-2] + line_end)
    return text.getvalue().encode()


def query(location: Path | str, capsys: pytest.CaptureFixture[str], sql: str = SQL) -> list[list[str]]:
    bigquery.main([f"--metadata_csv={location}", f"--sql={sql}"])
    return list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))


@pytest.mark.parametrize(
    "name",
    [
        "a[1].csv",
        "[a-z]*.csv",
        "what?.csv",
        "~.csv",
        "~root",
        "sp ace's.csv",
        "back\\slash.csv",
        "中国.csv",
        "folder [x]/a*.csv",
        "culture=Korea/a.csv",
        "line\nbreak.csv",
        "$HOME.csv",
        "s3:/bucket.csv",
        "really plain.csv.gz",
    ],
)
def test_a_name_is_a_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(as_csv())
    (tmp_path / "a1.csv").write_bytes(as_csv().replace(b"China", b"WRONG"))  # What a pattern would find as well.
    monkeypatch.chdir(tmp_path)
    for location in (tmp_path / name, f"./{name}"):
        assert query(location, capsys) == EXPECTED


def test_a_carriage_return_stays_in_its_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_bytes(as_csv().replace(b"China", b'"Chi\rna"'))
    assert query(tmp_path / "a.csv", capsys)[1][1] == "Chi\rna"


def test_a_link_is_what_it_leads_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data.csv").write_bytes(as_csv())
    (tmp_path / "link [1]").symlink_to("data.csv")
    assert query(tmp_path / "link [1]", capsys) == EXPECTED


@pytest.mark.parametrize("packed", [False, True])
def test_a_pipe_holds_as_many_rows_as_a_file(packed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where it is asked more than once, for the labels and for the artworks."""
    content = as_csv() + b"".join(b"%d,True,D,Japan,Wood,L/%d\r\n" % (number, number) for number in range(5, 20_000))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for flags in (["--list=labels"], ["--min_images=1", "--before_comma"]):
        writer = threading.Thread(target=lambda: pipe.write_bytes(gzip.compress(content, 1) if packed else content))
        writer.start()
        bigquery.main([f"--metadata_csv={pipe}", *flags])
        rows = list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))[1:]
        assert (sum(int(row[1]) for row in rows) if flags == ["--list=labels"] else len(rows) + 1) == 19_999
        writer.join()


@pytest.mark.parametrize(
    "form",
    ["cat {} | {} --metadata_csv=/dev/stdin", "{1} --metadata_csv=/dev/stdin < {0}", "{1} --metadata_csv=<(cat {0})"],
)
def test_standard_input(form: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(as_csv())
    command = form.format("a.csv", f"{sys.executable} {REPO / 'bigquery.py'} --list=labels --attribute=department")
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "department,objects\nD,4\n", done.stderr


CONTENTS: dict[str, Callable[[], bytes]] = {
    "lf": lambda: as_csv("\n"),
    "crlf": lambda: as_csv("\r\n"),
    "cr": lambda: as_csv("\r"),
    "no end": lambda: as_csv("\n").rstrip(),
    "mark": lambda: b"\xef\xbb\xbf" + as_csv(),
    "gzip": lambda: gzip.compress(as_csv()),
    "gzip in parts": lambda: gzip.compress(as_csv()[:60]) + gzip.compress(as_csv()[60:]),
    "gzip with mark": lambda: gzip.compress(b"\xef\xbb\xbf" + as_csv("\n")),
}


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a"])
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_the_content_says_how_it_is_to_be_read(
    content: Callable[[], bytes], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content())
    assert query(tmp_path / name, capsys) == EXPECTED


def test_a_file_that_may_be_cut_off_in_its_last_field_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content, says in ((as_csv("\n"), False), (as_csv("\r"), False), (as_csv("\n")[:-3], True)):
        (tmp_path / "a.csv").write_bytes(content)
        with open_metadata_file(tmp_path / "a.csv"):
            assert ("has no line end; if it was cut off" in capsys.readouterr().err) is says


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (as_csv().replace("Sèvres".encode(), b"S\xe8vres"), r"a.csv:3 is not text in UTF-8; write the file in UTF-8"),
        (as_csv().replace("中国".encode(), b"\xd6\xd0\xb9\xfa"), r"a.csv:7 is not text in UTF-8"),
        (gzip.compress(as_csv().replace(b"China", b"Chin\xff")), r"a.csv:2 is not text in UTF-8"),
        (
            as_csv("\n").replace(b"L/1\n", b"L/1\r\n"),
            r"a.csv:2 ends with '\\r\\n', the line before with '\\n'; make them",
        ),
        (as_csv("\r\n").replace(b"L/3\r\n", b"L/3\n"), r"a.csv:5 ends with '\\n', the line before with '\\r\\n'"),
        (as_csv("\n").replace(b"L/4\n", b"L/4\r5,True,D,Iran,W,L/5\n"), r"a.csv:7 ends with '\\r', the line before"),
        (as_csv().decode().encode("utf-16"), r"a.csv is text in UTF-16; write it again in UTF-8"),
        (as_csv().decode().encode("utf-16-be"), r"a.csv is not the museum's MetObjects.csv"),
        (b"\xfe\xff" + as_csv().decode().encode("utf-16-be"), r"a.csv is text in UTF-16"),
        (as_csv() + b"5,True,D\r\n", r"a.csv:8 has 3 fields, the header 6; quote what has commas"),
        (as_csv().replace(b"French, S", b'French", "S'), r"a.csv:3 has 7 fields"),
        (as_csv().replace(b"\r\n2,", b"\r\nx,"), r"a.csv:3 has 'x' as its Object ID"),
        (as_csv().replace(b"\r\n2,", b"\r\n13.5,"), r"a.csv:3 has '13.5' as its Object ID"),
        (as_csv().replace(b"\r\n4,", b"\r\n1e3,"), r"a.csv:7 has '1e3' as its Object ID"),
        (as_csv().replace(b"Culture,M", b'Culture,""M'), r"a.csv is not the museum's MetObjects.csv"),
        (as_csv().replace(b"\r\n3,True", b"\r\n3,perhaps"), r"a.csv:5 has 'perhaps' as its Is Public Domain"),
        (as_csv().replace(b"gold", b"g" * 2_000_001), r"a.csv:2 has more than 2,000,000 bytes"),
        (as_csv().replace(b"Medium", b'"Me\ndium"'), r"a.csv has 'Me\\ndium' in its header; each column needs a name"),
        (as_csv().replace(b"Medium", b"Me\0dium"), r"a.csv has 'Me\\x00dium' in its header"),
        (as_csv().replace(b"Medium", b""), r"a.csv has '' in its header"),
        (as_csv().replace(b"Medium", b"Culture"), r"a.csv has 'Culture' in its header"),
        (as_csv().replace(b"Medium", b" culture"), r"a.csv has 'Culture' in its header"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        everything = "--sql=SELECT * FROM `bigquery-public-data.the_met.objects`"
        bigquery.main([f"--metadata_csv={tmp_path / 'a.csv'}", everything, f"--output={tmp_path / 'o'}"])
    assert "\n" not in str(error.value).strip() and "stack" not in str(error.value).lower()
    assert not (tmp_path / "o").exists()


LONG = gzip.compress(
    as_csv() + b"".join(b"%d,True,D,Japan,Wood,%s\r\n" % (n, os.urandom(9).hex().encode()) for n in range(20_000))
)


@pytest.mark.parametrize(
    "content",
    [
        LONG[: len(LONG) // 2],
        LONG[:-9],
        LONG[:-8],
        LONG[:-4] + b"\0\0\0\0",
        LONG[:-8] + bytes(4) + LONG[-4:],
        LONG + b"x",
    ],
    ids=["a half", "without its last byte", "without its checksum", "wrong size", "wrong checksum", "more behind it"],
)
def test_a_damaged_gzip_file_is_refused(content: bytes, tmp_path: Path) -> None:
    """DuckDB would take what there is for all."""
    (tmp_path / "a.csv.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.csv\.gz is a damaged gzip file; copy or download it again$"):
        bigquery.main([f"--metadata_csv={tmp_path / 'a.csv.gz'}", "--list=labels"])


PACKED = gzip.compress(as_csv())
COMMENTED = PACKED[:3] + b"\x10" + PACKED[4:10] + b"comment\0" + PACKED[10:]


@pytest.mark.parametrize("content", [COMMENTED, PACKED + bytes(512)], ids=["comment", "zeros"])
def test_a_gzip_file_that_duckdb_does_not_read_is_to_be_unpacked(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.csv\.gz is packed in an unusual way; unpack it with gunzip first$"):
        bigquery.main([f"--metadata_csv={tmp_path / 'a.csv.gz'}", "--list=labels"])


@pytest.mark.parametrize(("location", "message"), [("/dev/zero", "is a device"), ("/dev/null", "is a device")])
def test_a_device_is_refused(location: str, message: str) -> None:
    for flag in ("--metadata_csv", "--sql_file", "--labels_map"):
        with pytest.raises(UserError, match=message):
            bigquery.main(["--metadata_csv=/nothing", "--min_images=0", f"{flag}={location}"])
