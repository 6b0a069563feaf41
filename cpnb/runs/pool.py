"""Points as processes of this machine: started, listened to, and stopped."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress

from cpnb.runs.points import Limits, Point

GRACE = 20  # seconds after the time limit, or a request to stop, in which a process ends by itself
WORKER = [sys.executable, "-m", "cpnb.runs.worker"]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(threads: int | None) -> dict:
    """Variables of a point's process; what the user has set for threads counts."""
    given = os.environ.get("OMP_NUM_THREADS") or (str(threads) if threads else "")
    return os.environ | ({"OMP_NUM_THREADS": given} if given else {})


def start(task: dict, threads: int | None, variables=None) -> subprocess.Popen:
    """Start the process of a task; events come on its stdout, one a line."""
    said = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
    process = subprocess.Popen(
        WORKER,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        env=environment(threads) | (variables or {}),
        start_new_session=True,  # Ctrl-C is for the sweep, which says what becomes of the points
    )
    process.said = said
    with suppress(OSError):  # it has ended already, and will be told as lost
        process.stdin.write(json.dumps(task).encode() + b"\n")
        process.stdin.flush()
    return process


def events_of(process: subprocess.Popen):
    """What happens, to the end of the process; {"lost"} last, if it ended without a result."""
    ended = False
    for line in process.stdout:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # torn: it was killed as it wrote
        ended = ended or any(name in event for name in ("finished", "failed", "busy"))
        yield event
    code = process.wait()
    if not ended:
        yield {"lost": f"its process {_told(code, _last_words(process))}"}


def _last_words(process: subprocess.Popen) -> str:
    process.said.seek(0)
    lines = process.said.read().decode("utf-8", "replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""


def _told(code: int, words: str) -> str:
    if code >= 0:
        return f"ended with exit status {code} and no result{words}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


class Processes:
    """Up to `jobs` points at once; what happens to them goes to `events` as (point, event)."""

    def __init__(self, jobs: int, limits: Limits, events: queue.Queue):
        self.slots, self._limits, self._events = jobs, limits, events
        self._share = max(1, cores() // jobs) if jobs > 1 else None
        self._running: dict[Point, subprocess.Popen] = {}
        self._deadlines: dict[Point, float] = {}

    def threads(self, point: Point) -> int:
        """How many threads a point's libraries use."""
        given = environment(None if point.alone else self._share).get("OMP_NUM_THREADS", "")
        return int(given) if given.isdigit() else cores()

    def start(self, point: Point) -> None:
        """Start a point; it is heard of by `events` alone."""
        process = start(point.task(self._limits), None if point.alone else self._share)
        self._running[point] = process
        threading.Thread(target=self._listen, args=(point, process), daemon=True).start()

    def _listen(self, point: Point, process: subprocess.Popen) -> None:
        for event in events_of(process):
            if "started" in event and self._limits.timeout is not None:
                self._deadlines[point] = time.monotonic() + self._limits.timeout + GRACE
            self._events.put((point, event))

    def ended(self, point: Point) -> None:
        """Forget a point that has ended."""
        self._deadlines.pop(point, None)
        process = self._running.pop(point)
        with suppress(OSError):
            process.stdin.close()
        process.wait()

    def look(self) -> str:
        """Kill processes that have not ended by themselves; nothing is to be told of the others."""
        for point, deadline in list(self._deadlines.items()):
            if time.monotonic() > deadline and point in self._running:
                self._running[point].kill()
        return ""

    def stop(self) -> None:
        """Stop all points now, and wait until their processes have ended."""
        for process in self._running.values():
            with suppress(OSError):
                process.stdin.close()  # its end, to the process
        deadline = time.monotonic() + GRACE
        for process in self._running.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    def close(self) -> None:
        """Nothing is left to be closed."""
