"""The cluster as the scheduler knows it: all parts as one value, to be looked at.

Who answers questions (`ract.scheduler.queries`), shows pages (`ract.dashboard.views`) or writes the
history gets a `Cluster`. It has no ``handle``: only `SchedulerMachine`, which makes it, takes
events, and only what arrives there, or is asked in `ract.scheduler.requests`, changes a part.
`tests/test_structure.py` holds that nobody who looks calls what changes.
"""

from __future__ import annotations

import random
from typing import Any

from ract.scheduler.actors.actors import Actors
from ract.scheduler.books.kv import KeyValues
from ract.scheduler.books.nodes import Nodes
from ract.scheduler.books.processes import Processes
from ract.scheduler.books.turn import Settings, Turn
from ract.scheduler.capacity.drains import Drains
from ract.scheduler.capacity.groups import Groups
from ract.scheduler.capacity.scaling import Scaling
from ract.scheduler.leases.ageing import Ageing
from ract.scheduler.leases.lease_table import LeaseTable
from ract.scheduler.leases.lessor import Lessor
from ract.scheduler.leases.recalls import Recalls
from ract.scheduler.objects.directory import Directory
from ract.scheduler.objects.handed import Handed
from ract.scheduler.objects.holds import HoldTable
from ract.scheduler.people.mailboxes import Mailboxes
from ract.scheduler.people.tasks import Tasks
from ract.scheduler.people.user_metrics import UserMetrics
from ract.scheduler.people.user_spans import MarkedSpans
from ract.scheduler.placement.placement import Placement
from ract.scheduler.placement.reports import Reports


class Cluster:
    """The parts of the scheduler, lowest first; each is handed those before it that it uses.

    Args:
        cluster_id: names the cluster for its life.
        rng: the only source of randomness.
        config: overrides of `Settings`, by name.
    """

    def __init__(self, cluster_id: bytes, rng: random.Random, config: dict[str, Any]) -> None:
        self.cluster_id = cluster_id
        self.dashboard_address = ""  #: where people look at the cluster, "" if nowhere
        self.turn = Turn(Settings.of(config))
        self.kv = KeyValues(self.turn)
        self.nodes = Nodes(self.turn)
        self.processes = Processes(self.turn, rng)
        self.holds = HoldTable()
        self.handed = Handed()
        self.objects = Directory(self.turn, self.nodes, self.processes, self.holds, rng)
        self.placement = Placement(self.nodes, self.turn.settings.pack_below)
        self.reports = Reports(self.nodes, self.processes)
        self.tasks = Tasks(self.turn)
        self.mailboxes = Mailboxes()
        self.metrics = UserMetrics(self.turn, cluster_id, self.processes)
        self.spans = MarkedSpans()
        self.leases = LeaseTable()
        self.recalls = Recalls(self.turn, self.processes, self.placement, self.leases)
        books = (self.turn, self.nodes, self.processes)
        lent = (self.leases, self.recalls)
        self.lessor = Lessor(*books, self.placement, self.reports, *lent)
        self.ageing = Ageing(self.turn, self.nodes, self.placement, *lent)
        self.actors = Actors(
            self.turn, self.processes, self.placement, self.holds, *lent, self.reports
        )
        self.groups = Groups(*books, self.placement, *lent, self.lessor, self.actors, self.reports)
        self.drains = Drains(*books, *lent, self.actors, self.groups, self.objects)
        self.scaling = Scaling(
            self.nodes, self.processes, self.leases, self.actors, self.groups, self.drains
        )

    def check(self) -> None:
        """Assert the invariants of all parts, and those between them."""
        assert not self.turn.commands
        for part in (
            *(self.nodes, self.processes, self.holds, self.lessor, self.actors, self.groups),
            *(self.ageing, self.drains, self.objects, self.mailboxes, self.metrics),
        ):
            part.check()
        for number in self.holds.by_process:
            assert number in self.processes.alive, f"process {number} is dead but holds"
        leases = [lease.allocation for lease in self.leases.table.values()]
        bodies = [a.body.allocation for a in self.actors.table.values() if a.body is not None]
        bundles = [b for group in self.groups.table.values() for b in group.bundles]
        reserved = [b.allocation for b in bundles if b.allocation is not None]
        emptying = self.groups.emptying
        owned = sorted(map(id, (*leases, *bodies, *reserved, *emptying.values())))
        books = [node.ledger for node in self.nodes.alive]
        books += [b.ledger for b in bundles if b.ledger is not None] + list(emptying)
        held = sorted(id(each) for ledger in books for each in ledger.holders)
        assert owned == held, "an allocation without an owner, or an owner without one"
