"""SIGTERM and Ctrl-C as a request to finish the current step and save."""

import signal
from types import FrameType

from metart.common.flags import Retry


class Interruption:
    """Notes the first SIGTERM (eviction, `kubectl delete`) or Ctrl-C while the block runs.

    A second Ctrl-C ends at once. Use as a context manager; for the main thread only.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __enter__(self) -> "Interruption":
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

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
