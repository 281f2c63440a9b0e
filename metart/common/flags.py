"""The command line that every script shares: strict flags, one-line errors, exit statuses."""

import argparse
from collections.abc import Callable, Mapping, Sequence
import errno
import os
from pathlib import Path
import re
import signal
import sys
from typing import Any, NoReturn, TypeVar

from metart.common import startup
from metart.common.startup import STATUS_RETRY

STATUS_ERROR = 1  # The user can fix it: a wrong file, an empty folder, a full disk.
STATUS_USAGE = 2  # A wrong flag or value, as argparse has it.

FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

T = TypeVar("T")


class UserError(Exception):
    """A mistake the user can fix; its text names the file or flag and what to do next."""

    status = STATUS_ERROR


class Unreachable(UserError):
    """Others did not give what was asked of them; they may, when the same command asks again."""

    status = STATUS_RETRY


class Retry(Exception):
    """The run was cut short by something outside; the same command goes on where it stopped."""


def notice(text: str) -> None:
    """Tells what the reader should know but need not act on: one line on stderr."""
    print(f"notice: {text}", file=sys.stderr)


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows the default of each flag, unless its help speaks of it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if "default:" in text or action.default in (None, "", [], argparse.SUPPRESS):
            return text
        return f"{text}; default: {str(action.default).lower() if action.nargs == '?' else '%(default)s'}"


class Parser(argparse.ArgumentParser):
    """An argument parser without abbreviations whose complaint is one `error:` line."""

    def __init__(self, description: str | None):
        super().__init__(description=description, allow_abbrev=False, formatter_class=HelpFormatter)

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(STATUS_USAGE)

    def add_boolean(self, name: str, default: bool, help: str) -> None:
        """Adds `--name`, `--name=true|false` and `--noname`, the spellings slim's scripts took."""
        self.add_argument(f"--{name}", type=_boolean, nargs="?", const=True, default=default, metavar="BOOL", help=help)
        self.add_argument(
            f"--no{name}", dest=name, action="store_false", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )

    def add_ignored(self, *names: str) -> None:
        """Accepts flags of the original command lines that no longer have anything to do."""
        for name in names:
            self.add_argument(f"--{name}", nargs="?", help=argparse.SUPPRESS)


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return values[text.lower()]


def path(text: str) -> Path:
    """The argparse type of files and folders; `~` is the home folder, also after `=`, where shells leave it alone."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    expanded = os.path.expanduser(text)  # noqa: PTH111 - pathlib takes ./~ for ~.
    if expanded.startswith("~"):
        raise argparse.ArgumentTypeError(f"{text!r}: no such home folder; write ./~ for a folder of that name")
    return Path(expanded)


def number(
    kind: type[int] | type[float], minimum: float | None = None, maximum: float | None = None
) -> Callable[[str], float]:
    """Returns an argparse type: a finite `kind` within [minimum, maximum]; an int is below 2 ** 31 in any case."""
    if kind is int and maximum is None:
        maximum = 2**31 - 1

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if value != value or abs(value) == float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
        if minimum is not None and value < minimum:
            raise argparse.ArgumentTypeError(f"{text} is below {minimum}")
        if maximum is not None and value > maximum:
            raise argparse.ArgumentTypeError(f"{text} is above {maximum}")
        return value

    return parse


def comma_separated(parse: Callable[[str], T]) -> Callable[[str], list[T]]:
    """Returns an argparse type: comma-separated values, each as another type takes it."""
    return lambda text: [parse(each) for each in text.split(",")]


def select(kind: type[T], values: Mapping[str, Any]) -> T:
    """Returns a NamedTuple filled from flags: each field that has the name of a flag gets its value."""
    return kind(**{name: values[name] for name in kind._fields if name in values})  # type: ignore[attr-defined]


def run(main: Callable[[Sequence[str] | None], None]) -> NoReturn:
    """Runs a script's `main` and turns what a user can cause into one line and a status."""
    try:
        startup.end()
        main(None)
        sys.stdout.flush()
    except UserError as error:
        _leave(f"error: {error}", error.status)
    except Retry as interruption:
        _leave(f"interrupted: {interruption}", STATUS_RETRY)
    except KeyboardInterrupt:
        _leave(startup.INTERRUPTED, 128 + signal.SIGINT)
    except BrokenPipeError:
        # The reader of a pipe (`… | head`) left; a second complaint at exit would be noise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        advice = "; free some space and run the same command again" if error.errno in FULL_DISK else ""
        _leave(f"error: {where}{error.strerror}{advice}", STATUS_ERROR)
    except UnicodeEncodeError as error:  # Python has names that are no text as well, for files above all.
        before, after = error.object[: error.start], error.object[error.start :]
        name = re.split(r"['\"\n]", before)[-1] + re.split(r"['\"\n]", after)[0]
        advice = "rename that file or folder" if error.encoding == "utf-8" else "set PYTHONUTF8=1"
        _leave(f"error: {name!a} cannot be written in {error.encoding}; {advice}", STATUS_ERROR)
    _exit(0)


def _leave(message: str, status: int) -> NoReturn:
    if startup.has_begun:  # From now on another Ctrl-C has nothing to end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        sys.stdout.flush()
    except OSError:  # The disk that stdout goes to is full, which may be what the message says.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    print(" ".join(message.split()), file=sys.stderr, flush=True)
    _exit(status)


def _exit(status: int) -> NoReturn:
    """Ends the process of a script at once: all is written and said, and TensorFlow's threads may take long to end."""
    if startup.has_begun:
        os._exit(status)
    sys.exit(status)
