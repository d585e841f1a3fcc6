"""One call on its way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from ract.client.objects.refs import READY, ObjectRef


class Way(Protocol):
    """What a call may ask of the channel that it went over (`ract.client.calls.channel`)."""

    executor: int
    is_closed: bool
    read_lock: Any

    def say(self, item: tuple[Any, ...]) -> None: ...
    def flush(self) -> None: ...
    def expedite(self) -> None: ...
    def describe(self) -> str: ...


class Extra:
    """What a call says beside its target and plain arguments. Most calls say nothing more.

    `ract.core.calls` tells what each field means, and under which name it is sent. Only those that
    are set are sent.
    """

    packed: tuple[Any, Any] | None = None
    stored: tuple[Any, ...] | None = None
    deps: Sequence[Any] = ()  #: refs at first; values when all of them are there
    holds: Sequence[tuple[bytes, int]] = ()  #: of the executor; see `hold`
    returns: Any = 1
    label = ""
    group = ""
    trace: Any = None
    events: bool | None = None
    max_calls = 0
    attempt = 0
    rerun = 0
    site = ""
    backpressure = 0
    read = 0
    room = False
    priority = 0
    captures = False

    def hold(self, ids: Iterable[bytes]) -> None:
        """The executor is to have one hold (more) of each of these when it gets the call."""
        self.holds = [*self.holds, *((each, 1) for each in ids)]


_ON_THE_WIRE = {"holds": "refs", "label": "name"}


def extra_of(call: Call) -> dict[str, Any] | None:
    """What is sent of `Call.extra`."""
    extra = call.extra
    if extra is None:
        return None
    return {_ON_THE_WIRE.get(name, name): value for name, value in vars(extra).items()}


class Call:
    """A task or actor call on its way.

    Attributes:
        number: The task number (64 bits).
        refs: The refs that it completes.
        target, args: As on the wire (`ract.core.calls`).
        extra: What else is to be said; made by `more`.
        definition: (key, pickled function) that the executor needs, or None.
        kept: Objects that must live until the reply: refs in the arguments, handles.
        owner: The lease pool or actor client that sent it.
        priority: A higher one goes first.
        waiting: Number of argument refs that are not ready.
        is_over: Whether it has ended; known only of calls without refs, which cannot tell.
        room: Over which a mailbox has kept room for it, until it is sent.
        recipe: How to make again what it has left in shared memory (`ract.client.calls.lineage`).
    """

    # Most calls differ from these in a few attributes only: setting all of them would cost as much
    # as the rest of a submission.
    args: Any = ()
    extra: Extra | None = None
    definition: tuple[bytes, bytes] | None = None
    refs: Sequence[ObjectRef] = ()
    kept: Sequence[Any] = ()
    retries = 0
    oom_deaths = 0
    waiting = 0
    is_over = False
    seq = -1
    channel: Way | None = None
    cancelled = False
    parent = 0
    priority = 0
    retry_exceptions: Any = False
    actor_id: bytes | None = None
    stream: Any = None
    recipe: Any = None
    room: Way | None = None

    def __init__(self, number: int, target: Any, owner: Any, name: str) -> None:
        self.number = number
        self.target = target
        self.owner = owner
        self.name = name

    @property
    def attempt(self) -> int:
        """How often it has been tried before."""
        return self.extra.attempt if self.extra is not None else 0

    def more(self) -> Extra:
        """`extra`, made if the call has none."""
        if self.extra is None:
            self.extra = Extra()
        return self.extra

    def refs_task_id(self) -> str:
        """The task's id in hex, for messages."""
        return self.refs[0].task_id().hex() if self.refs else f"{self.number:016x}"


def next_attempt(call: Call) -> None:
    """The call is to run once more: who runs it then is told which attempt it is."""
    call.more().attempt += 1


def is_over(call: Call) -> bool:
    """Whether the call has ended, or its caller has been told so."""
    return all(ref._state >= READY for ref in call.refs) if call.refs else call.is_over
