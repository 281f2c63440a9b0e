"""What a script puts in order before it loads its libraries: its streams, Ctrl-C and SIGTERM."""

import codecs
import os
import signal
import sys
from types import FrameType

STATUS_RETRY = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, run the same command again.
INTERRUPTED = "interrupted: run the same command again to continue"

has_begun = False  # Whether this is the process of a script.


def begin() -> None:
    """Call it before the long imports, in the process of a script only.

    All three streams are open then, whatever the shell closed, so that no other file gets their numbers. What is
    printed cannot fail: a terminal gets its own encoding, a file or pipe UTF-8; a file name that is no text goes out as
    the bytes it is, any other character that does not fit as an escape. Ctrl-C ends the process with one line, until
    `end`, and so does SIGTERM, with STATUS_RETRY, unless an Interruption waits for it.
    """
    global has_begun
    has_begun = True
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "w" if number else "r"))
    codecs.register_error("print", _printable)
    for stream in (sys.stdout, sys.stderr):
        chosen = stream.isatty() or "PYTHONIOENCODING" in os.environ
        stream.reconfigure(encoding=None if chosen else "utf-8", errors="print")  # type: ignore[union-attr]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # In the background of a shell it is ignored.
        signal.signal(signal.SIGINT, _Leave())
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _Leave())


def end() -> None:
    """Gives Ctrl-C its usual meaning again, if `begin` has changed it."""
    if isinstance(signal.getsignal(signal.SIGINT), _Leave):
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Leave:
    """Ends the process: an exception could be lost in the C code of a library that is being loaded."""

    def __init__(self) -> None:
        self._stderr = os.dup(2)  # What loads TensorFlow holds stderr back.

    def __call__(self, number: int, frame: FrameType | None) -> None:
        os.write(self._stderr, f"{INTERRUPTED}\n".encode())
        os._exit(STATUS_RETRY if number == signal.SIGTERM else 128 + number)


def _printable(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)
