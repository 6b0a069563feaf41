"""Ctrl-C once: what runs may finish. Twice, or a request to terminate: stop now."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading


@contextlib.contextmanager
def patient(sweep):
    """See to signals while a sweep runs; `sweep.stopping` is set by the first Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(_signal, _frame):
        if sweep.stopping:
            raise KeyboardInterrupt
        sweep.stopping = True
        print(
            "\nStopping: no further points are started, those that run may finish. "
            "Ctrl-C once more stops them now.",
            file=sys.stderr,
        )

    def terminated(_signal, _frame):
        raise KeyboardInterrupt

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, interrupted),
        signal.SIGTERM: signal.signal(signal.SIGTERM, terminated),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
