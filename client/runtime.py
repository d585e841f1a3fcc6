"""The client runtime: what a process needs to submit calls and to read, hold and wait for values.

There is one per process (driver or executor), installed by `install`; everything else takes it as
an argument. It owns the reactor, the link to the node, the channels to executors, one `TaskPool`
per shape, one `ActorClient` per actor, the table of refs that the cluster knows about
(`ract.client.objects.held`), and how lost objects are made again (`ract.client.calls.lineage`).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ract.client.actors.actors import Actors
from ract.client.actors.client import ActorClient
from ract.client.calls.call import Call
from ract.client.calls.cancelling import Cancelling
from ract.client.calls.channels import Channels
from ract.client.calls.ends import Ends
from ract.client.calls.getting import Getting
from ract.client.calls.lineage import Lineage
from ract.client.calls.replies import Replies
from ract.client.calls.streams import Stream
from ract.client.calls.waiting import describe_wait
from ract.client.inbox import Inbox
from ract.client.objects.held import Held
from ract.client.objects.refs import ObjectRef
from ract.client.objects.store import StoreClient
from ract.client.objects.values import Values
from ract.client.people.mailbox_reports import MailboxReports
from ract.client.people.story import Story
from ract.client.people.unread import Unread
from ract.client.process import current, finalizers, metrics, user_code
from ract.client.process.lending import Lending
from ract.client.process.node_link import NodeLink
from ract.client.process.reactor import Reactor
from ract.client.process.session import Session
from ract.client.tasks.groups import Groups
from ract.client.tasks.pools import Pools
from ract.core import errors

logger = logging.getLogger(__name__)

READ_LOGS_S = 2.0
"""A driver that leaves waits at most so long for what its tasks and actors have printed last."""


class Runtime:
    """The runtime of this process in one cluster.

    Args:
        link: The connection to the node, welcomed.
        is_driver: Whether this is a driver (else an executor).
    """

    is_local = False  #: see `ract.client.local.mode`

    def __init__(self, link: NodeLink, *, is_driver: bool) -> None:
        welcome = link.welcome
        self.link = link
        self.session = Session(welcome, is_driver=is_driver)
        self.closed = False  #: as of the session; each `get` and `put` looks at it
        self.is_driver = is_driver
        self.process = self.session.process
        self.node_id = self.session.node_id
        self.next_number = self.session.next_number
        self.store = StoreClient(link)
        self.actors = Actors(self)
        self._mailboxes = MailboxReports(link, self.actors)
        self.runtime_env = ""
        self.default_lifetime = "non_detached"  # of actors that do not say
        self.on_infeasible = "wait"  # likewise of all that is placed
        self.on_control: Callable[[Any], None] = lambda message: None
        #: Called at every tick; returns in how many seconds it must be called again, if at all.
        self.on_tick: Callable[[], float | None] = lambda: None
        self.on_close: Callable[[], None] = lambda: None
        self.pools = Pools(self)
        self.tell = link.tell
        self.warn = link.warn
        self.check_open = self.session.check_open
        self.check_alive = self.session.check_alive
        self.reactor = Reactor(self._tick)
        self.lending = Lending(self.reactor.wake)
        self.ends = Ends(self.session, self.reactor.wake)
        self.table = Held(self.session, link, self.reactor.wake, self._adopt_handle)
        self.values = self.home = Values(
            self.session, link, self.table, self.store, self.lending, self.reactor.wake
        )
        self.put, self.expedite = self.values.put, self.values.expedite
        self.unread = Unread()
        self.lineage = Lineage(
            link,
            self.table,
            self.values,
            self.reactor.post,
            self._apply_result,
        )
        self._dropped_streams: deque[Stream] = deque()
        self.replies = Replies(link, self.table, self.values, self.lineage.add)
        self.apply_result, self.calls_lost = self.replies.result, self.replies.lost
        self.fail_call, self.fail_soon = self.replies.fail, self.replies.fail_soon
        self.channels = Channels(self.session, link, self.reactor, self.table, self.replies.apply)
        self.connect = self.channels.to
        self.getting = Getting(self.session, self.values, self.channels, self.lending)
        self.get_one, self.get_many = self.getting.one, self.getting.many
        self.wait, self.await_one = self.getting.wait, self.getting.await_one
        self.describe_wait = describe_wait
        self.cancelling = Cancelling(
            link, self.table, self.reactor.wake, self.replies, self.unfinished_calls
        )
        self.groups = Groups(self.session, link, self.replies.fail)
        self.group = self.groups.of
        link.on_message = self._inbox(link).receive
        link.on_lost = self._on_lost
        self._story = Story(self.session, link, self.ends, self.pools, self.actors, self.channels)

    def _inbox(self, link: NodeLink) -> Inbox:
        inbox = Inbox(
            link,
            self.pools,
            self.actors,
            self.groups,
            self.values,
            self.table,
            self.store,
            self.lineage,
            self.cancelling,
            lambda message: self.on_control(message),
        )
        self.pushed = inbox.pushed
        return inbox

    def start(self) -> None:
        """Begin to read what the node says."""
        self.reactor.post(self.link.begin)  # before what will be readable
        self.reactor.watch(self.link.fileno(), self.link.readable)
        self.reactor.start()
        finalizers.watch()

    @property
    def job_id(self) -> bytes:
        """See `Session`."""
        return self.session.job_id

    @property
    def namespace(self) -> str:
        """See `Session`."""
        return self.session.namespace

    @property
    def lost_reason(self) -> str:
        """See `Session`."""
        return self.session.lost_reason

    # ------------------------------------------------------------------ submission

    def release_idle_leases(self) -> None:
        """Give back executors that are only kept for calls that may come."""
        self.pools.release_idle_leases()

    # ------------------------------------------------------------------ calls that have not ended

    def cancel(self, ref: ObjectRef, force: bool, recursive: bool) -> None:
        """Cancel the call that makes ``ref``: see `Cancelling.cancel`."""
        self.cancelling.cancel(ref, force, recursive)

    def _apply_result(self, ref: ObjectRef, result: tuple[Any, ...]) -> None:
        self.replies.result(ref, result)  # which are made later than who is handed this

    def unfinished_calls(self) -> list[Call]:
        """Calls of this process that wait or run."""
        found: list[Call] = []
        found += self.pools.waiting
        found += self.actors.waiting
        found += self.channels.inflight()
        found += self.groups.waiting
        return found

    def _on_lost(self) -> None:
        lost = "The node daemon of this process has died; its cluster state is gone."
        self.session.lost_reason = lost
        self.reactor.forget(self.link.fileno())
        error = errors.LocalRayletDiedError(lost)
        for call in self.pools.waiting:
            self.fail_call(call, error)
        self.actors.lost_cluster(error)
        for call in self.groups.waiting:
            self.fail_call(call, error)
        self.values.end_asking()
        self.on_control(None)

    # ------------------------------------------------------------------ upkeep

    def actor(self, actor_id: bytes) -> ActorClient:
        """This process' end of an actor; made when it is new."""
        return self.actors.of(actor_id)

    def _adopt_handle(self, actor_id: bytes, count: int) -> Any:
        return self.actor(actor_id).adopt(count)

    def drop_stream(self, stream: Stream) -> None:
        """A finalizer of a generator: only appends."""
        if not self.closed:
            self._dropped_streams.append(stream)
            self.reactor.wake()

    def _tick(self) -> bool:
        while self._dropped_streams:
            self._dropped_streams.popleft().let_go()
        while self.values.unread:
            self.unread.tell(self.values.unread.popleft())
        nap_s = self.on_tick()
        busy = self.cancelling.tick()
        if self.table.is_busy:
            self.lineage.dropped(self.table.sort_out())
            busy = True
        busy |= self.actors.tick()
        busy |= self.link.flush_holds()
        busy |= self.channels.tick()
        now = time.monotonic()
        busy |= self._mailboxes.tick(now)
        busy |= self.pools.tick(now)
        self.reactor.nap_s = _sooner(nap_s, self._story.tick(now))
        return busy

    def close(self) -> None:
        """Leave the cluster."""
        if self.closed:
            return
        if self.is_driver and not self.lost_reason:
            with contextlib.suppress(OSError, errors.RactError):  # the cluster is away, or busy
                self.link.request("read_logs", READ_LOGS_S)  # what was printed last comes before
        metrics.recorder.flush()
        self.link.flush_holds()
        with self.table.lock:  # whoever begins to wait from now on is refused: none is left out
            self.closed = self.session.closed = True
        self.values.end_waiting([ref for call in self.unfinished_calls() for ref in call.refs])
        finalizers.unwatch()
        self.reactor.close()
        self.channels.discard()
        self.link.close()
        user_code.flush()
        self.on_close()


def _sooner(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else min(one, other)


def current_runtime() -> Runtime | None:
    """The runtime of this process, or None before init and after shutdown."""
    found: Runtime | None = current.runtime
    return found
