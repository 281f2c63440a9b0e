"""artworks.py: which artworks a list names, and which of them a run should have."""

import os
from pathlib import Path
import threading

import pytest

from metart.common.flags import UserError
from metart.museum.artworks import Artwork, open_list, pick_labels, read_artworks, select

LINK = "http://www.metmuseum.org/art/collection/search/"


def read(tmp_path: Path, content: str | bytes) -> list[Artwork]:
    path = tmp_path / "arts.list"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_artworks(path))


@pytest.mark.parametrize(
    "content",
    [
        f"department,label,link_resource,image_url,is_public_domain\nAsian Art,Chinese,{LINK}1,http://x/1.jpg,True\n",
        f"label,department,link_resource,image_url,is_public_domain\nChinese,Asian Art,{LINK}1,http://x/1.jpg,True\n",
        f"is_public_domain,image_url,link_resource,label\ntrue,http://x/1.jpg,{LINK}1,Chinese\n",
        f"title,link_resource,label,price,is_public_domain,image_url\nA,{LINK}1,Chinese,3,TRUE,http://x/1.jpg\n",
        f"department,culture,link_resource,image_url,is_public_domain\nA,Chinese,{LINK}1,http://x/1.jpg,True\n",
        f"link_resource,Culture,image_url,is_public_domain\n{LINK}1,Chinese,http://x/1.jpg,True\n",
        f"\ufeff Label ,LINK_RESOURCE,image_url,is_public_domain\r\n Chinese ,{LINK}1 , http://x/1.jpg, True \r\n\r\n",
        f"label,link_resource,image_url,is_public_domain\n\n,,,\nChinese,{LINK}1/,http://x/1.jpg,True\n,,,\n",
    ],
)
def test_columns_are_found_by_their_names(content: str, tmp_path: Path) -> None:
    assert read(tmp_path, content) == [Artwork(1, "Chinese", "http://x/1.jpg", True)]


@pytest.mark.parametrize(
    "header",
    [
        "department,label",
        "department,link_resource",
        "culture,period,link_resource",
        "label,label,link_resource",
        "label,link_resource,link_resource",
        "department,label,link",
        "label;link_resource",
        "department,object_id,link_resource",
        "",
    ],
)
def test_a_header_that_leaves_a_doubt_is_refused(header: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^the first line of .*arts.list must name the columns label and link_resource, .* department,"
    ):
        read(tmp_path, f"{header}\nA,B,{LINK}1\n")


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ('"Porcelain\n(Jingdezhen ware)"', "Porcelain (Jingdezhen ware)"),
        ('"Porcelain\r\n(Jingdezhen ware)"', "Porcelain (Jingdezhen ware)"),
        ("  Franc\u0327ais\u00a0", "Fran\u00e7ais"),
        ('"Italian,  Florence"', "Italian, Florence"),
    ],
)
def test_labels_are_made_one_line(label: str, expected: str, tmp_path: Path) -> None:
    assert [artwork.label for artwork in read(tmp_path, f"label,link_resource\n{label},{LINK}1\n")] == [expected]


@pytest.mark.parametrize("blank", ["", " ", '"\n"', "\u3000\u00a0", "\u200b", "\ufe0f", "\u3164", "\u2800", "\0"])
def test_a_blank_is_no_label(blank: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"arts.list:\d has no label; remove the line"):
        read(tmp_path, f"label,link_resource\n{blank},{LINK}1\n")


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (f"label,link_resource\nChina,{LINK}1\nChin\xe9,{LINK}2\n".encode("latin-1"), ":3 is not text in UTF-8"),
        (f"(u'A', u'Chin\xe9', u'{LINK}2')\n".encode("latin-1"), ":1 is not text in UTF-8"),
        (f"label,link_resource\nChina,{LINK}1\n".encode("utf-16"), "1 is not text in UTF-8"),
        (f"label,link_resource\nChina,{LINK}1\n".encode("utf-16-be"), "the first line of"),
        (
            f'label,link_resource\n"Chi\nna",{LINK}1\n"no end'.encode(),
            ":4 is not a line of a CSV file: unexp",
        ),
        (f"('A', 5, '{LINK}1')\n".encode(), ":1 is not "),
        (f"('A', b'China', '{LINK}1')\n".encode(), ":1 is not "),
        (f'label,link_resource\nFrench,"{LINK}2\nFrench,{LINK}3"\n'.encode(), ":3 ends an address of several lines"),
        (b"label,link_resource\n" + 140_000 * b"x" + f",{LINK}1\n".encode(), ":2 is not a line of a CSV file"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(content: bytes, place: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=place):
        read(tmp_path, content)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_they_may(end: str, tmp_path: Path) -> None:
    lines = [f"label,link_resource{end}", f"China,{LINK}1\n", f"Japan,{LINK}2{end}", f"Iran,{LINK}3"]
    assert [artwork.label for artwork in read(tmp_path, "".join(lines))] == ["China", "Japan", "Iran"]
    lines = [end, f"  (u'A', u'China', u'{LINK}1'){end}", f"('A', 'Japan', '{LINK}2'),\n"]
    assert [artwork.label for artwork in read(tmp_path, "".join(lines))] == ["China", "Japan"]


def test_a_list_from_a_pipe_is_read_as_often_as_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = "label,link_resource\n" + "".join(f"L{number % 3},{LINK}{number}\n" for number in range(9000))
    writer = threading.Thread(target=lambda: pipe.write_text(text))
    writer.start()
    with open_list(pipe) as reader:
        first = list(reader())
        assert list(reader()) == first
        assert len(first) == 9000
    writer.join()
    with (
        pytest.raises(UserError, match=r"nothing.list does not exist; name the list"),
        open_list(tmp_path / "nothing.list"),
    ):
        pass


def of(*numbers: int, label: str = "L", public: bool | None = True) -> list[Artwork]:
    return [Artwork(number, label, "", public) for number in numbers]


@pytest.mark.parametrize(
    ("artworks", "limits", "expected"),
    [
        (of(1, 1, 1, 2, 3), (None, 3), [1, 2, 3]),
        (of(1, 1, 1, 2, 3), (2, None), [1, 2]),
        (of(1, 2, 1, 2, 3, 4), (3, 3), [1, 2, 3]),
        (of(5, 5, public=False) + of(1, 1, 2), (None, 2), [1, 2]),
        (of(1, 1) + of(1, 2, 2, label="M"), (None, 2), [1, 1, 2]),
        (of(1, public=False) + of(1) + of(2), (None, 1), [1]),
        ([], (3, 3), []),
    ],
)
def test_limits_count_each_object_once(
    artworks: list[Artwork], limits: tuple[int | None, int | None], expected: list[int]
) -> None:
    assert [artwork.object_id for artwork in select(artworks, True, *limits, 1, 0)] == expected
    parts = [select(artworks, True, *limits, 3, shard) for shard in range(3)]
    assert sorted(artwork.object_id for part in parts for artwork in part) == sorted(expected)


KNOWN = {
    "American",
    "China",
    "Italian",
    "Italian, Florence",
    "Florence",
    "Southern Netherlandish,",
    "India (West Bengal,Chandraketugarh)",
    "Français",
}


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], KNOWN),
        (["American"], {"American"}),
        (["American,China"], {"American", "China"}),
        (["American, China"], {"American", "China"}),
        (["American", "China"], {"American", "China"}),
        (["Italian, Florence"], {"Italian, Florence"}),
        (["China,Italian, Florence,American"], {"China", "Italian, Florence", "American"}),
        (["Italian,Florence"], {"Italian", "Florence"}),
        (["Southern Netherlandish,,China"], {"Southern Netherlandish,", "China"}),
        (["India (West Bengal,Chandraketugarh),China"], {"India (West Bengal,Chandraketugarh)", "China"}),
        (["Franc\u0327ais,  Italian,   Florence ,"], {"Français", "Italian, Florence"}),
    ],
)
def test_labels_are_picked_by_name(texts: list[str], expected: set[str]) -> None:
    assert pick_labels(texts, KNOWN) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Amercan", "no artwork of the list has the label 'Amercan'; the one most like it is 'American'"),
        ("China,french", "no artwork of the list has the label 'french'; the one most like it is '"),
        ("Italian, Rome", "no artwork of the list has the label 'Rome'"),
    ],
)
def test_a_label_that_the_list_has_not_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pick_labels([text], KNOWN)
    with pytest.raises(UserError, match=r"has the label '[^']*'$"):
        pick_labels([text], [])


@pytest.mark.parametrize("text", ["", " , "])  # As --labels="$LABELS" where nothing has set that.
def test_no_label_is_not_all_labels(text: str) -> None:
    with pytest.raises(UserError, match="--labels names no label; give one, or leave it out for all"):
        pick_labels([text], KNOWN)
