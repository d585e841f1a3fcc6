"""The objects of one client process, without a cluster: what it tells its node is recorded."""

import itertools
import pickle
import threading
import types
from collections import Counter, deque

from ract.client.objects.held import Held
from ract.client.objects.values import Values
from ract.client.process import current
from ract.client.process.lending import Lending
from ract.core.messages import Hold, HoldsChanged, ObjectPublished

ME = 1
NODE = b"n" * 28
JOB = b"\0\0\0\1"


class Link:
    """Records what is told, after the changes of holds, as `NodeLink.send` sends it."""

    def __init__(self):
        self.sent = []
        self.hold_changes = deque()

    def tell(self, *messages):
        self.flush_holds()
        self.sent += messages

    def flush_holds(self):
        while self.hold_changes:
            self.sent.append(HoldsChanged(ME, [Hold(*self.hold_changes.popleft())]))


class Process:
    """A process that is in a cluster, with the real table of refs and the real values."""

    is_local = False

    def __init__(self):
        numbers = itertools.count(16 << 36)
        self.session = types.SimpleNamespace(
            process=ME,
            node_id=NODE,
            job_id=JOB,
            closed=False,
            lost_reason="",
            next_number=lambda: next(numbers),
            check_alive=lambda: None,
        )
        self.link = Link()
        self.woken = threading.Event()
        self.table = Held(self.session, self.link, self.wake, lambda id, count: None)
        store = types.SimpleNamespace(read=lambda place, ref: (pickle.dumps("stored", 5), []))
        self.values = self.home = Values(
            self.session, self.link, self.table, store, Lending(self.wake), self.wake
        )
        self.process, self.job_id, self.tell = ME, JOB, self.link.tell
        self.expedite = self.values.expedite
        current.install(self)

    def wake(self):
        """The reactor would tick."""

    @property
    def published(self):
        """What the directory was told of refs."""
        return [m for m in self.link.sent if isinstance(m, ObjectPublished)]

    def holds(self, process=ME):
        """The holds that the directory was told of, by id."""
        self.link.flush_holds()
        found = Counter()
        for message in self.link.sent:
            for hold in getattr(message, "holds", ()):
                if hold.process == process:
                    found[hold.id] += hold.change
        return found
