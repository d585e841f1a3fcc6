"""What the metrics of this process have counted, and how it gets to the node.

Theory of operation
-------------------
Counting changes a table in this process (`ract.core.metrics`), nothing else. The table is emptied
into a message: before a reply leaves an executor, so that what a call has counted is safe when its
result is there; at most `PERIOD_S` later by a thread of its own; and when the process leaves. Quick
calls do not send a message each: after `TOKENS_MAX` in a row it is `TOKENS_PER_S`, and the thread.

What is counted while the process belongs to no cluster is kept until it does.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from ract.client.process import current
from ract.core import naming
from ract.core.messages import MetricsReported
from ract.core.metrics import HISTOGRAM, Labels, Table

PERIOD_S = 0.1
TOKENS_MAX = 100.0
TOKENS_PER_S = 20.0

Head = tuple[str, str, str, Sequence[float]]
"""Name, kind, description, boundaries."""


class Recorder:
    """The metrics of this process; any thread may use them.

    Attributes:
        is_dirty: Whether something was counted since the last message.
    """

    def __init__(self) -> None:
        self.is_dirty = False
        self._table = Table()
        self._lock = threading.RLock()  # a finalizer, which runs anywhere, may count too
        self._sending = threading.Lock()  # batches leave in the order in which they were taken
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None
        self._tokens = TOKENS_MAX
        self._tokens_at = 0.0

    def record(self, head: Head, labels: Labels, value: float) -> None:
        """Count, set or observe a value."""
        with self._lock:
            family = self._table.family(*head)
            if family is None:  # another kind of metric has this name
                self._table.refused += 1
            elif self._table.has_room(family, labels):
                if head[1] == HISTOGRAM:
                    family.observe(labels, value)
                else:
                    family.add(labels, value)
            if not self.is_dirty:
                self.is_dirty = True
                self._wanted.set()
                if self._thread is None:
                    self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="ract-metrics", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter ends: `flush` is called once more
            return
        self._thread = thread

    def flush_before_reply(self) -> None:
        """Send what is counted, unless that was done very often lately."""
        now = time.monotonic()
        more = (now - self._tokens_at) * TOKENS_PER_S
        self._tokens = min(TOKENS_MAX, self._tokens + more)
        self._tokens_at = now
        if self._tokens >= 1:
            self._tokens -= 1
            self.flush()

    def flush(self) -> None:
        """Send what is counted, if there is a cluster that wants to know."""
        runtime: Any = current.runtime
        with self._sending:
            with self._lock:
                self.is_dirty = False
                if runtime is None or runtime.is_local or runtime.closed:
                    return
                batch, refused = self._table.take(), self._table.refused
                self._table.refused = 0
            if batch or refused:
                for family in batch:
                    family[0] = f"{naming.program}_{family[0]}"
                told = MetricsReported(runtime.process, runtime.job_id, batch, refused)
                runtime.tell(told)

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            time.sleep(PERIOD_S)
            if self.is_dirty:
                self.flush()


recorder = Recorder()

# A fork has neither the thread nor anything to say of what its parent has counted.
os.register_at_fork(after_in_child=lambda: recorder.__init__())  # type: ignore[misc]
