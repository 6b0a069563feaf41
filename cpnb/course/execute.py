"""Execution of a stranger's notebook, cell by cell, to its end whatever the cells do.

A step of nbgrader's, used by `grading` and by nbgrader itself (``nbgrader_config.py``): each cell
has a time of its own and all together have one; a cell that kills the kernel, or does not end,
costs itself only.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from pathlib import Path

from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbgrader.preprocessors import Execute as NbgraderExecute
from nbgrader.utils import is_grade, is_locked
from traitlets import Integer

from cpnb.course.guards import JailedKernel, Watch, empty, end_all
from cpnb.course.jail import adopt_orphans
from cpnb.course.steps import failed

GRACE = 20  # seconds of a core beyond the notebook's, before the system stops a process
MOST_OUTPUT = 100_000  # characters that a cell may print


class Execute(NbgraderExecute):
    """Runs all cells in a jailed kernel; a new one takes over where one is lost.

    The new kernel runs the cells before again, tests and those that did harm left out, so that an
    answer that ends the kernel does not spoil those after it.
    """

    notebook_seconds = Integer(120, help="Seconds for all cells together.").tag(config=True)
    memory = Integer(4 << 30, help="Bytes for all processes of a notebook.").tag(config=True)

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.timeout_func = self._seconds_for
        self.shutdown_kernel = "immediate"
        self.interrupt_on_timeout = False  # a loop may swallow the interrupt: the kernel is killed
        self.iopub_timeout, self.raise_on_iopub_timeout = 10, False

    def preprocess(self, nb, resources, km=None):
        """Execute the notebook; ``resources["jail"]`` tells what the kernel was kept from."""
        adopt_orphans()
        self._folder = Path(tempfile.mkdtemp(prefix="cpnb-"))
        self._deadline = time.monotonic() + self.notebook_seconds
        self._done, self._ended = [], False
        place = resources.setdefault("metadata", {})
        place.setdefault("path", str(self._folder))
        self._watch = Watch({self._folder, Path(place["path"])}, self.memory)
        self._watch.start()
        try:
            return super().preprocess(nb, resources, km)
        finally:
            self._watch.stop()
            end_all()
            shutil.rmtree(self._folder, ignore_errors=True)

    def create_kernel_manager(self):
        """See nbclient."""
        writable = [str(Path(self.resources["metadata"]["path"]).absolute())]
        seconds = self.notebook_seconds + GRACE
        self.km = JailedKernel(self._folder, writable, self.memory, seconds)
        return self.km

    def preprocess_cell(self, cell, resources, index):
        """Run one cell, or say why it was not."""
        if "jail" not in resources:  # now, before a cell can lie about it
            resources["jail"] = json.loads((self._folder / "jail.json").read_text())
        if cell.cell_type != "code" or not cell.source.strip():
            return cell, resources
        if time.monotonic() >= self._deadline:
            told = f"not run: the notebook had taken {self.notebook_seconds} s"
            cell.outputs = [failed("NotebookTimeout", told)]
            return cell, resources
        if problem := self._problem_of(cell, index):
            cell.outputs = [*cell.outputs, problem]
            self._revive()
        elif not is_grade(cell):
            self._done.append((cell, index))
        return cell, resources

    def _problem_of(self, cell, index):
        """Run the cell; what it did to the kernel, as an output, or None."""
        self._ended, self._watch.why, self._printed = False, "", 0
        seconds = self._seconds_for(cell)
        try:
            # Tests leave no trace in the history, where later cells could read them.
            self.execute_cell(cell, index, store_history=not is_grade(cell))
        except CellTimeoutError:
            return failed("CellTimeout", f"stopped after {seconds} s")
        except DeadKernelError:
            return failed("KernelDied", self._watch.why or "the cell ended the kernel")
        if self._ended or self._watch.why:
            return failed("KernelDied", self._watch.why or "the cell ended the kernel by exit()")
        end_all(but=self.km.provisioner.pid)
        return None

    def _revive(self) -> None:
        """A new kernel, brought to where the last one was."""
        kept, self._done = self._done, []
        self._new_kernel()
        for cell, index in kept:
            if time.monotonic() >= self._deadline:
                return
            outputs = cell.outputs
            problem = self._problem_of(cell, index)
            cell.outputs = outputs
            if problem:
                self._new_kernel()
            else:
                self._done.append((cell, index))

    def _new_kernel(self) -> None:
        end_all()
        self._cleanup_kernel()
        self.km = self.kc = None
        empty(self._folder)
        self.create_kernel_manager()
        self.start_new_kernel()
        self.start_new_kernel_client()

    def on_cell_executed(self, **kwargs):
        """See nbclient: here a cell that asked the kernel to end is noticed."""
        super().on_cell_executed(**kwargs)
        payload = kwargs["execute_reply"]["content"].get("payload", [])
        self._ended = any(part.get("source") == "ask_exit" for part in payload)

    def output(self, outs, msg, display_id, cell_index):
        """See nbclient: here a flood of text is cut off."""
        text = msg["content"].get("text", "")
        self._printed += len(text)
        if text and self._printed > MOST_OUTPUT:
            return None
        return super().output(outs, msg, display_id, cell_index)

    def _seconds_for(self, cell) -> int:
        """The cell's own time; one that is given, as the imports, may take all that is left."""
        given = is_locked(cell) and not is_grade(cell)
        own = math.inf if given or not self.timeout else self.timeout
        return max(1, math.ceil(min(own, self._deadline - time.monotonic())))
