"""The process of one point: ``python -m cpnb.runs.worker``, started by a sweep.

It reads a task from stdin, one line of JSON, and writes what happens to stdout, an event a line.
The last is {"finished"}, {"failed"} or {"busy"}: another sweep is running that point. A further
line on stdin stops it; when stdin ends, the sweep is gone, and so are the kernel and this process.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
from pathlib import Path

from cpnb.runs.locks import held, lock_of, machine
from cpnb.runs.watch import Watch


class _Channel:
    """The way of events to the sweep. What else is printed goes to stderr."""

    def __init__(self):
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._lock = threading.Lock()
        os.dup2(2, 1)

    def tell(self, event: dict) -> None:
        with self._lock:
            self._file.write(json.dumps(event) + "\n")
            self._file.flush()


def _run(task: dict, watch: Watch, tell) -> dict:
    """Run the point, alone where it measures time, and say what came of it."""
    # Loaded here, after the lock is held: papermill takes a second. Its own checks of notebooks do
    # without this package, whose grammar takes another second.
    sys.modules.setdefault("rfc3987_syntax", None)
    from cpnb.runs.keys import inputs
    from cpnb.runs.notebooks import job_of, perform, run_in_place
    from cpnb.runs.outcomes import NotebookError

    path, output = Path(task["path"]), Path(task["output"])
    tell({"waiting": "for the machine"})
    with machine(task["alone"]):
        tell({"started": time.time()})
        watch.begin()
        try:
            if task["in_place"]:
                run = run_in_place(path, progress=False, tell=tell)
                return {"finished": {"seconds": run.seconds}}
            before = inputs(path, task["parameters"], task["shared"])
            job = job_of(path, output, task["parameters"], Path(task["records"]), tell=tell)
            seconds = perform(job, before, task["home"], task.get("named")).seconds
            return {"finished": {"seconds": seconds, "run": job.run["run"]}}
        except NotebookError as error:
            return {"failed": _with_reason(str(error), watch.reason)}
        except Exception as error:
            return {"failed": f"{path.name}: {type(error).__name__}: {error}"}


def _with_reason(message: str, reason: str | None) -> str:
    """The message of a kernel that died says why, if it was killed here."""
    died = "DeadKernelError: Kernel died"
    if reason is None:
        return message.replace(died, f"{died} (killed, or out of memory?)")
    return message.replace(died, reason) if died in message else f"{reason}: {message}"


def _point(task: dict, watch: Watch, tell) -> dict:
    from cpnb.runs.keys import inputs
    from cpnb.runs.states import is_finished

    path, output = Path(task["path"]), Path(task["output"])
    with held(lock_of(output)) as note:
        if note is None:
            return {"busy": True}
        now = inputs(path, task["parameters"], task["shared"])
        if not (task["force"] or task["in_place"]) and is_finished(output, now):
            return {"finished": {"seconds": 0.0, "skipped": True}}
        about = {"pid": os.getpid(), "host": platform.node(), "since": time.time()}

        def tell_all(event: dict) -> None:
            about.update({k: v for k, v in event.items() if k in ("cell", "of", "source")})
            note(about)
            tell(event)

        return _run(task, watch, tell_all)


def main() -> int:
    """Run the task that stands on stdin."""
    channel = _Channel()
    task = json.loads(sys.stdin.readline())
    output = Path(task["output"])

    def leave_nothing() -> None:
        for end in ("partial.ipynb", "records.tmp"):
            output.with_name(f".{output.stem}.{end}").unlink(missing_ok=True)

    watch = Watch(task["timeout"], task["memory"], leave_nothing)
    try:
        event = _point(task, watch, channel.tell)
    except Exception as error:  # whatever it is, it is this point's failure
        event = {"failed": f"{Path(task['path']).name}: {type(error).__name__}: {error}"}
    channel.tell(event)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # not held up by threads that wait
