"""SIGTERM and Ctrl-C as a request to finish the current step and save."""

import contextlib
import signal
import socket
from types import FrameType

from metart.common.flags import Retry


class Interruption:
    """Notes the first SIGTERM (eviction, `kubectl delete`) or Ctrl-C while the block runs.

    A second Ctrl-C ends at once. Use as a context manager; for the main thread only, but for `arrived`.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._arrived: list[int] = []

    def __enter__(self) -> "Interruption":
        self._wakeup, self._written = socket.socketpair()  # Python writes the number of each signal into the latter.
        self._wakeup.setblocking(False)
        self._written.setblocking(False)
        self._previous_wakeup = signal.set_wakeup_fd(self._written.fileno(), warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_wakeup)
        self.arrived()
        self._wakeup.close()
        self._written.close()

    def arrived(self) -> list[int]:
        """Returns all signals so far; for another thread.

        While the main thread is inside a library, Python does not call `_note`.
        """
        with contextlib.suppress(OSError):  # Nothing new, or the block has ended.
            self._arrived += [number for number in self._wakeup.recv(1000) if number in self._previous]
        return self._arrived

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def leave(self, message: str) -> None:
        """Ends the run in the way of the signal that came; returns where none did.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
            Retry: After SIGTERM; `message` says what was saved.
        """
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt(message)
        if self.signal == signal.SIGTERM:
            raise Retry(message)
