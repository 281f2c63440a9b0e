"""files.py: a file is there whole or not at all."""

from pathlib import Path
import subprocess
import sys

from processes import REPO
import pytest

from metart.common.files import PARTIAL_SUFFIX, open_replacing, replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_new_file_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with open_replacing(target) as file:
        file.write("new, é\r\n")
        assert target.read_text() == "old"
    assert target.read_bytes() == "new, é\r\n".encode()
    assert names(tmp_path) == ["a.txt"]
    with open_replacing(target, "wb") as file:
        file.write(b"\xff")
    assert target.read_bytes() == b"\xff"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file(error: type[BaseException], tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error), open_replacing(target) as file:
        file.write("half")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_what_a_killed_run_left_is_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    program = f"""
import os, sys
from metart.common.files import open_replacing
with open_replacing({str(target)!r}) as file:
    file.write("a longer half of a file")
    file.flush()
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", program], cwd=REPO, check=False)
    assert names(tmp_path) == ["a.txt" + PARTIAL_SUFFIX]
    with open_replacing(target) as file:
        file.write("whole")
    assert target.read_text() == "whole"
    assert names(tmp_path) == ["a.txt"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []
