"""What ends a run from outside: its time limit, its memory limit, or that nobody waits for it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time

import psutil

PAUSE = 0.2  # seconds between two looks


class Watch:
    """Kills the kernel, and what it has started, when a limit is passed; `reason` says which.

    Parameters
    ----------
    timeout : float, optional
        Seconds, counted from `begin`.
    memory : int, optional
        Bytes that the kernel and what it has started may use together.
    orphaned : callable
        Called when the sweep is gone, before this process ends.
    """

    def __init__(self, timeout: float | None, memory: int | None, orphaned):
        self.reason: str | None = None
        self._timeout, self._memory, self._orphaned = timeout, memory, orphaned
        self._deadline = None
        for target in (self._listen, self._look):
            threading.Thread(target=target, daemon=True).start()

    def begin(self) -> None:
        """The time limit counts from now."""
        if self._timeout is not None:
            self._deadline = time.monotonic() + self._timeout

    def _listen(self) -> None:
        """A line on stdin is a request to stop; its end means that the sweep has gone."""
        if sys.stdin.readline():
            self.reason = "stopped by the user"
            sys.stdin.read()
        kill_children()
        self._orphaned()
        os._exit(1)

    def _look(self) -> None:
        while True:
            self.reason = self.reason or self._passed()
            if self.reason:
                kill_children()  # again and again: a kernel may just be starting
            time.sleep(PAUSE)

    def _passed(self) -> str | None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            return f"stopped at the time limit of {self._timeout:g} s (--timeout)"
        if self._memory is not None and (used := _memory_of_children()) > self._memory:
            return (
                f"stopped at the memory limit of {self._memory / 1e9:.3g} GB (--memory); "
                f"it used {used / 1e9:.3g} GB"
            )
        return None


def _children() -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process().children(recursive=True)
    return []


def _memory_of_children() -> int:
    total = 0
    for process in _children():
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def kill_children() -> None:
    """Kill all that this process has started, and what that has."""
    for process in _children():
        with contextlib.suppress(psutil.Error):
            process.kill()
