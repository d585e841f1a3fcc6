"""What drivers are told without having asked: bad news, warnings and log lines.

Theory of operation
-------------------
An infeasible demand is not an error: a node that satisfies it may join any time. But whoever waits
deserves to know, once per demand. The text names the demand and what each node has, so that it can
be acted on. That a process has crashed, or a node is lost, is news even if nobody notices, because
what ran there runs again. Everything goes to the driver of the job; an executor could not show it
to anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ract.core.causes import text_of
from ract.core.messages import ExitCause, LogLines, Pushed, Warned
from ract.core.resources import describe
from ract.scheduler.books.chronicle import WARNING
from ract.scheduler.books.nodes import Node, Nodes
from ract.scheduler.books.processes import Processes
from ract.scheduler.placement.ask import Ask, lacks
from ract.scheduler.placement.group_records import Group


@dataclass(slots=True, eq=False)
class Reports:
    """Pushes errors and log lines to drivers."""

    nodes: Nodes
    processes: Processes
    #: Queue of an ask or of groups -> the drivers that know that it is infeasible.
    _reported: dict[str, dict[int, None]] = field(default_factory=dict)

    def infeasible(self, process: int, ask: Ask, names: Sequence[str]) -> None:
        """Tell the driver of ``process`` once that no node can satisfy ``ask``."""
        to = self._reader(process)
        if self._is_news(ask.queue, to):
            self._tell(to, "infeasible", self.infeasible_text(ask, names))
            what = f"{', '.join(names) or 'a task'} demands {describe(ask.demand)}"
            self._note(f"{what}, which no node can ever satisfy")

    def infeasible_group(self, group: Group) -> None:
        """Tell the driver once that the nodes could never hold a placement group."""
        to = self._reader(group.spec.owner)
        if self._is_news(group.queue, to):
            text = self.group_text(group) + "; it stays pending until nodes join that can"
            self._tell(to, "infeasible", text)
            self._note(self.group_text(group))

    def group_text(self, group: Group) -> str:
        """Say what a group demands and what the nodes have."""
        demands = ", ".join(describe(bundle.demand) for bundle in group.bundles[:8])
        more = f" and {len(group.bundles) - 8} more" if len(group.bundles) > 8 else ""
        nodes = [f"{node.short} has {describe(node.ledger.total)}" for node in self.nodes.alive[:8]]
        return (
            f"placement group {group.spec.name or group.spec.group_id.hex()} demands {demands}"
            f"{more} ({group.spec.strategy}), which the nodes can never hold: {'; '.join(nodes)}"
        )

    def crashed(self, process: int, cause: ExitCause) -> None:
        """Tell the driver that a process of its job has died while it ran a task or an actor."""
        asker = self.processes.alive.get(process)
        if asker is None:
            return
        driver = self.processes.driver_of(asker.job_id)
        if driver is not None:
            what = "A worker process has died while it ran a task or an actor"
            node = f"node {asker.node_id.hex()[:8]}"
            text = f"{what}: pid {asker.pid} on {node}, {text_of(cause)}"
            self._tell(driver, "worker_died", text)

    def node_lost(self, node: Node, why: str) -> None:
        """Tell every driver that a node is gone that did not leave by itself."""
        for process in list(self.processes.alive.values()):
            if process.kind == "driver" and process.node_id != node.node_id:
                text = f"Node {node.node_id.hex()} at {node.host} is dead: {why}"
                self._tell(process.number, "node_removed", text)

    def warned(self, event: Warned) -> None:
        """Pass a warning of a process to the driver of its job."""
        self._tell(self._reader(event.process), event.type, event.text)

    def _note(self, text: str) -> None:
        self.processes.turn.note(WARNING, "SCHEDULER", "INFEASIBLE", text)

    def _reader(self, process: int) -> int:
        """The driver of the job that a process works for; itself, if that is over."""
        asker = self.processes.alive.get(process)
        driver = self.processes.driver_of(asker.job_id) if asker is not None else None
        return driver if driver is not None else process

    def _is_news(self, queue: str, to: int) -> bool:
        known = self._reported.setdefault(queue, {})
        is_news = to not in known
        known[to] = None
        return is_news

    def _tell(self, to: int, type: str, text: str) -> None:
        self.processes.tell(to, Pushed(to, "error", {"type": type, "message": text}))

    def infeasible_text(self, ask: Ask, names: Sequence[str]) -> str:
        """Say what is demanded, by whom, and what each node lacks for it."""
        who = ", ".join(names) or "a task"
        lines = [
            f"{who} demands {describe(ask.demand)}, which no node of the cluster can ever satisfy;"
            " it stays pending until a node joins that can."
        ]
        for node in self.nodes.alive:
            missing = "; ".join(lacks(node, ask, node.ledger.total)) or "nothing lacking"
            lines.append(f"  node {node.short} has {describe(node.ledger.total)}: {missing}")
        if not self.nodes.alive:
            lines.append("  there are no nodes")
        return "\n".join(lines)

    def forget(self, queue: str) -> None:
        """Nobody waits in a queue any more; if somebody does again, it is news again."""
        self._reported.pop(queue, None)

    def log_lines(self, event: LogLines) -> None:
        """Pass what a process wrote to the driver of its job."""
        driver = self.processes.driver_of(event.job_id)
        node = self.nodes.get(event.node_id)
        if driver is None or node is None:
            return
        data = {
            "pid": event.pid,
            "name": event.name,
            "is_err": event.is_err,
            "lines": event.lines,
            "process": event.process,
            "node_id": event.node_id.hex(),
            "ip": node.host,
        }
        self.processes.tell(driver, Pushed(driver, "log", data))
