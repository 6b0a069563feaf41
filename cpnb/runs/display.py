"""What a sweep shows as it goes: a bar over its points, and a line for each that runs."""

from __future__ import annotations

import sys
import time

from cpnb.runs.points import Point
from cpnb.runs.progress import in_notebook, progress_bar

EVERY, EVERY_IN_A_LOG = 0.5, 30  # seconds between two looks at the times


class Display:
    """Points done, running with their present cell, failed, and the time left.

    Parameters
    ----------
    total : int
        Number of points.
    title : str or None
        What stands before the bar; with None nothing is shown.
    lines : int
        Lines for points that run, below the bar; none but in a terminal: else the bar tells of one.
    say : callable
        Called with each point and its result.
    """

    def __init__(self, total: int, title: str | None, lines: int = 0, say=None):
        self._bar = progress_bar(desc=title, total=total, unit="run", disable=title is None)
        self._failed, self._said, self._shown = 0, "", 0.0
        self._told: dict[Point, str] = {}
        self._begun: dict[Point, float] = {}
        self._say = say or (lambda point, result: None)
        seen = title is not None and sys.stderr.isatty() and not in_notebook()
        shown = min(lines, 16) if seen else 0
        self._lines = [
            progress_bar(bar_format="{desc}", position=n + 1, leave=False) for n in range(shown)
        ]

    def begin(self, point: Point) -> None:
        """A point has been started."""
        self._told[point], self._begun[point] = "starting", time.monotonic()
        self._show(now=True)

    def show(self, point: Point, event: dict) -> None:
        """A cell of it has begun, or a bar inside it has moved."""
        if "cell" in event:
            self._told[point] = f"cell {event['cell']}/{event['of']}: {event['source']}"
        elif "bar" in event:
            self._told[point] = event["bar"]
        elif "waiting" in event:
            self._told[point] = f"waiting {event['waiting']}"
        elif "started" in event:
            self._told[point] = "starting"
        self._show(now="cell" in event)

    def say(self, told: str) -> None:
        """What is to be known of the sweep as a whole, such as that no worker is there."""
        self._said = told
        self._show(now=False)

    def end(self, point: Point) -> None:
        """A point runs no longer."""
        self._told.pop(point, None)
        self._begun.pop(point, None)

    def count(self, point: Point, result) -> None:
        """A point is done, well or not."""
        self._failed += isinstance(result, str)
        self._bar.update()
        with self._bar.external_write_mode():
            self._say(point, result)
        self._show(now=True)

    def close(self) -> None:
        """Take the lines away; the bar stays."""
        for line in self._lines:
            line.close()
        self._bar.set_postfix_str(self._summary([]))
        self._bar.close()

    def _show(self, now: bool) -> None:
        every = EVERY if self._lines else EVERY_IN_A_LOG
        if self._bar.disable or (not now and time.monotonic() < self._shown + every):
            return
        self._shown = time.monotonic()
        running = [
            f"{point.label} ({time.monotonic() - begun:.0f} s) {self._told[point]}"
            for point, begun in self._begun.items()
        ]
        for line, text in zip(self._lines, running + [""] * len(self._lines), strict=False):
            line.set_description_str(text[:110])
        self._bar.set_postfix_str(self._summary(running))

    def _summary(self, running: list[str]) -> str:
        parts = [self._said, f"{self._failed} failed" if self._failed else ""]
        parts += [] if self._lines else running[:1]
        return "; ".join(part for part in parts if part)
