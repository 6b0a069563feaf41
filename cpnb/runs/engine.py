"""The loop of a sweep: points are started where there is room, heard of, and written down.

Nothing that happens to a point ends the sweep. Points that lost their process or their worker are
started again up to a number of times; those that another sweep is running are looked at again when
it has them no longer.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from dataclasses import dataclass, field

from cpnb.runs import states
from cpnb.runs.display import Display
from cpnb.runs.outcomes import Run
from cpnb.runs.points import Point

PAUSE = 1.0  # seconds until a point that another sweep runs is looked at again


@dataclass
class Sweep:
    """Points, and what has become of them.

    Attributes
    ----------
    points : list of Point
    runner : Processes or Cluster
        Where they run: it has `slots`, and `start`, `ended`, `look`, `stop` and `close`.
    events : queue.Queue
        What the runner tells, as (point, event).
    display : Display
    retry : int
        How often a point is started again that lost its process or its worker.
    force : bool
        Run points that have finished before, too.
    results : dict of Point to Run or str
        Runs, and messages of failures; a point that was not run has none.
    stopping : bool
        Points that run may finish, and no others are started.
    """

    points: list[Point]
    runner: object
    events: queue.Queue
    display: Display
    retry: int = 1
    force: bool = False
    results: dict = field(default_factory=dict)
    stopping: bool = False

    def __post_init__(self):
        self._waiting: deque[Point] = deque()
        self._running: set[Point] = set()
        self._tries: dict[Point, int] = {}
        self._not_before: dict[Point, float] = {}

    def run(self) -> dict:
        """Run all points; an exception, as by Ctrl-C, stops those that run."""
        self._plan()
        try:
            while self._running or (self._waiting and not self.stopping):
                self._start_some()
                self._hear()
        except BaseException:
            self.runner.stop()
            self._note([point.row(state="stopped") for point in self._running])
            raise
        finally:
            self.runner.close()
            self.display.close()
        return self.results

    def _plan(self) -> None:
        """Write down new points, and set aside those that have finished before."""
        for folder in {point.output.parent for point in self.points}:
            known = states.states(folder)
            mine = [p for p in self.points if p.output.parent == folder and not p.in_place]
            states.note(folder, [p.planned() for p in mine if p.output.name not in known])
            for point in mine:
                if not self.force and point.is_finished():
                    self._skip(point, known.get(point.output.name, {}))
        self._waiting.extend(point for point in self.points if point not in self.results)

    def _skip(self, point: Point, known: dict) -> None:
        """A point that has finished before: said, and written down if its sweep came not to it."""
        told = states.about(point.output) or {}
        if known.get("state") != "finished":
            again = {name: told.get(name) for name in ("run", "seconds")}
            self._note([point.row(state="finished", **again)])
        self._result(point, Run(point.output, point.parameters, 0.0, skipped=True))

    def _start_some(self) -> None:
        for _ in range(len(self._waiting)):
            if self.stopping or len(self._running) >= self.runner.slots:
                return
            point = self._waiting.popleft()
            if time.monotonic() < self._not_before.get(point, 0.0):
                self._waiting.append(point)
                continue
            self._running.add(point)
            self.display.begin(point)
            self.runner.start(point)

    def _hear(self) -> None:
        told = self.runner.look()
        self.display.say(told)
        try:
            point, event = self.events.get(timeout=0.2)
        except queue.Empty:
            return
        if point not in self._running:
            return  # of a try that is given up
        for name in ("finished", "failed", "lost", "busy"):
            if name in event:
                self._running.discard(point)
                self.display.end(point)
                self.runner.ended(point)
                getattr(self, f"_{name}")(point, event)
                return
        self.display.show(point, event)

    def _finished(self, point: Point, event: dict) -> None:
        about = event["finished"]
        skipped, seconds = about.get("skipped", False), about["seconds"]
        if not skipped and not point.in_place:
            row = {"run": about["run"], "seconds": round(seconds, 3), "error": None}
            threads = about["threads"] if "threads" in about else self.runner.threads(point)
            self._note([point.row(state="finished", threads=threads, **row)])
        output = point.path if point.in_place else point.output
        self._result(point, Run(output, point.parameters, seconds, skipped))

    def _failed(self, point: Point, event: dict) -> None:
        if not point.in_place:
            self._note([point.row(state="failed", error=event["failed"])])
        self._result(point, event["failed"])

    def _lost(self, point: Point, event: dict) -> None:
        self._tries[point] = self._tries.get(point, 0) + 1
        if self._tries[point] <= self.retry and not self.stopping:
            self._waiting.appendleft(point)
            return
        times = f", {self._tries[point]} times" if self._tries[point] > 1 else ""
        self._failed(point, {"failed": f"{point.path.name}: {event['lost']}{times}"})

    def _busy(self, point: Point, event: dict) -> None:
        """Another sweep runs it; whether that finishes it is seen when the point's turn comes."""
        self._not_before[point] = time.monotonic() + PAUSE
        self._waiting.append(point)

    def _note(self, rows: list[dict]) -> None:
        if rows:
            states.note(self.points[0].output.parent, rows)

    def _result(self, point: Point, result) -> None:
        self.results[point] = result
        self.display.count(point, result)
