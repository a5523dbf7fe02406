"""Signals that end a run after the step that is being made, and the lock of a run."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

# Pyro's handlers, its settings and the generators belong to the process: one run at a time.
RUN_LOCK = threading.RLock()


class Interrupts:
    """
    Keeps SIGINT and SIGTERM until they are asked for; a second SIGINT is not kept.

    Only the main thread can: elsewhere, and where Python does not handle a signal, it does nothing.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self._before: dict[int, Any] = {}

    @contextlib.contextmanager
    def held(self) -> Iterator[Interrupts]:
        """Keep signals in this context."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                if before is not None:
                    self._before[number] = before
                    signal.signal(number, self._catch)
        try:
            yield self
        finally:
            self._give_back()
        self.deliver()  # one that came after the last step

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.caught = number

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def deliver(self) -> None:
        """Let a signal that was kept do what it would have done."""
        if self.caught is not None:
            number, self.caught = self.caught, None  # once: its handler may return
            self._give_back()
            signal.raise_signal(number)
