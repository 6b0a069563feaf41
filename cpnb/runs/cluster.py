"""Points on a Dask cluster: sent out with their notebooks, heard of, and brought back.

Nothing is written on the workers but in their own work folders, so no disk need be shared; a
notebook that a worker finds at its own path, with the same content, is used from there. Executed
notebooks and records come back through Dask, and this process alone writes them to ``--out``.
"""

from __future__ import annotations

import importlib.metadata
import queue
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path

import distributed

import cpnb
from cpnb.runs import remote
from cpnb.runs.bundle import name_of, pack
from cpnb.runs.files import write_whole
from cpnb.runs.jsonl import append_all
from cpnb.runs.keys import inputs
from cpnb.runs.locks import held, lock_of
from cpnb.runs.points import Limits, Point

ANSWER = 5  # seconds that a scheduler has to answer
PATIENCE = 60  # seconds that a lost scheduler has to come back


def versions() -> dict:
    """What has to be the same on both sides."""
    return {"cpnb": cpnb.__version__, "torch": importlib.metadata.version("torch")}


def connect(address: str, security=None) -> distributed.Client:
    """A client of the scheduler at an address.

    Raises
    ------
    ConnectionError
        If none answers within a few seconds.
    """
    try:
        return distributed.Client(address, timeout=ANSWER, set_as_default=False, security=security)
    except (OSError, ValueError, TimeoutError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConnectionError(f"no scheduler answers at {address}: {told}") from None


def check_versions(client: distributed.Client) -> None:
    """See to it that all workers have this version of cpnb and PyTorch.

    Raises
    ------
    ConnectionError
        If one has another; both are told.
    """

    def theirs() -> dict:  # inside, so that it travels as code: workers may have no such module
        import importlib.metadata

        try:
            import cpnb

            version = cpnb.__version__
        except ImportError:
            version = None
        try:
            return {"cpnb": version, "torch": importlib.metadata.version("torch")}
        except importlib.metadata.PackageNotFoundError:
            return {"cpnb": version, "torch": None}

    here = versions()
    for worker, there in client.run(theirs).items():
        for name, version in here.items():
            if there[name] != version:
                raise ConnectionError(
                    f"worker {worker} has {name} {there[name] or '(none)'}, and here it is "
                    f"{version}; accepted are workers with the same versions"
                )


def is_shared(client: distributed.Client, paths: set[Path]) -> bool:
    """Whether all workers there are have the notebooks at the same paths, on a shared disk."""

    def seen(expected: dict) -> bool:
        return all(Path(p).is_file() and Path(p).read_bytes() == c for p, c in expected.items())

    there = client.run(seen, {str(path): path.read_bytes() for path in paths})
    return bool(there) and all(there.values())


class Cluster:
    """Points on the workers of a Dask scheduler; see `Processes`, which it stands in for."""

    def __init__(self, scheduler, limits: Limits, events: queue.Queue, paths: set[Path]):
        self._mine = isinstance(scheduler, str)
        self._client = connect(scheduler) if self._mine else scheduler
        self._address = self._client.scheduler.address
        self._limits, self._events = limits, events
        self._topic = f"cpnb-{uuid.uuid4().hex}"
        self._paths, self._bundles = paths, {}
        self._futures: dict[Point, distributed.Future] = {}
        self._locks: dict[Point, ExitStack] = {}
        self._labels: dict[str, Point] = {}
        self._gone: float | None = None
        self._slots, self._counted = 0, 0.0
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        """What a scheduler has to know, also one that has come back."""
        check_versions(self._client)
        if not self._bundles and not is_shared(self._client, self._paths):
            self._bundles = {path.parent: pack(path.parent) for path in self._paths}
        self._client.subscribe_topic(self._topic, self._hear)
        for content in self._bundles.values():
            self._client.register_plugin(remote.Bundle(content), name=name_of(content))

    @property
    def slots(self) -> int:
        """Threads of all workers: each runs a point in a process of its own."""
        if self._gone is None and time.monotonic() > self._counted + 1:
            self._counted = time.monotonic()
            with suppress(OSError, TimeoutError):
                found = self._client.sync(self._client.scheduler.ncores, callback_timeout=ANSWER)
                self._slots = sum(found.values())
        return self._slots if self._gone is None else 0

    def _hear(self, event) -> None:
        _, told = event
        if point := self._labels.get(told.get("label")):
            self._events.put((point, told))

    def start(self, point: Point) -> None:
        """Send a point out, unless another sweep holds its lock here."""
        stack = ExitStack()
        note = stack.enter_context(held(lock_of(point.output)))
        if note is None:
            self._events.put((point, {"busy": True}))
            return
        note({"pid": "-", "host": self._address, "since": time.time()})
        self._locks[point] = stack
        label = uuid.uuid4().hex
        self._labels[label] = point
        named = inputs(point.path, point.parameters, point.shared).named
        content = self._bundles.get(point.path.parent)
        bundle = content and name_of(content)
        told = {"label": label, "topic": self._topic, "bundle": bundle, "named": named}
        task = point.task(self._limits) | told
        future = self._client.submit(remote.run, task, versions(), key=f"cpnb-{label}", pure=False)
        self._futures[point] = future
        future.add_done_callback(lambda done: self._done(point, done))

    def _done(self, point: Point, future) -> None:
        if self._futures.get(point) is not future:
            return  # of a try that is given up
        try:
            if future.status == "finished":
                event = self._keep(point, future.result(timeout=ANSWER))
            elif future.status == "error":
                event = _told(future.exception(timeout=ANSWER))
            else:
                # Before anything is told: else the point would be sent to the same scheduler again.
                self._gone = self._gone or time.monotonic()
                event = {"lost": f"the scheduler at {self._address} was lost"}
        except Exception as error:
            event = {"lost": f"{type(error).__name__}: {error or 'no reason given'}"}
        self._events.put((point, event))

    def _keep(self, point: Point, came: dict) -> dict:
        """Write what came back: rows first, then the notebook, as a run on this machine does."""
        event, output = came["event"], point.output
        failed = output.with_name(f"{output.stem}.failed.ipynb")
        try:
            if came["rows"]:
                append_all(came["rows"], output.parent / "records.jsonl")
            if came["notebook"]:
                write_whole(output if "finished" in event else failed, came["notebook"])
            if "finished" in event:
                failed.unlink(missing_ok=True)
        except OSError as error:
            event = {"failed": f"{point.path.name}: its results cannot be kept: {error}"}
        return event

    def ended(self, point: Point) -> None:
        """Forget a point that has ended, and let go of its lock."""
        self._futures.pop(point, None)
        if stack := self._locks.pop(point, None):
            stack.close()

    def look(self) -> str:
        """Say what holds the sweep up; connect anew to a scheduler that was lost and is back.

        Raises
        ------
        ConnectionError
            If it does not come back.
        """
        if self._client.status != "running" and self._gone is None:
            self._gone = time.monotonic()
        if self._gone is not None:
            return self._wait_for_scheduler()
        return "" if self.slots else "no workers: waiting for one"

    def _wait_for_scheduler(self) -> str:
        told = f"the scheduler at {self._address} was lost"
        for point in list(self._futures):
            self._futures.pop(point)
            self._events.put((point, {"lost": told}))
        if time.monotonic() > self._gone + PATIENCE:
            raise ConnectionError(f"{told}, and is not back after {PATIENCE} s")
        security = self._client.security
        with suppress(Exception):  # whatever is left of it
            self._client.close(timeout=1)
        with suppress(OSError, TimeoutError):
            self._client, self._mine = connect(self._address, security), True
            self._prepare()
            self._gone = None
        return f"{told}: waiting for it"

    def stop(self) -> None:
        """Take back what was sent out: workers notice, and end its processes."""
        if self._client.status == "running":
            with suppress(OSError, TimeoutError):
                self._client.cancel(list(self._futures.values()), force=True)
        for point in list(self._locks):
            self.ended(point)

    def close(self) -> None:
        """Leave the scheduler to others."""
        for stack in self._locks.values():
            stack.close()
        if self._mine:
            with suppress(Exception):
                self._client.close(timeout=2)


def _told(error: BaseException) -> dict:
    if isinstance(error, distributed.KilledWorker):
        return {"lost": f"its worker was lost: {error.last_worker.address}"}
    return {"failed": f"{type(error).__name__}: {error or 'no reason given'}"}
