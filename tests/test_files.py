"""files.py: a file is there whole or not at all."""

from collections.abc import Callable, Iterator
import contextlib
import os
from pathlib import Path
import subprocess
import sys
import tempfile

from processes import REPO
import pytest

from metart.common.files import LOCK_FILENAME, PARTIAL_SUFFIX, locked, make_folder, open_replacing, replacing
from metart.common.flags import UserError


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


@contextlib.contextmanager
def as_user(number: int) -> Iterator[None]:
    """Does the block as another user, as a pod does that is not root."""
    os.setegid(number)
    os.seteuid(number)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def lock(folder: Path) -> None:
    with locked(folder):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("write", [lock, make_folder])
@pytest.mark.parametrize(("folder", "mode"), [("", 0o755), ("new", 0o755), ("new/newer", 0o755), ("", 0o700)])
def test_a_volume_of_another_user_is_an_error_with_advice(
    write: Callable[[Path], None], folder: str, mode: int
) -> None:
    with tempfile.TemporaryDirectory() as volume:  # As a hostPath that root made.
        Path(volume).chmod(mode)
        with as_user(1000), pytest.raises(UserError) as error:
            write(Path(volume) / folder)
        assert str(error.value).startswith(
            f"{volume} belongs to user 0:0 (mode {mode:o}) and user 1000:1000 may not write there; "
        )
        assert "`chown --recursive 1000:1000`" in str(error.value)
        assert names(Path(volume)) == []

        os.chown(volume, 1000, 1000)  # The advice.
        with as_user(1000):
            write(Path(volume) / folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_lock_of_another_user_is_named() -> None:
    with tempfile.TemporaryDirectory() as volume:
        lock(Path(volume))
        Path(volume).chmod(0o777)
        with as_user(1000), pytest.raises(UserError, match=f"^{volume}/{LOCK_FILENAME} belongs to user 0:0 "):
            lock(Path(volume))
