"""Progress: whole lines in a log, a bar on a terminal."""

import fcntl
import os
from pathlib import Path
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from metart.common import progress
from metart.common.progress import Progress

REPOSITORY = Path(__file__).parent.parent


def test_a_log_gets_one_line_at_the_end_of_short_work(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("converting", 1500, "pictures") as shown:
        for _ in range(1500):
            shown.update(note="3 bad")
    line = capsys.readouterr().err
    assert re.fullmatch(r"converting: 1,500 of 1,500 pictures, [\d,]+\.\d/s, 3 bad\n", line)


def test_a_log_gets_lines_with_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 105.0, 110.0, 110.0, 111.0, 120.0, 120.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress("training", 100, "steps", initial=20) as shown:
        for _ in range(4):
            shown.update(10)
    assert capsys.readouterr().err.splitlines() == [
        "training: 40 of 100 steps, 2.0/s, 00:30 left",  # 20 in 10 s; what a former run did does not count.
        "training: 60 of 100 steps, 2.0/s, 00:20 left",
    ]


def test_an_end_that_is_not_known_has_no_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("downloading", None, "files") as shown:
        shown.update(2)
    assert re.fullmatch(r"downloading: 2 files, [\d,]+\.\d/s\n", capsys.readouterr().err)


def test_work_without_an_item_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("evaluating", 10, "pictures"):
        pass
    assert capsys.readouterr().err == ""


def test_what_was_done_is_told_when_the_work_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), Progress("converting", 10, "pictures") as shown:
        shown.update(4)
        raise RuntimeError
    assert capsys.readouterr().err.startswith("converting: 4 of 10 pictures, ")


def test_a_terminal_gets_a_bar() -> None:
    program = (
        "from metart.common.progress import Progress\n"
        "with Progress('converting', 3, 'pictures') as shown:\n"
        "    shown.update(note='1 bad')\n"
        "    shown.write('a line of its own')\n"
        "    shown.update(2)\n"
    )
    terminal, its_other_end = pty.openpty()
    fcntl.ioctl(its_other_end, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))  # Rows and columns.
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, stderr=its_other_end, check=True)
    os.close(its_other_end)
    shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert "\ra line of its own\r\n" in shown  # The bar makes way for it.
    assert "converting: 100%" in shown
    assert "3/3" in shown
