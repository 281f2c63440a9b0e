"""files.py: a file is there whole or not at all."""

from collections.abc import Callable, Iterator
import contextlib
import csv
import io
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import threading

from processes import REPO
import pytest

from metart.common.files import (
    LOCK_FILENAME,
    PARTIAL_SUFFIX,
    csv_line,
    locked,
    make_folder,
    open_replacing,
    open_seekable,
    replacing,
    replacing_folder,
)
from metart.common.flags import Retry, UserError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_new_file_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    target.chmod(0o640)
    with open_replacing(target) as file:
        file.write("new, é\r\n")
        assert target.read_text() == "old"
    assert target.read_bytes() == "new, é\r\n".encode()
    assert target.stat().st_mode & 0o777 == 0o640
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


def test_a_folder_is_replaced_as_a_whole_or_stays(tmp_path: Path) -> None:
    def write(text: str) -> None:
        with replacing_folder(tmp_path / "model") as new:
            (new / text).touch()
            if text == "broken":
                raise OSError("disk")

    for text in ("first", "second"):
        write(text)
        (tmp_path / "partial-model").mkdir()  # Of a run that was killed.
        assert [path.name for path in (tmp_path / "model").iterdir()] == [text]
        with pytest.raises(OSError, match="disk"):
            write("broken")
        assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(["model", text])
    (tmp_path / "link").symlink_to("model")
    with replacing_folder(tmp_path / "link") as new:
        (new / "second").touch()
    assert (tmp_path / "link").is_symlink() and [path.name for path in (tmp_path / "model").iterdir()] == ["second"]
    (tmp_path / "link").unlink()
    (tmp_path / "model").rename(tmp_path / "former-model")  # Killed when the new one had not taken its place yet.
    with pytest.raises(OSError, match="disk"):
        write("broken")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model", "second"]


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


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with open_replacing(target) as file:
        file.write("first")
        with pytest.raises(Retry, match=rf" is writing {target}; run the same command again"), open_replacing(target):
            raise AssertionError("the work began")
    assert target.read_text() == "first"
    assert names(tmp_path) == ["a.txt"]
    with open_replacing(target) as file:
        file.write("second")
    assert target.read_text() == "second"


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
@pytest.mark.parametrize("write", [lock, make_folder])
def test_a_folder_of_ones_own_that_is_read_only_is_an_error_with_advice(write: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 1000, 1000)
        Path(folder).chmod(0o555)
        with as_user(1000), pytest.raises(UserError, match=r"may not write there; .* or run `chmod u\+rwx` on it$"):
            write(Path(folder) / "new")
        Path(folder).chmod(0o755)  # The advice.
        with as_user(1000):
            write(Path(folder) / "new")


@pytest.mark.parametrize("write", [lock, make_folder])
def test_what_is_in_the_place_of_a_folder_is_named(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        with pytest.raises(UserError, match=f"^{tmp_path / name} is a file, or a link to nothing; remove it or name"):
            write(tmp_path / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_that_was_taken_away_is_named_before_anything_is_computed() -> None:
    with tempfile.TemporaryDirectory() as volume:
        Path(volume).chmod(0o755)
        lock(Path(volume))
        os.chown(Path(volume) / LOCK_FILENAME, 1000, 1000)  # The lock alone can still be opened.
        with as_user(1000), pytest.raises(UserError, match=f"^{volume} belongs to user 0:0 "):
            lock(Path(volume))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_lock_of_another_user_is_named() -> None:
    with tempfile.TemporaryDirectory() as volume:
        lock(Path(volume))
        Path(volume).chmod(0o777)
        with as_user(1000), pytest.raises(UserError, match=f"^{volume}/{LOCK_FILENAME} belongs to user 0:0 "):
            lock(Path(volume))


def fill(path: Path | str, before: str = "", after: str = "", redirect: str = "") -> str:
    """Writes "new" to `path` in a process of its own, whose standard output is returned."""
    program = (
        "import sys\nfrom metart.common.files import open_replacing\nprint(sys.argv[2], end='')\n"
        "with open_replacing(sys.argv[1]) as file:\n    file.write('new ')\nprint(sys.argv[3], end='')\n"
    )
    command = ["bash", "-c", f'"$0" -c "$1" {path} "$2" "$3" {redirect}', sys.executable, program, before, after]
    return subprocess.run(command, cwd=REPO, stdout=subprocess.PIPE, text=True, check=True).stdout


def test_a_pipe_is_written_through(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to("pipe")
    for path in (pipe, tmp_path / "link"):
        received: list[str] = []
        reader = threading.Thread(target=lambda received=received: received.append(pipe.read_text()))
        reader.start()
        with open_replacing(path) as file:
            file.write("new")
        reader.join()
        assert received == ["new"]
        assert pipe.is_fifo()
    assert names(tmp_path) == ["link", "pipe"]
    assert fill(">(cat)") == "new "


def test_the_output_of_the_process_is_written_through(tmp_path: Path) -> None:
    for path in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        if Path(path).exists():
            assert fill(path, "before ", " after") == "before new  after"
    log = tmp_path / "log"
    log.write_text("old ")
    fill("/dev/stdout", "before ", "after", f">> {log}")
    assert log.read_text() == "old before new after"
    fill("/dev/stdout", "before ", "after", f"> {log}")
    assert log.read_text() == "before new after"
    fill("/dev/fd/3", redirect=f"3> {log}")
    assert log.read_text() == "new "


def test_a_device_stays(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o20666, os.makedev(1, 3))
        device.write_text("")
    except OSError:
        pytest.skip("only root may make a device, and not everywhere")
    with open_replacing(device) as file:
        file.write("new")
    assert device.is_char_device()
    assert names(tmp_path) == ["null"]


@pytest.mark.parametrize("content", ["old", None])
def test_a_link_stays_and_what_it_leads_to_is_replaced(content: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    if content:
        (folder / "a.txt").write_text(content)
    (tmp_path / "link").symlink_to("elsewhere/a.txt")
    (tmp_path / "link to link").symlink_to("link")
    with open_replacing(tmp_path / "link to link") as file:
        file.write("new")
    assert (folder / "a.txt").read_text() == "new"
    assert (tmp_path / "link").is_symlink() and (tmp_path / "link to link").is_symlink()
    assert names(folder) == ["a.txt"]


def test_what_cannot_be_written_is_an_error_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("x")
    for name in ("folder", "link", "loop", "file/x", "nowhere/x"):
        with pytest.raises((OSError, UserError)) as error, replacing(tmp_path / name):
            raise AssertionError("the work began")
        assert str(tmp_path / name) in str(error.value)
        assert PARTIAL_SUFFIX not in str(error.value)
    assert names(tmp_path) == ["file", "folder", "link", "loop"]


@pytest.mark.parametrize("text", ["", "a", "a,b", 'a"b', "a\rb", "a\nb", "a\r\nb", "\r", "\n", "a\r\n", " é\u2028"])
def test_a_row_of_csv_is_read_as_it_was_written(text: str) -> None:
    rows = [[text], ["x", text], [text, "x"], ["1", "x"]]
    written = "".join(map(csv_line, rows))
    assert list(csv.reader(io.StringIO(written, newline=""))) == rows
    if not set("\r\n") & set(text):
        plain = io.StringIO(newline="")
        csv.writer(plain, lineterminator="\n").writerows(rows)
        assert written == plain.getvalue()


def read_twice(path: Path | str) -> bytes:
    with open_seekable(path) as file:
        first = file.read()
        file.seek(0)
        assert file.read() == first == Path(file.name).read_bytes()
        return first


def test_a_pipe_is_read_again_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(b"x" * 100_000))
    writer.start()
    assert read_twice(tmp_path / "pipe") == read_twice(tmp_path / "file") == read_twice(tmp_path / "link")
    writer.join()


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    for path, error in (("/dev/zero", UserError), ("/dev/null", UserError), (tmp_path, IsADirectoryError)):
        with pytest.raises(error, match=str(path)), contextlib.ExitStack() as stack:
            stack.enter_context(open_seekable(path))
