"""Running one call: arguments in, user code, results or errors out.

Everything here is independent of how calls arrive and of which thread or loop runs them.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
import traceback
from array import array
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ract.client.calls.streams import FIRST_INDEX, DynamicObjectRefGenerator
from ract.client.objects.held import contained_of, id_of
from ract.client.objects.refs import ERROR, ObjectRef, new_ref
from ract.client.objects.store import INLINE_BYTES_MAX, Location
from ract.client.objects.values import pack
from ract.client.process import context
from ract.core import calls, events, ids, naming, serialization
from ract.core.errors import RactError, RactTaskError, TaskCancelledError
from ract.core.messages import Hold, TaskEvents
from ract.core.returns import exactly, generator_of
from ract.core.task_error import ByParts
from ract.worker.executor.callers import OutStream

if TYPE_CHECKING:
    from ract.client.runtime import Runtime
    from ract.worker.executor.callers import Caller

EVENTS_PERIOD_S = 0.5
EVENTS_BUFFERED_MAX = 20_000
FUNCTIONS_MAX = 1024
"""So many functions are kept ready to run, the newest; others are unpickled again when called."""

RUNS_MAX = 1024
MESSAGE_CHARACTERS_MAX = 4000


class Execution:
    """What an executor knows independent of calls: functions, the runtime, pending events."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.actor_id = b""
        self.actor_repr: str | None = None
        self.notes_calls = True  # unless a call says otherwise
        self.active: dict[int, context.Running] = {}  # the calls that run, by number
        self._facts: dict[str, Any] = {}
        self.functions: OrderedDict[bytes, Callable[..., Any]] = OrderedDict()
        self._pickled: dict[bytes, bytes] = {}
        self._events: deque[events.Event] = deque()
        self._flush_lock = threading.Lock()
        self._runs: dict[tuple[str, bytes, bytes], _Run] = {}
        self._closed_runs: deque[_Run] = deque()  # of an earlier lease
        self._events_at = 0.0
        self._ip = runtime.link.welcome.config.get("host", "127.0.0.1")

    # ------------------------------------------------------------------ functions and arguments

    def define(self, key: bytes, pickled: bytes) -> None:
        """A function's body arrived."""
        if key not in self._pickled:
            self._pickled[key] = pickled

    def function(self, key: bytes, extra: dict[str, Any] | None) -> Callable[..., Any]:
        """The function with this key, unpickled at its first use.

        One that captures refs or handles is unpickled for each call: kept here, it would hold them
        for as long as this process lives.
        """
        if extra is not None and "captures" in extra:
            captures: Callable[..., Any] = serialization.unpack(self._pickled[key])
            return captures
        function = self.functions.get(key)
        if function is None:
            function = self.functions[key] = serialization.unpack(self._pickled[key])
            while len(self.functions) > FUNCTIONS_MAX:
                self.functions.popitem(last=False)
        return function

    def arguments(self, extra: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any], list[Any]]:
        """(args, kwargs, objects to keep while the call runs)."""
        runtime = self.runtime
        kept = [runtime.table.adopt(i, n) for i, n in extra.get("refs", ())]
        if "stored" in extra:
            head, buffers = self._stored(extra["stored"], kept)
            args, kwargs = serialization.unpack_users(head, buffers)
        elif "packed" in extra:
            args, kwargs = serialization.unpack_users(*extra["packed"])
        else:
            return (), {}, kept
        deps = extra.get("deps")
        if deps is not None:
            values = [self._dependency(dep, kept) for dep in deps]

            def filled(value: Any) -> Any:
                return values[value.index] if type(value) is calls.Slot else value

            args = tuple(map(filled, args))
            kwargs = {key: filled(value) for key, value in kwargs.items()}
        return args, kwargs, kept

    def _dependency(self, dep: tuple[Any, ...], kept: list[Any]) -> Any:
        if dep[0] == calls.PLAIN:
            return dep[1]
        if dep[0] == calls.INLINE:
            return serialization.unpack_users(dep[1], dep[2])
        head, buffers = self._stored(dep[1:], kept)
        return serialization.unpack_users(head, buffers)

    def _stored(self, place: tuple[Any, ...], kept: list[Any]) -> tuple[Any, list[Any]]:
        object_id, node_id, path, offset, size, _ = place
        ref = next(r for r in kept if id_of(r) == object_id)
        if path and node_id == self.runtime.node_id:
            return self.runtime.values.read_here(Location(path, offset, size), ref)
        self.runtime.values.await_here(ref, seen_on=node_id)
        return self.runtime.values.packed_here(ref)

    def let_go(self, extra: dict[str, Any] | None) -> None:
        """A call is not begun here: the holds that were announced for us with it are given back."""
        if extra is not None:
            for id, count in extra.get("refs", ()):
                self.runtime.table.adopt(id, count)

    # ------------------------------------------------------------------ results

    def reply(self, caller: Caller, seq: int, number: int, extra: Any, value: Any) -> None:
        """Queue the reply for a returned value."""
        if extra is None or "returns" not in extra:
            if serialization.is_plain(value):
                caller.out.append((seq, value))
            else:
                caller.out.append((seq, *self.result(caller, number, 1, value)))
            return
        n = extra["returns"]
        if n == "dynamic":
            made = DynamicObjectRefGenerator(self._each_put(value))
            caller.out.append((seq, *self.result(caller, number, 1, made)))
            return
        if n == 0:
            caller.out.append((seq, calls.SEVERAL, []))
            return
        results: list[tuple[Any, ...]] = []
        try:
            for each in exactly(value, n):
                results.append(self.result(caller, number, len(results) + 1, each))
        except Exception as error:
            if not results:
                raise
            # What a generator yielded before it failed is good.
            running = context.running()
            name = running.name if running is not None else ""
            for i in range(len(results), n):
                results.append(self._error(caller, number, i + 1, name, error))
        caller.out.append((seq, calls.SEVERAL, results))

    def _each_put(self, value: Any) -> list[ObjectRef]:
        """Refs to what a generator yields; an exception is the last one."""
        found: list[ObjectRef] = []
        try:
            for each in generator_of(value, "dynamic"):
                found.append(self.runtime.put(each))
        except Exception as error:
            running = context.running()
            ref = new_ref(self.runtime.next_number(), None, 1, None)
            ref._complete(ERROR, self.pack_error(running.name if running else "", error))
            found.append(ref)
        return found

    def open_stream(self, caller: Caller, seq: int, extra: dict[str, Any]) -> OutStream:
        """A generator begins to run."""
        return caller.open_stream(seq, extra.get("backpressure", 0), extra.get("read", 0))

    def stream_item(self, caller: Caller, seq: int, number: int, value: Any) -> None:
        """Queue an item."""
        stream = caller.streams[seq]
        if not caller.is_gone:  # else the generator goes on, but for nobody
            result = self.result(caller, number, FIRST_INDEX + stream.count, value)
            caller.out.append((seq, calls.ITEM, stream.count, result))
        stream.count += 1

    def stream_end(self, caller: Caller, seq: int) -> None:
        """Queue the end of a stream."""
        caller.out.append((seq, calls.END, caller.streams[seq].count))

    def result(self, caller: Caller, number: int, index: int, value: Any) -> tuple[Any, ...]:
        """One value as it travels: plain, inline, or a place in shared memory."""
        if serialization.is_plain(value):
            return (calls.PLAIN, value)
        packed = pack(value, what="the result")
        if packed.size <= INLINE_BYTES_MAX:
            counts = [(i, 1) for i in Counter(map(id_of, packed.refs))]
            if counts:
                self.runtime.table.hand_over_result(counts, caller.process, number, index)
            return (calls.INLINE, packed.head, packed.copied_buffers(), counts)
        task = ids.task_id_bytes(number, caller.job_id, self.actor_id)
        object_id = ids.object_id_bytes(task, index)
        location = self.runtime.store.write(
            object_id,
            packed,
            contained_of(packed.refs),
            [Hold(object_id, caller.process, 1)],
        )
        place = (self.runtime.node_id, location.path, location.offset, location.size, False)
        return (calls.STORED, object_id, *place)

    def reply_error(
        self, caller: Caller, seq: int, number: int, name: str, error: BaseException
    ) -> None:
        """Queue the reply for an exception of user code."""
        stream = caller.streams.get(seq)
        index = FIRST_INDEX + stream.count if stream is not None else 1
        caller.out.append((seq, *self._error(caller, number, index, name, error)))

    def reply_cancelled(
        self, caller: Caller, seq: int, running: context.Running, interrupt: BaseException
    ) -> None:
        """Queue the reply for a call that ``interrupt`` has ended."""
        task = ids.task_id_bytes(running.number, self.runtime.job_id, self.actor_id)
        error = TaskCancelledError(task_id=task.hex())
        error.__cause__ = interrupt
        caller.out.append((seq, calls.CANCELLED, self.pack_error(running.name, error)[0]))

    def _error(
        self, caller: Caller, number: int, index: int, name: str, error: BaseException
    ) -> tuple[Any, ...]:
        head, buffers, refs = self.pack_error(name, error)
        counts = [(i, 1) for i in Counter(map(id_of, refs))]
        if counts:
            self.runtime.table.hand_over_result(counts, caller.process, number, index)
        return (calls.ERROR, head, buffers, counts)

    def pack_error(self, name: str, error: BaseException) -> tuple[bytes, list[bytes], list[Any]]:
        """An exception as RactTaskError, pickled; an unpicklable cause is described instead."""
        text = _traceback_text(error)
        details: dict[str, Any] = {
            "proctitle": naming.title(name),
            "pid": os.getpid(),
            "ip": self._ip,
            "actor_repr": self.actor_repr,
            "actor_id": self.actor_id.hex() or None,
        }
        problem: Exception | None = None
        for cause in (error, ByParts(error)):
            try:
                packed = serialization.pack(RactTaskError(name, text, cause, **details))
                pickle.loads(packed.head, buffers=packed.buffers)
            except Exception as found:  # the user's exception class may do anything when pickled
                problem = problem or found
            else:
                return packed.head, packed.copied_buffers(), packed.refs
        described = RactError(
            f"The original cause of the RactTaskError ({type(error).__name__}: {error}) isn't "
            f"serializable: {problem}. Use the traceback below."
        )
        packed = serialization.pack(RactTaskError(name, text, described, **details))
        return packed.head, packed.copied_buffers(), packed.refs

    # ------------------------------------------------------------------ events

    def note(
        self,
        running: context.Running,
        error: BaseException | None = None,
        is_cancelled: bool = False,
    ) -> None:
        """Remember that a call has ended, for the state API and the dashboard."""
        running.is_over = True  # first: from here on it is not reported as running
        extra = running.extra
        is_noted = self.notes_calls if extra is None else extra.get("events", self.notes_calls)
        if not is_noted:
            return
        is_plain = error is None and not is_cancelled and not running.reported
        if is_plain and (extra is None or _is_ordinary(extra)):
            self._note_run(running)
        else:
            self._note_end(running, error, is_cancelled)
        if self.runtime.reactor.is_dormant:  # its tick sends what is noted
            self.runtime.reactor.wake()

    def _note_end(
        self, running: context.Running, error: BaseException | None, is_cancelled: bool
    ) -> None:
        state, error_type, message = events.FINISHED, "", ""
        if is_cancelled:
            state, error_type = events.FAILED, "TASK_CANCELLED"
        elif error is not None:
            state, error_type = events.FAILED, "TASK_EXECUTION_EXCEPTION"
            message = _message_of(error)
        ended = self._event(running, state)
        ended[7], ended[10], ended[11] = time.time(), error_type, message
        if running.reported:
            # Rare: and who is seen to run must not seem to die with its process.
            self.runtime.tell(TaskEvents(self.runtime.process, [ended]))
            return
        self._events.append(ended)
        if len(self._events) > EVENTS_BUFFERED_MAX:
            self.flush_events()

    def note_creation(self, start: float, error: BaseException | None) -> None:
        """Remember that the constructor of an actor has ended."""
        if not self.notes_calls:
            return
        spec = context.process.actor_spec
        name = f"{spec.class_name}.__init__"
        message = _message_of(error) if error is not None else ""
        self._events.append(
            [
                ids.creation_task_id(self.actor_id),
                max(0, context.process.actor_incarnation - 1),
                name,
                name,
                events.ACTOR_CREATION_TASK,
                events.FINISHED if error is None else events.FAILED,
                start,
                time.time(),
                0,
                self.actor_id,
                "" if error is None else "TASK_EXECUTION_EXCEPTION",
                message,
                {**self._facts, **({"site": spec.call_site} if spec.call_site else {})},
            ]
        )
        self.runtime.reactor.wake()

    def _event(self, running: context.Running, state: str) -> events.Event:
        """An event of a call that has not ended, see `ract.core.events`."""
        caller, extra = running.caller, running.extra
        facts = dict(self._facts)
        if caller.actor_id and running.parent:
            facts["parent_actor"] = caller.actor_id
        if extra is not None and "site" in extra:
            facts["site"] = extra["site"]
        return [
            ids.task_id_bytes(running.number, caller.job_id, self.actor_id),
            extra.get("attempt", 0) if extra is not None else 0,
            running.name,
            running.function_name,
            events.ACTOR_TASK if self.actor_id else events.NORMAL_TASK,
            state,
            running.started,
            0.0,
            running.parent,
            self.actor_id,
            "",
            "",
            facts,
        ]

    def _note_run(self, running: context.Running) -> None:
        caller = running.caller
        key = (running.name, caller.job_id, caller.actor_id)
        run = self._runs.get(key)
        if run is None:
            run = self._runs[key] = _Run(running, self._facts)
        run.calls.append((running.number, running.started, time.time(), running.parent))
        if len(run.calls) > EVENTS_BUFFERED_MAX:
            self.flush_events()

    def use(self, facts: dict[str, Any]) -> None:
        """What runs from here on has these facts (`ract.core.events.FACTS`)."""
        if facts != self._facts:
            self._facts = facts
            old, self._runs = self._runs, {}
            self._closed_runs.extend(old.values())

    def flush_events(self, *, at_once: bool = False) -> float | None:
        """Send what is remembered, if it is old enough; returns in how many seconds to look again.

        Args:
            at_once: However old it is, for the process ends.
        """
        with self._flush_lock:  # at the end, nothing may be half sent by the IO thread
            return self._flush_events(at_once)

    def _flush_events(self, at_once: bool) -> float | None:
        closed = list(self._closed_runs)
        runs = [run for run in (*closed, *list(self._runs.values())) if run.calls]
        if not self._events and not runs and not self.active:
            return None
        now = time.monotonic()
        most = max([len(self._events), *(len(run.calls) for run in runs)])
        due_in = self._events_at + EVENTS_PERIOD_S - now
        if due_in > 0 and most <= EVENTS_BUFFERED_MAX and not at_once:
            return due_in
        self._events_at = now
        is_young = self._note_running()
        batch = [self._events.popleft() for _ in range(len(self._events))]
        kind = events.ACTOR_TASK if self.actor_id else events.NORMAL_TASK
        for _ in closed:
            self._closed_runs.popleft()
        plain = [run.taken(kind, self.actor_id) for run in runs]
        if batch or plain:
            self.runtime.tell(TaskEvents(self.runtime.process, batch, plain))
        if len(self._runs) > RUNS_MAX:  # names of calls may be made up
            old, self._runs = self._runs, {}
            self._closed_runs.extend(
                old.values()
            )  # the thread that runs calls may have one in hand
        return EVENTS_PERIOD_S if is_young else None

    def in_progress(self) -> list[context.Running]:
        """The calls that run now; for any thread."""
        return [running for running in list(self.active.values()) if not running.is_over]

    def _note_running(self) -> bool:
        """Tell of the calls that run, or wait, for long; returns whether there are others."""
        before = time.time() - EVENTS_PERIOD_S
        is_young = False
        for running in self.in_progress():
            if running.started > before or not running.name:
                is_young = True
                continue
            state, since = events.RUNNING, running.started
            if running.waits:
                waits = list(running.waits.values())  # at once: its threads change it
                settled = [each for each in waits if each[1] <= before]
                is_young = is_young or len(settled) < len(waits)
                state, since = settled[0] if settled else (state, since)
            if running.reported == state:
                continue
            extra = running.extra
            is_noted = self.notes_calls if extra is None else extra.get("events", self.notes_calls)
            if is_noted:
                running.reported = state
                event = self._event(running, state)
                if state != events.RUNNING:
                    event[12]["since"] = since
                    is_young = True  # it may go on right now, and has not seen that this is told
                if not running.is_over:  # its end comes later, and is reported as such
                    self._events.append(event)
        return is_young


class _Run:
    """Calls of one function that finished: see `ract.core.events`.

    The thread that runs them appends, the IO thread takes them: a deque loses nothing.
    """

    __slots__ = ("calls", "facts", "function_name", "job_id", "name")

    def __init__(self, running: context.Running, facts: dict[str, Any]) -> None:
        caller = running.caller
        self.name = running.name
        self.function_name = running.function_name
        self.job_id = caller.job_id
        self.facts = {**facts, "parent_actor": caller.actor_id} if caller.actor_id else facts
        self.calls: deque[tuple[int, float, float, int]] = deque()

    def taken(self, kind: str, actor_id: bytes) -> list[Any]:
        """The calls so far, as they travel; from here on there are none."""
        calls = [self.calls.popleft() for _ in range(len(self.calls))]
        numbers = array("Q", [number for number, _, _, _ in calls])
        times = array("d", [at for _, start, end, _ in calls for at in (start, end)])
        parents = array("Q", [parent for _, _, _, parent in calls])
        if not any(parents):
            del parents[:]
        packed = (numbers.tobytes(), times.tobytes(), parents.tobytes())
        return [self.name, self.function_name, kind, actor_id, self.job_id, *packed, self.facts]


def _is_ordinary(extra: dict[str, Any]) -> bool:
    """Whether all there is to say of a call is said by its run."""
    return "attempt" not in extra and "site" not in extra


def _message_of(error: BaseException) -> str:
    """An exception and where it was raised, for people."""
    text = _traceback_text(error)
    if len(text) > MESSAGE_CHARACTERS_MAX:
        text = f"... {text[-MESSAGE_CHARACTERS_MAX:]}"
    return text


def is_streaming(extra: dict[str, Any] | None) -> bool:
    """Whether the items of a call go to the caller one by one."""
    return extra is not None and extra.get("returns") == "streaming"


_OWN_FILES = (os.sep + os.path.join("worker", "executor") + os.sep,)


def _traceback_text(error: BaseException) -> str:
    """The traceback of user code: our own frames on top are left out."""
    frame = error.__traceback__
    while frame is not None and _OWN_FILES[0] in frame.tb_frame.f_code.co_filename:
        frame = frame.tb_next
    return "".join(traceback.format_exception(type(error), error, frame))
