"""Ctrl-C and SIGTERM as a wish that is granted at the next step, once the run has been saved."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """While its body runs the first signal is noted; a second one acts as it did before.

    Signals reach the main thread alone: elsewhere nothing is changed. One that the process ignores stays ignored.

    Attributes:
        asked: the signal that has come, or None.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        if os.getpid() == self._process:
            self.asked = number
        else:  # a child, such as a DataLoader's worker, has nothing to save
            os.kill(os.getpid(), number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @property
    def signals(self) -> tuple[bool, bool]:
        """Whether the process has been interrupted, and whether it has been terminated."""
        return self.asked == signal.SIGINT, self.asked == signal.SIGTERM

    def leave(self, message: str | None, *, terminated: bool) -> NoReturn:
        """Says so on standard error, and ends as the signal would have ended the process.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: after SIGTERM, with status 143.
        """
        if message is not None:
            print(message, file=sys.stderr, flush=True)
        if terminated:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt(message or "")
