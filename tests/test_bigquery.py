"""bigquery.py against the csv module as oracle, and against a double of BigQuery's REST API that runs SQLite."""

from collections import Counter
from collections.abc import Iterator
import csv
import gzip
import io
import itertools
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time
import unicodedata

from doubles import BigQuery, Server, serving
from processes import REPO, run_script
import pytest

import bigquery
from metart.common.flags import Unreachable, UserError
from metart.museum.cleaning import clean_labels, read_labels_map
from metart.museum.metobjects import COLUMN_TYPES, column_name

HEADER = [
    "Object Number",
    "Is Public Domain",
    "Object ID",
    "Department",
    "AccessionYear",
    "Title",
    "Culture",
    "Medium",
    "Link Resource",
]
LINK = "http://www.metmuseum.org/art/collection/search/"
# Object id, culture, public domain, medium: commas, quotes, line breaks, no label, Unicode, an SQL quote.
ARTWORKS = [
    (1, "Japan", "True", "Wood"),
    (2, "Japanese", "True", 'Ink, "gold"\nand silk'),
    (3, "Italian, Florence", "False", "Oil"),
    (4, "", "True", "Oil"),
    (5, "Italian, Florence", "True", ""),
    (6, "French, Sèvres", "True", "Porcelain"),
    (7, "French, probably Paris", "True", "Oil"),
    (8, "Italian, Rome", "True", "Oil"),
    (9, 'People\'s, "odd"', "True", "Oil"),
    (10, "Japan", "True", "Wood"),
]


def one_line(label: str) -> str:
    return " ".join(label.replace("_x000D_", " ").split())


def museum_row(object_id: int, culture: str, public: str, medium: str) -> list[str]:
    return [
        f"{object_id}.1",
        public,
        str(object_id),
        "A Department",
        "1999",
        "Title, with comma",
        culture,
        medium,
        f"{LINK}{object_id}",
    ]


@pytest.fixture
def metadata_csv(tmp_path: Path) -> Path:
    path = tmp_path / "MetObjects.csv"
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([HEADER, *(museum_row(*artwork) for artwork in ARTWORKS)])
    return path


def shared_file(name: str) -> Path:
    folder = os.environ.get("MET_ART_SHARED_DATA")
    if not folder:
        pytest.skip("MET_ART_SHARED_DATA does not name the folder with the museum's data")
    return Path(folder) / name


def shared_csv() -> Path:
    return shared_file("MetObjects-subset.csv.gz")


@pytest.fixture(scope="module")
def museum_rows() -> list[dict[str, str]]:
    with gzip.open(shared_csv(), "rt", encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def as_bigquery(rows: list[dict[str, str]]) -> BigQuery:
    """Returns a double that holds the rows as BigQuery does: typed, NULL for what is empty."""
    columns = [column_name(name) for name in rows[0]]
    numbers = [COLUMN_TYPES.get(name) == "BIGINT" for name in columns]
    typed = [
        [
            (int(value) if is_number else value) if value else None
            for value, is_number in zip(row.values(), numbers, strict=True)
        ]
        for row in rows
    ]
    types = {"BIGINT": "INTEGER", "BOOLEAN": "BOOLEAN"}
    images = ["object_id", "original_image_url", "gcs_url"]
    return BigQuery(
        {
            "bigquery-public-data.the_met.objects": (columns, typed),
            "bigquery-public-data.the_met.images": (images, []),
        },
        {name: types[kind] for name, kind in COLUMN_TYPES.items()} | {"objects": "INTEGER"},
    )


@pytest.fixture
def service(metadata_csv: Path) -> Iterator[tuple[BigQuery, Server]]:
    with open(metadata_csv, encoding="utf-8-sig", newline="") as file:
        double = as_bigquery(list(csv.DictReader(file)))
    with serving(double) as server:
        yield double, server


def listing(capsys: pytest.CaptureFixture[str], *flags: str) -> list[list[str]]:
    bigquery.main(flags)
    return list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))


def test_labels_are_counted_largest_first_with_the_unlabelled(
    metadata_csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = listing(capsys, "--list=labels", f"--metadata_csv={metadata_csv}")
    assert rows[:3] == [["culture", "objects"], ["Italian, Florence", "2"], ["Japan", "2"]]
    assert {label: int(count) for label, count in rows[1:]} == Counter(artwork[1] for artwork in ARTWORKS)


def test_artworks_have_what_download_needs(metadata_csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = listing(capsys, f"--metadata_csv={metadata_csv}")
    assert rows[0] == ["department", "label", "link_resource", "image_url", "is_public_domain"]
    assert rows[1:] == [
        ["A Department", culture, f"{LINK}{object_id}", "", public]
        for object_id, culture, public, _ in ARTWORKS
        if culture
    ]


def test_an_object_that_is_there_twice_has_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artworks = [(7, "Japan", "True", ""), (7, "China", "False", ""), (7, "China", "True", ""), (6, "Iran", "True", "")]
    listings = []
    for order in itertools.permutations(artworks):
        path = tmp_path / "MetObjects.csv"
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([HEADER, *(museum_row(*artwork) for artwork in order)])
        listings.append([row[1::3] for row in listing(capsys, f"--metadata_csv={path}")[1:]])
    rows = [dict(zip(HEADER, museum_row(*artwork), strict=True)) for artwork in artworks]
    with serving(as_bigquery(rows)) as server:
        listings.append([row[1::3] for row in listing(capsys, f"--api_endpoint={server.url}")[1:]])
    expected = [["Iran", "True"], ["China", "False"], ["China", "True"], ["Japan", "True"]]
    assert all(rows == expected for rows in listings)


def test_any_column_can_be_the_label(metadata_csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = listing(capsys, "--attribute=medium", "--list=labels", f"--metadata_csv={metadata_csv}")
    assert rows[0] == ["medium", "objects"]
    assert {label: int(count) for label, count in rows[1:]} == Counter(one_line(artwork[3]) for artwork in ARTWORKS)
    rows = listing(capsys, "--attribute=Accession Year", f"--metadata_csv={metadata_csv}")
    assert {row[1] for row in rows[1:]} == {"1999"}


def test_names_of_columns_are_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "MetObjects.csv"
    columns = ['x" AS y FROM range(1); DROP SCHEMA the_met; --', "2 sides"]
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerow([*HEADER, *columns])
        csv.writer(file).writerows([*museum_row(*artwork), "front", "back"] for artwork in ARTWORKS)
    rows = listing(capsys, "--attribute=medium", "--list=labels", f"--metadata_csv={path}")
    assert {label: int(count) for label, count in rows[1:]} == Counter(one_line(artwork[3]) for artwork in ARTWORKS)


@pytest.mark.parametrize(
    "flags",
    [
        ["--list=labels"],
        ["--list=artworks"],
        ["--list=labels", "--attribute=department"],
        ["--list=artworks", "--attribute=is_public_domain"],
        ["--list=artworks", "--before_comma", "--min_images=2"],
        [
            "--sql=SELECT object_id, title FROM `bigquery-public-data.the_met.objects`"
            " WHERE culture LIKE 'Ital%' ORDER BY 1 LIMIT 2"
        ],
        ["--sql=SELECT * FROM `bigquery-public-data.the_met.objects` ORDER BY object_id"],
    ],
    ids=" ".join,
)
def test_same_sql_same_rows_on_bigquery_and_on_the_csv(
    flags: list[str],
    metadata_csv: Path,
    service: tuple[BigQuery, Server],
    capsys: pytest.CaptureFixture[str],
) -> None:
    service[0].page_rows = 3
    local = listing(capsys, *flags, f"--metadata_csv={metadata_csv}")
    assert len(local) > 1
    assert listing(capsys, *flags, f"--api_endpoint={service[1].url}", "--project=p") == local


def test_artworks_on_bigquery_come_with_the_address_of_their_first_photograph(
    capsys: pytest.CaptureFixture[str],
) -> None:
    objects = (
        ["object_id", "department", "culture", "link_resource", "is_public_domain"],
        [
            [7, "D", "Iran", f"{LINK}7", "true"],
            [8, "D", "Iran", f"{LINK}8", "true"],
            [9, "D", "Iran", f"{LINK}9", "true"],
        ],
    )
    images = (
        ["object_id", "original_image_url", "gcs_url"],
        [[7, "http://m/7b", "gs://b/7/1.jpg"], [7, "http://m/7a", "gs://b/7/0.jpg"], [8, "http://m/8 a.jpg", None]],
    )
    double = BigQuery(
        {"bigquery-public-data.the_met.objects": objects, "bigquery-public-data.the_met.images": images}, {}
    )
    with serving(double) as server:
        rows = listing(capsys, f"--api_endpoint={server.url}")
    assert [row[3] for row in rows[1:]] == ["https://storage.googleapis.com/b/7/0.jpg", "http://m/8 a.jpg", ""]


def test_bigquery_says_the_bytes_first_and_pages_through_the_rows(
    service: tuple[BigQuery, Server], capsys: pytest.CaptureFixture[str]
) -> None:
    double, server = service
    double.page_rows = 2
    bigquery.main([f"--api_endpoint={server.url}"])
    output = capsys.readouterr()
    assert "reads 12.3 MB: 0.001% of the 1 TiB that is free each month" in output.err
    assert len(output.out.splitlines()) == 10
    assert double.pages == 5  # Nine labelled artworks.


def test_a_query_above_the_limit_is_not_run(service: tuple[BigQuery, Server], tmp_path: Path) -> None:
    double, server = service
    output = tmp_path / "arts.list"
    with pytest.raises(UserError, match=r"reads 12,345,678 bytes, more than --maximum_bytes_billed=1000000; select"):
        bigquery.main([f"--api_endpoint={server.url}", "--maximum_bytes_billed=1000000", f"--output={output}"])
    assert len(server.requests) == 1  # The dry run.
    assert not output.exists()
    double.bytes_processed = 2_000_000_000
    with pytest.raises(UserError, match="more than --maximum_bytes_billed=1073741824"):
        bigquery.main([f"--api_endpoint={server.url}"])


def test_an_output_that_cannot_be_is_found_before_a_query_is_billed(
    service: tuple[BigQuery, Server], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*/nowhere; make it, or name another"):
        bigquery.main([f"--api_endpoint={service[1].url}", f"--output={tmp_path / 'nowhere' / 'arts.list'}"])
    assert service[1].requests == []


def test_errors_of_bigquery_are_one_line(service: tuple[BigQuery, Server]) -> None:
    double, server = service
    with pytest.raises(UserError, match=r"BigQuery: .*no such column: objects\.colour"):
        bigquery.main([f"--api_endpoint={server.url}", "--attribute=colour"])
    double.quota_exceeded = True
    with pytest.raises(UserError, match=r"BigQuery: .*Quota exceeded"):
        bigquery.main([f"--api_endpoint={server.url}"])


def test_a_busy_bigquery_is_asked_again(service: tuple[BigQuery, Server], capsys: pytest.CaptureFixture[str]) -> None:
    service[0].busy_answers = 1
    assert len(listing(capsys, "--list=labels", f"--api_endpoint={service[1].url}")) == 9


def test_a_bigquery_that_says_nothing_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigquery, "RETRY_SECONDS", 0.3)
    with (
        serving(lambda handler: time.sleep(2)) as server,
        pytest.raises(Unreachable, match=r"^BigQuery cannot be reached, try again later: "),
    ):
        bigquery.main([f"--api_endpoint={server.url}"])


def test_an_answer_that_lost_rows_is_not_taken_for_whole(service: tuple[BigQuery, Server], tmp_path: Path) -> None:
    service[0].lost_rows = 2
    for service[0].page_rows in (3, 100):
        with pytest.raises(Unreachable, match=r"^BigQuery gave 7 of 9 rows; run the same command again$"):
            bigquery.main([f"--api_endpoint={service[1].url}", f"--output={tmp_path / 'arts.list'}"])
    assert not (tmp_path / "arts.list").exists()


ODD_ANSWERS = [
    (200, b"[]"),
    (200, b"{}"),
    (200, b"null"),
    (200, b'"x"'),
    (200, b""),
    (200, b"<html>Sign in</html>"),
    (400, b'{"error": "nope"}'),
    (400, b'{"error": null}'),
    (403, b"<html>No</html>"),
]


@pytest.mark.parametrize(("status", "answer"), ODD_ANSWERS, ids=str)
def test_answers_of_another_service_are_one_line(status: int, answer: bytes) -> None:
    with (
        serving(lambda handler: handler.reply(status, answer, "application/json")) as server,
        pytest.raises(UserError, match=r"^the answer is not one of BigQuery's \(.+\); check --api_end|^BigQuery: "),
    ):
        bigquery.main([f"--api_endpoint={server.url}"])


def test_no_account_points_to_the_way_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(UserError, match=r"gcloud auth application-default login, or .*--metadata_csv=MetObjects.csv"):
        bigquery.main([])


CREDENTIALS = {
    "empty": b"",
    "cut off": b'{"type": "serv',
    "no text": b"\xff\xfe{}",
    "list": b"[1]",
    "number": b"1",
    "no type": b"{}",
    "odd type": b'{"type": "friend"}',
    "no key": b'{"type": "service_account"}',
    "odd key": b'{"type": "service_account", "client_email": "x", "token_uri": "x", "private_key": "x"}',
    "no token": b'{"type": "authorized_user"}',
}


@pytest.mark.parametrize("content", CREDENTIALS.values(), ids=CREDENTIALS)
@pytest.mark.parametrize("way", ["variable", "login"])
def test_credentials_that_are_broken_are_named(
    way: str, content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / ("my.json" if way == "variable" else "application_default_credentials.json")
    path.write_bytes(content)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path) if way == "variable" else "")
    source = f"GOOGLE_APPLICATION_CREDENTIALS={path} holds" if way == "variable" else "gcloud has left"
    with pytest.raises(UserError, match=rf"{source} no usable credentials: .+; run: gcloud auth .*--metadata_csv="):
        bigquery.main([])


@pytest.mark.parametrize("path", ["/nothing.json", "/dev", "/dev/null"])
def test_credentials_that_are_no_file_are_named(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", path)
    with pytest.raises(UserError, match=f"^GOOGLE_APPLICATION_CREDENTIALS={path} holds no usable credentials: "):
        bigquery.main([])


def test_rules_rename_cut_and_drop(metadata_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels_map = tmp_path / "map.csv"
    labels_map.write_text("from,to\n*probably*,\nJapan,Japanese\nItal*,Roman\nItalian,Tuscan\n", encoding="utf-8")
    flags = ["--list=labels", f"--metadata_csv={metadata_csv}", f"--labels_map={labels_map}"]
    bigquery.main([*flags, "--min_images=2"])
    output = capsys.readouterr()
    assert output.out == "culture,objects\nJapanese,3\nRoman,3\n,1\n"
    assert output.err.splitlines()[:5] == [
        '"*probably*" dropped: 1 artwork, 1 label',
        '"Japan" -> "Japanese": 2 artworks, 1 label',
        '"Ital*" -> "Roman": 3 artworks, 2 labels',
        "min_images=2 dropped: 2 artworks, 2 labels",
        'matched nothing: 1 rule: "Italian" -> "Tuscan"',
    ]
    labels_map.write_text("from,to\nItalian,Tuscan\n", encoding="utf-8")
    rows = listing(capsys, *flags, "--before_comma")
    assert ["Tuscan", "3"] in rows and ["French", "2"] in rows and ["People's", "1"] in rows


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ('Japan,"Japanese\nChina,Chinese\n', "is not a CSV file: unexpected end"),
        ("Ja*,*\n", r"row 2 .* has \* in `to`"),
    ],
)
def test_a_rule_that_would_spoil_labels_is_refused(rows: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text(f"from,to\n{rows}")
    with pytest.raises(UserError, match=complaint):
        read_labels_map(tmp_path / "map.csv")


def test_a_list_of_nothing_replaces_none(metadata_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "arts.list").write_text("good")
    with pytest.raises(UserError, match="no label is left; lower --min_images"):
        bigquery.main([f"--metadata_csv={metadata_csv}", "--min_images=1000", f"--output={tmp_path / 'arts.list'}"])
    assert (tmp_path / "arts.list").read_text() == "good"


def test_only_a_comma_outside_parentheses_cuts_a_label() -> None:
    labels = {
        "Italian, Florence, Rome": "Italian",
        "Pakistan (ancient region of Gandhara, Bajaur)": "Pakistan (ancient region of Gandhara, Bajaur)",
        "China (Xinjiang, Central Asia), Kucha": "China (Xinjiang, Central Asia)",
        "French, Paris (Left Bank, Saint-Germain)": "French",
        "Iran (north, west": "Iran (north, west",
        "Iran), west": "Iran)",
    }
    assert clean_labels(dict.fromkeys(labels, 1), [], True, 0) == labels


@pytest.mark.parametrize(
    "text",
    [
        "from,to\nJapan,Japanese\nItal*,\n",
        "to,from\nJapanese,Japan\n,Ital*\n",
        "\ufefffrom , note,to\r\n Japan,as the museum has it, Japanese \r\n,,\r\n\r\nItal*,away with them,\r\n",
        'from,to\n"Ja\npan",x\nJapan ,"Japanese\n"\nItal*,\u3000\n',
    ],
)
def test_a_labels_map_is_read_by_the_names_of_its_columns(text: str, tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text(text, encoding="utf-8", newline="")
    rules = [tuple(rule) for rule in read_labels_map(path) if rule.source != "Ja pan"]
    assert rules == [("Japan", "Japanese"), ("Ital*", "")]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_a_query_in_a_file(
    mark: str, line_end: str, metadata_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = f"{mark}SELECT culture{line_end}FROM `bigquery-public-data.the_met.objects`{line_end}WHERE object_id = 6"
    (tmp_path / "q.sql").write_text(query, encoding="utf-8", newline="")
    rows = listing(capsys, f"--metadata_csv={metadata_csv}", f"--sql_file={tmp_path / 'q.sql'}")
    assert rows == [["culture"], ["French, Sèvres"]]


BLANKS = ["", " ", "\n", "\u00a0\u3000", "\u200b", "\u2800", "\u0301"]
SPELLINGS = ["Porcelain (Hizen)", "Porcelain\n(Hizen)", " Porcelain  (Hizen)\r\n", "Porcelain\u00a0(Hizen)"]


@pytest.mark.parametrize("flags", [[], ["--min_images=2"], ["--labels_map"]])
def test_blanks_are_no_labels_and_labels_are_one_line(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mediums = [*BLANKS, *SPELLINGS, "Franc\u0327ais", "Fran\u00e7ais"]
    path = tmp_path / "MetObjects.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerow(HEADER)
        csv.writer(file).writerows(museum_row(number, "", "True", medium) for number, medium in enumerate(mediums, 1))
    if flags == ["--labels_map"]:
        (tmp_path / "map.csv").write_text('from,to\n"Porcelain\n(Hizen)",China\n')
        flags = [f"--labels_map={tmp_path / 'map.csv'}"]
    name = "China" if "map" in "".join(flags) else "Porcelain (Hizen)"
    source = [f"--metadata_csv={path}", "--attribute=medium", *flags]
    labels = listing(capsys, "--list=labels", *source)[1:]
    assert labels == [["", str(len(BLANKS))], [name, "4"], ["Fran\u00e7ais", "2"]]
    rows = listing(capsys, *source)[1:]
    assert [row[1] for row in rows] == 4 * [name] + 2 * ["Fran\u00e7ais"]


def test_artworks_get_the_cleaned_labels(
    metadata_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels_map = tmp_path / "map.csv"
    labels_map.write_text('from,to\n"Italian, Rome",\nJapan,Japanese\n', encoding="utf-8")
    rows = listing(capsys, f"--metadata_csv={metadata_csv}", f"--labels_map={labels_map}", "--min_images=2")
    assert [(row[1], row[2].rpartition("/")[2]) for row in rows[1:]] == [
        ("Japanese", "1"),
        ("Japanese", "2"),
        ("Italian, Florence", "3"),
        ("Italian, Florence", "5"),
        ("Japanese", "10"),
    ]


def test_the_map_for_culture_leaves_nothing_uncertain() -> None:
    rules = read_labels_map(REPO / "culture-labels.csv")
    labels = dict.fromkeys(
        [
            "Japan",
            "Japanese",
            "China",
            "French, probably Paris",
            "Possibly Greek",
            "Iran?",
            "Dutch or Flemish",
            "Roman Cypriot",
        ],
        1,
    )
    assert clean_labels(labels, rules, False, 0) == {
        "Japan": "Japanese",
        "Japanese": "Japanese",
        "China": "Chinese",
        "Roman Cypriot": "Roman, Cypriot",
    }
    sources = [rule.source for rule in rules]
    assert len(sources) == len(set(sources))
    # A target that is itself a source would make the result depend on how often the rules are applied.
    assert not {rule.target for rule in rules} & set(sources)
    assert not [rule for rule in rules if re.search(r"\?|probably|possibly| or ", rule.target)]


def test_a_label_may_be_none(tmp_path: Path) -> None:
    """As text; which Python writes for no value, too."""
    lines = "".join(
        f"{number},Asian Art,{culture},True,https://www.metmuseum.org/art/collection/search/{number}\n"
        for number, culture in enumerate(["None", "None", "", "French", "French"], 1)
    )
    path = tmp_path / "MetObjects.csv"
    path.write_text(f"Object ID,Department,Culture,Is Public Domain,Link Resource\n{lines}")
    for kind, flag, expected in [
        ("artworks", "--min_images=0", Counter({"None": 2, "French": 2})),
        ("artworks", "--min_images=1", Counter({"None": 2, "French": 2})),
        ("labels", "--min_images=1", Counter({"None": 2, "French": 2, "": 1})),
    ]:
        output = tmp_path / "out.csv"
        bigquery.main([f"--metadata_csv={path}", f"--output={output}", f"--list={kind}", flag])
        with open(output, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if kind == "artworks":
            assert Counter(row["label"] for row in rows) == expected
        else:
            assert {row["culture"]: int(row["objects"]) for row in rows} == expected


@pytest.mark.parametrize("year", ["2017", "today"])
def test_the_map_for_culture_on_the_labels_of_the_museum(year: str, tmp_path: Path) -> None:
    path = shared_file("cultures-2017.csv")
    if year == "today":
        path = tmp_path / "cultures-all.list"
        bigquery.main([f"--metadata_csv={shared_csv()}", "--list=labels", f"--output={path}"])
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = [(row["culture"], int(row["objects"])) for row in csv.DictReader(file)]
    counts, _ = bigquery.count_labels(rows)
    del counts[""]
    kept = clean_labels(counts, read_labels_map(REPO / "culture-labels.csv"), False, 0)
    names = set(kept.values())
    uncertain = re.compile(r"\?|\bor\b|perhaps|possibly|probably|unknown", re.IGNORECASE)
    assert not [name for name in names if uncertain.search(name)]
    assert not [label for label in counts.keys() - kept.keys() if not uncertain.search(label)]
    # No two names are left that differ in case, accents or punctuation only.
    letters = {re.sub(r"[\W_]", "", unicodedata.normalize("NFD", name)).casefold() for name in names}
    assert len(letters) == len(names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Japan,Japanese\n", "must begin with the line: from,to"),
        (b"from,to,to\na,b,c\n", "must begin with the line: from,to"),
        (b"from,to\n\xe3\x80\x80,b\n", "row 2 of .* is not from,to"),
        (b"from,to\nItalian, Rome,Italian\n", "row 2 of .* is not from,to; quote"),
        (b"from,to\n,Italian\n", "row 2 of .* is not from,to"),
        (b"from,to\n\xff,x\n", "map.csv:2 is not text in UTF-8"),
        (b"from,to\na,b\na,\n", 'row 3 of .* says "a" dropped, and a row before it something else'),
        (b"from,to\n*x,b\nc,b\n*x,b\n*x,c\n", r'row 5 of .* says "\*x" -> "c", and'),
        (None, "does not exist; the one for culture is culture-labels.csv"),
    ],
)
def test_a_wrong_labels_map(content: bytes | None, message: str, metadata_csv: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        bigquery.main([f"--metadata_csv={metadata_csv}", f"--labels_map={path}"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 318000000\n",
            "is a Git LFS pointer, .*git lfs pull, or",
        ),
        (b"<html><body>No such page</body></html>", "is not the museum's MetObjects.csv: no column department, is_p"),
        (b"", "is not the museum's MetObjects.csv"),
        (b"\x1f\x8b\x08 not really", "is a damaged gzip file"),
        (b"Object ID,Department,Link Resource\n1,D,L\n", "no column is_public_domain;"),
        (
            b"Object ID,Department,Link Resource,Is Public Domain,Culture\nx,D,L,True,C\n",
            "MetObjects.csv:2 has 'x' as its Object ID$",
        ),
        (
            b'Object ID,Department,Link Resource,Is Public Domain,Culture\n1,"D,L,True,C\n',
            "MetObjects.csv:2 is not a line of a CSV file: unexpected end of data$",
        ),
        (
            b"Object ID,Department,Link Resource,Is Public Domain,Culture\n",
            "^there is no artwork with the attribute culture; check the data, or --attribute$",
        ),
    ],
    ids=["lfs", "html", "empty", "binary", "column", "type", "cut off", "no rows"],
)
def test_a_wrong_csv(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "MetObjects.csv"
    path.write_bytes(content)
    output = tmp_path / "arts.list"
    with pytest.raises(UserError, match=message):
        bigquery.main([f"--metadata_csv={path}", f"--output={output}"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["MetObjects.csv"]


def test_wrong_queries(metadata_csv: Path, tmp_path: Path) -> None:
    here = f"--metadata_csv={metadata_csv}"
    with pytest.raises(UserError, match=r'named "colour".*; the columns of .* are: object_number, is_public_domain, '):
        bigquery.main([here, "--attribute=colour"])
    for query in ("SELECT FROM WHERE", "SELECT 'no end"):
        with pytest.raises(UserError, match="not valid SQL"):
            bigquery.main([here, f"--sql={query}"])
    table = "`bigquery-public-data.the_met.objects`"
    with pytest.raises(
        UserError, match=r"runs on BigQuery only, if at all: the function INITCAP; doc/sql.md says what"
    ):
        bigquery.main([here, f"--sql=SELECT INITCAP(title) FROM {table}"])
    with pytest.raises(UserError, match=r"^the query ends with an error: division by zero$"):
        bigquery.main([here, "--sql=SELECT 1 / 0"])
    with pytest.raises(UserError, match=r"^the query ends with an error: Overflow in multiplication of INT64"):
        bigquery.main([here, f"--sql=SELECT 9223372036854775807 * object_id FROM {table} WHERE object_id > 1"])
    for query in ("", "DROP TABLE x", "SELECT 1; SELECT 2", "EXPLAIN SELECT 1", f"COPY (SELECT 1) TO '{tmp_path}/x'"):
        with pytest.raises(UserError, match="must be one SELECT"):
            bigquery.main([here, f"--sql={query}"])
    for flag in ("--min_images=3", "--list=labels", "--attribute=artist"):
        with pytest.raises(SystemExit, match="2"):
            bigquery.main([here, "--sql=SELECT 1", flag])
    (tmp_path / "query.sql").write_bytes(b"SELECT '\xff'")
    with pytest.raises(UserError, match=r"query.sql:1 is not text in UTF-8"):
        bigquery.main([here, f"--sql_file={tmp_path / 'query.sql'}"])
    with pytest.raises(SystemExit, match="2"):
        bigquery.main([here, "--attribute=42"])


@pytest.mark.parametrize("flag", ["--metadata_csv", "--sql_file", "--labels_map"])
def test_what_is_read_is_not_replaced(flag: str, metadata_csv: Path, tmp_path: Path) -> None:
    files = {
        "--metadata_csv": metadata_csv.read_text("utf-8"),
        "--sql_file": "SELECT 1",
        "--labels_map": "from,to\nJapan,Japanese\n",
    }
    path, link = tmp_path / "input", tmp_path / "link"
    path.write_text(files[flag], encoding="utf-8")
    link.symlink_to(path)
    for output in (path, link):
        with pytest.raises(UserError, match=rf"^--output={output} is a file that is read here; name another one$"):
            bigquery.main([f"--metadata_csv={metadata_csv}", f"{flag}={path}", f"--output={output}"])
    assert path.read_text("utf-8") == files[flag]


INTERRUPTED_QUERY = """
import os, pathlib, signal, sys, threading
from metart.common import flags
from metart.museum.metobjects import open_metadata_csv

def main(_):
    with open_metadata_csv(pathlib.Path(sys.argv[1])) as query:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        list(query(sys.argv[2]).rows)

flags.run(main)
"""


def test_ctrl_c_ends_a_query_that_would_take_hours(metadata_csv: Path) -> None:
    numbers = "UNNEST(GENERATE_ARRAY(1, 16000))"
    sql = f"SELECT SUM(a * b - c) FROM {numbers} AS a, {numbers} AS b, {numbers} AS c"
    command = [sys.executable, "-c", INTERRUPTED_QUERY, str(metadata_csv), sql]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (128 + signal.SIGINT, "")
    assert done.stderr == "interrupted: run the same command again to continue\n"


def test_own_query_from_a_file_and_bigquery_functions(
    metadata_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "query.sql"
    path.write_text(
        "SELECT SAFE_CAST(REGEXP_EXTRACT(link_resource, r'(\\d+)$') AS INT64) AS id,\n"
        "IFNULL(culture, 'none') AS culture\n"
        "FROM `bigquery-public-data`.the_met.objects WHERE object_id IN UNNEST([4, 6]) ORDER BY id",
        encoding="utf-8",
    )
    rows = listing(capsys, f"--metadata_csv={metadata_csv}", f"--sql_file={path}")
    assert rows == [["id", "culture"], ["4", "none"], ["6", "French, Sèvres"]]


def test_names_are_those_of_bigquery(metadata_csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A project with a dash needs no quotes; columns without a name are numbered."""
    sql = (
        "SELECT culture, COUNT(*), 'x' AS x, MAX(o.object_id) FROM bigquery-public-data.the_met.objects o"
        " WHERE Culture = 'Japan' GROUP BY 1"
    )
    rows = listing(capsys, f"--metadata_csv={metadata_csv}", f"--sql={sql}")
    assert rows == [["culture", "f0_", "x", "f1_"], ["Japan", "2", "x", "10"]]


def test_gzip_and_https_addresses(metadata_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = listing(capsys, "--list=labels", f"--metadata_csv={metadata_csv}")
    packed = tmp_path / "MetObjects.csv.gz"
    packed.write_bytes(gzip.compress(metadata_csv.read_bytes()))
    assert listing(capsys, "--list=labels", f"--metadata_csv={packed}") == expected
    files = {"/MetObjects.csv": metadata_csv.read_bytes(), "/MetObjects.csv.gz": packed.read_bytes()}
    with serving(
        lambda handler: handler.reply(200 if handler.path in files else 404, files.get(handler.path, b""), "text/csv")
    ) as server:
        for name in files:
            assert listing(capsys, "--list=labels", f"--metadata_csv={server.url}{name}") == expected
        with pytest.raises(UserError, match=r"/nothing.csv: 404 Not Found; the museum's file is at https://"):
            bigquery.main([f"--metadata_csv={server.url}/nothing.csv"])


def test_output_is_utf8_whatever_the_locale(metadata_csv: Path) -> None:
    run = run_script(
        "bigquery.py",
        "--list=labels",
        f"--metadata_csv={metadata_csv}",
        environment={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )
    assert run.status == 0 and "French, Sèvres" in run.output and "\r" not in run.output


def test_a_missing_file_is_one_line_and_status_1(tmp_path: Path) -> None:
    run = run_script("bigquery.py", f"--metadata_csv={tmp_path}/nothing.csv")
    assert (run.status, run.output) == (1, "")
    assert run.errors.startswith(f"error: there is no {tmp_path}/nothing.csv; the museum's file is at https://")
    assert run.errors.count("\n") == 1


def test_real_listings_equal_independent_counts(
    museum_rows: list[dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"--metadata_csv={shared_csv()}"
    for attribute, name in (("culture", "Culture"), ("artist", "Artist Display Name"), ("period", "Period")):
        rows = listing(capsys, source, "--list=labels", f"--attribute={attribute}")
        assert rows[0] == [attribute, "objects"]
        assert {label: int(count) for label, count in rows[1:]} == Counter(one_line(row[name]) for row in museum_rows)
    rows = listing(capsys, source)
    assert Counter(map(tuple, rows[1:])) == Counter(
        (row["Department"], one_line(row["Culture"]), row["Link Resource"], "", row["Is Public Domain"])
        for row in museum_rows
        if row["Culture"]
    )


def test_real_rows_are_the_same_through_bigquery(
    museum_rows: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    columns = [column_name(name) for name in museum_rows[0]]
    assert len(set(columns)) == 54
    everything = f"--sql=SELECT {', '.join(columns)} FROM `bigquery-public-data.the_met.objects` ORDER BY object_id"
    with serving(as_bigquery(museum_rows)) as server:
        for flags in (["--list=labels"], ["--list=artworks"], [f"{everything} LIMIT 2000"]):
            local = listing(capsys, *flags, f"--metadata_csv={shared_csv()}")
            assert listing(capsys, *flags, f"--api_endpoint={server.url}") == local
    # All 54 columns of all rows, against the csv module.
    expected = sorted(museum_rows, key=lambda row: int(row["Object ID"]))
    assert listing(capsys, everything, f"--metadata_csv={shared_csv()}")[1:] == [list(row.values()) for row in expected]


def test_60_000_rows_in_400_megabytes(tmp_path: Path) -> None:
    output = tmp_path / "arts-all.list"
    run = run_script("bigquery.py", f"--metadata_csv={shared_csv()}", f"--output={output}")
    print(run)
    assert run.output == f"Wrote 48,482 artworks to {output}\n"
    assert run.peak_megabytes < 400


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_485_000_rows_in_400_megabytes(tmp_path: Path) -> None:
    with gzip.open(shared_csv(), "rt", encoding="utf-8-sig", newline="") as file:
        header, *rows = csv.reader(file)
    path = tmp_path / "MetObjects.csv"
    object_id = header.index("Object ID")
    filled = {header.index("Credit Line"): "Gift of " + "somebody " * 20, header.index("Dimensions"): "3 x 4\n" * 30}
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for number in range(485_000):  # As many bytes as the museum's file has, 0.3 GB.
            row = rows[number % len(rows)]
            row[object_id] = str(number)
            for column, text in filled.items():
                row[column] = text
            writer.writerow(row)
    for flags in (["--list=labels"], [], ["--before_comma", f"--labels_map={REPO / 'culture-labels.csv'}"]):
        run = run_script("bigquery.py", *flags, f"--metadata_csv={path}", f"--output={tmp_path / 'arts-all.list'}")
        print(path.stat().st_size, flags, run)
        assert run.status == 0
        assert run.peak_megabytes < 400
