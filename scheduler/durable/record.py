"""What goes into the history, and when: beside the machine, which it only looks at.

Theory of operation
-------------------
Task events are taken as they pass (`Recorder.see`): runs in columns, single events when they have
ended. Of everything else the machine's chronicle tells that it has changed: its row is written
then, and those of what still is there once more at the end.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ract.core.messages import TaskEvents, UserSpans
from ract.scheduler.cluster import Cluster
from ract.scheduler.durable.history import Entry, History
from ract.scheduler.people.task_records import ENDED
from ract.scheduler.people.user_spans import rows_of
from ract.scheduler.queries import rows

PERIOD_S = 1.0
RUN_FIELDS = 9


class Recorder:
    """Follows a machine and writes the history of its cluster.

    Args:
        cluster_id: Of the cluster.
    """

    def __init__(self, cluster_id: bytes) -> None:
        self._history = History(cluster_id.hex())
        self._cluster: Cluster | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seen = 0  # events of the chronicle that were looked at
        self._ended: dict[tuple[bytes, int], None] = {}  # tasks that ended since

    def start(self, cluster: Cluster) -> None:
        """Follow a machine, on the event loop that runs it."""
        self._cluster = cluster
        self._history.start()
        if self._history.is_on:
            self._arm()

    def see(self, message: Any) -> None:
        """A message is about to be handled by the machine."""
        if not isinstance(message, TaskEvents | UserSpans) or not self._history.is_on:
            return
        assert self._cluster is not None
        reporter = self._cluster.processes.alive.get(message.process)
        if reporter is None:
            return
        if isinstance(message, UserSpans):
            for span in rows_of(reporter, message):
                self._put("marked", f"{reporter.number}-{span[4]!r}", span[5], span)
            return
        where = [reporter.number, reporter.pid, reporter.node_id]
        for run in message.runs:
            if isinstance(run, list) and len(run) == RUN_FIELDS and isinstance(run[0], str):
                self._history.put_run([*run, *where])
        for event in message.events:
            if isinstance(event, list) and len(event) > 5 and event[5] in ENDED:
                self._ended[event[0], event[1]] = None

    def close(self) -> None:
        """Write what still is there, and end."""
        if self._timer is not None:
            self._timer.cancel()
        cluster = self._cluster
        if cluster is not None and self._history.is_on:
            self._look()
            now = time.time()
            for actor in list(cluster.actors.table.values()):
                self._put("actors", actor.spec.actor_id.hex(), now, rows.actor(cluster, actor))
            for node in list(cluster.nodes.table.values()):
                self._put("nodes", node.node_id.hex(), now, rows.node(cluster, node))
            for job in list(cluster.processes.jobs.values()):
                self._put("jobs", job.job_id.hex(), now, rows.job(cluster, job))
            for group_id, group in list(cluster.groups.table.items()):
                row = rows.placement_group(cluster, group)
                self._put("placement_groups", group_id.hex(), now, row)
        self._history.close()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self._tick)

    def _tick(self) -> None:
        self._look()
        if self._history.is_on:
            self._arm()

    def _put(self, kind: str, id_: str, at: float, row: rows.Row | list[Any]) -> None:
        self._history.put([(kind, id_, at, row)])

    def _look(self) -> None:
        cluster = self._cluster
        assert cluster is not None
        entries: list[Entry] = []
        ended, self._ended = self._ended, {}
        for key in ended:
            task = cluster.tasks.table.get(key)
            if task is not None and task.state in ENDED:
                id_ = f"{key[0].hex()}-{key[1]}"
                entries.append(("tasks", id_, task.end, rows.task(cluster, task)))
        for event in cluster.turn.chronicle.since(self._seen):
            id_ = f"{event.number:016x}"
            entries.append(("cluster_events", id_, event.at, rows.cluster_event(cluster, event)))
            entries += self._of(cluster, event.at, event.ids)
        self._seen = cluster.turn.chronicle.end
        self._history.put(entries)

    @staticmethod
    def _of(cluster: Cluster, at: float, ids: dict[str, Any]) -> list[Entry]:
        """The rows of what an event is about."""
        found: list[Entry] = []
        actor = cluster.actors.table.get(bytes.fromhex(ids.get("actor_id", "")))
        if actor is not None:
            found.append(("actors", ids["actor_id"], at, rows.actor(cluster, actor)))
        node = cluster.nodes.table.get(bytes.fromhex(ids.get("node_id", "")))
        if node is not None:
            found.append(("nodes", ids["node_id"], at, rows.node(cluster, node)))
        job = cluster.processes.jobs.get(bytes.fromhex(ids.get("job_id", "")))
        if job is not None:
            found.append(("jobs", ids["job_id"], at, rows.job(cluster, job)))
        return found
