"""The program of an executor: it serves calls as `ract.worker.executor.serial` does.

Theory of operation
-------------------
The server of a real executor is a loop around sockets and signals on a thread; here is the same
protocol as steps. Calls wait in an inbox and run one at a time: arguments are fetched, a time
passes, children are called, perhaps waited for, and the reply goes out. A task that waits lends its
CPUs and gives back the calls behind it. What it makes and replies is made by the real client and
by the real `ract.worker.executor.execution.Execution`.

A process that is asked to end does so when it owes nothing, as `ract.worker.executor.leaving` does
with the same `ract.client.debts.Debts`.
"""

from __future__ import annotations

import pickle
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from simulation.programs import Program
from simulation.values import Plan, SimError, refs_in, value_of
from simulation.wires import Socket

from ract.client.debts import Debts
from ract.client.objects.held import id_of
from ract.client.process import context
from ract.core import calls, serialization
from ract.core import messages as m
from ract.core.errors import TaskCancelledError
from ract.core.messages import ExitCause
from ract.worker.executor.callers import Caller, Callers
from ract.worker.executor.execution import Execution, is_streaming

if TYPE_CHECKING:
    from simulation.peers import SimProcess

FETCH_GRACE_S = 1.0
LOOK_S = 0.05
PATIENCE_S = 0.5
"""Calls wait for what they were given no longer than this: it may depend on them."""


class Executor(Program):
    """An executor of tasks, or an actor.

    Attributes:
        lease: The newest that it was told to serve.
        running: The call that runs.
        state: Refs and handles that an actor keeps.
    """

    def __init__(self, process: SimProcess) -> None:
        super().__init__(process)
        self.execution = Execution(self.runtime)
        self.runtime.on_control = self._control
        self.runtime.on_tick = self.execution.flush_events
        self.lease = 0
        self.demand: dict[str, int] = {}
        self.job_id = b""
        self.spec: m.ActorSpec | None = None
        self.incarnation = 0
        self.is_constructed = False
        self.running: Run | None = None
        self.is_blocked = False
        self.was_blocked = False
        self.ending: ExitCause | None = None
        self.state: list[Any] = []
        self._is_leaving = self._is_asking = False
        owed = lambda: []  # noqa: E731 - asked for in another way, see `_stay`
        table, lineage = self.runtime.table, self.runtime.lineage
        self._debts = Debts(table, self.runtime.unfinished_calls, lineage, owed)
        self._callers = Callers(lambda fd: None)
        self._inbox: deque[tuple[Caller, tuple[Any, ...]]] = deque()
        self._leases: dict[int, int] = {}  #: the newest of each caller
        self._cancelled: dict[int, None] = {}
        for sock in process.accepted:
            self.accept(sock)

    def ended(self) -> None:
        """The process is gone."""
        super().ended()
        if self.spec is not None:
            self.world.body_ended(self.spec.actor_id, self.incarnation)

    @property
    def cpus_in_use(self) -> int:
        """Of those of its lease, those that nobody else may use."""
        is_lent = self.is_blocked or self.was_blocked
        return 0 if self.running is None or is_lent else self.demand.get("CPU", 0)

    # ------------------------------------------------------------------ what the node says

    def _control(self, message: Any) -> None:
        if isinstance(message, m.UseLease):
            assert self.running is None, "a lease was given to a busy executor"
            assert self.spec is None, "a lease was given to an actor"
            assert self.job_id in (b"", message.shape.job_id), "an executor served two jobs"
            assert message.lease > self.lease, "leases come in order"
            self.lease, self.demand = message.lease, message.shape.demand
            self._join(message.shape.job_id)
            self.was_blocked = False
        elif isinstance(message, m.CreateActor):
            assert self.lease == 0, "an executor that has run tasks became an actor"
            assert self.spec is None, "an actor became another"
            self.spec, self.incarnation = message.spec, message.incarnation
            self.execution.actor_id = self.spec.actor_id
            self._join(self.spec.job_id)
            context.process.actor_spec = self.spec
            context.process.actor_incarnation = message.incarnation
            self.world.body_started(self.spec.actor_id, self.incarnation)
            self.process.later(self.rng.random() * 0.05, self._constructed)
        elif isinstance(message, m.CancelCall):
            self._cancel(message)
        elif isinstance(message, m.EndProcess):
            if message.cause.kind == "idle" and self._debts.keep_idle_process():
                self.world.count("a process that owes is asked to end")
                self.runtime.tell(m.StillOwes(self.process.number))
            else:
                self.end(message.cause)
        self._serve()

    def _join(self, job_id: bytes) -> None:
        self.job_id = self.runtime.session.job_id = job_id

    def _constructed(self) -> None:
        spec, runtime = self.spec, self.runtime
        assert spec is not None
        _, head = pickle.loads(spec.creation.head)
        self.state += refs_in(serialization.unpack_users(head, spec.creation.buffers))
        me = (runtime.node_id, spec.actor_id, self.incarnation)
        if self.rng.random() < 0.05:
            runtime.tell(m.ActorInitFailed(*me, m.Blob(pickle.dumps(SimError(0, [])), [], True)))
            self.end(ExitCause("init_failed"))
        else:
            self.is_constructed = True
            address = f"/s/e{self.process.number}.sock"
            runtime.tell(m.ActorStarted(*me, self.process.number, address, self.process.pid))
        self._serve()

    # ------------------------------------------------------------------ the end

    def forget(self) -> None:
        """An actor drops what it keeps."""
        state, self.state = self.state, []
        self.world.linger(self.process, state)

    def end(self, cause: ExitCause) -> None:
        """Serve nobody any more, as soon as the call that runs has ended."""
        if self.ending is None:
            self.ending = cause
            self.runtime.tell(m.EndProcess(self.process.number, cause))

    def _leave(self) -> None:
        """Nothing runs: give back what was not begun, and end when nothing is owed."""
        assert self.ending is not None
        if self._is_leaving:
            return
        if self.spec is None or self.ending.kind == "drained":
            self._return_inbox()
        self._flush()
        if any(caller.has_unsent for caller in self._callers.here.values()):
            return  # `_flush` comes again, and then this
        self._is_leaving = True
        if self._owes:
            self.world.count("a process that owes is asked to end")
            cause = replace(self.ending, task=self.process.progress)
            self.runtime.tell(m.ProcessLeaving(self.process.number, cause))
            for caller in [*self._callers.here.values(), *self._callers.away.values()]:
                caller.close()
            self._callers.here.clear()
            self._callers.away.clear()
        self._stay()

    @property
    def _owes(self) -> bool:
        is_actor = self.spec is not None
        return self._debts.has_promises() if is_actor else self._debts.has_calls()

    def _stay(self) -> None:
        if not self._owes:
            self.runtime.link.flush_holds()
            self.process.die(0)
            return
        self.process.later(LOOK_S, self._stay)
        if self.spec is not None and not self._is_asking:
            self._is_asking = True
            number = self.runtime.link.next_request()
            self.process.asked[number] = self._told_who_waits
            self.runtime.tell(m.Request(self.process.number, number, "owed"))

    def _told_who_waits(self, reply: m.Reply) -> None:
        self._is_asking = False
        if not reply.error and not reply.value:
            self.runtime.link.flush_holds()
            self.process.die(0)

    # ------------------------------------------------------------------ channels

    def accept(self, sock: Socket) -> None:
        """A caller has connected."""
        self._callers.add(Caller(sock))
        sock.on_readable = lambda: self._read(sock)
        self._read(sock)

    def _read(self, sock: Socket) -> None:
        while sock.is_readable and sock.fileno() in self._callers.here:
            caller = self._callers.here[sock.fileno()]
            for item in caller.receive():
                self._take(caller, item)
            if caller.is_closed and self._callers.here.get(sock.fileno()) is caller:
                for gone in self._callers.broke(caller):
                    self._drop(gone)
        self._flush()
        self._serve()

    def _drop(self, gone: Caller) -> None:
        """A caller is gone: what it wanted and has not begun is for nobody."""
        left: deque[tuple[Caller, tuple[Any, ...]]] = deque()
        for caller, item in self._inbox:
            if caller is not gone:
                left.append((caller, item))
            elif item[0] == calls.CALL:
                self.execution.let_go(item[5])
        self._inbox = left

    def _take(self, caller: Caller, item: tuple[Any, ...]) -> None:
        op = item[0]
        if op == calls.CALL and self.is_blocked and self.spec is None:
            self._return(caller, item)
        elif op in (calls.CALL, calls.USE_LEASE):
            self._inbox.append((caller, item))
        elif op == calls.HELLO:
            gone = self._callers.greet(caller, item)
            if gone is not None:
                self._drop(gone)
        elif op == calls.RECEIVED:
            caller.arrived(item[1])
        elif op == calls.DEFINE:
            self.execution.define(item[1], item[2])
        elif op == calls.CREDIT:
            caller.credit(item[1], item[2])
            if self.running is not None:
                self.running.credited()

    def _flush(self) -> None:
        for caller in list(self._callers.here.values()):
            if caller.out or caller.has_unsent:
                caller.flush()
                if caller.has_unsent:
                    self.process.later(0.005, self._flush_on)

    def _flush_on(self) -> None:
        self._flush()
        self._serve()

    def _return_inbox(self) -> None:
        kept: deque[tuple[Caller, tuple[Any, ...]]] = deque()
        while self._inbox:
            caller, item = self._inbox.popleft()
            if item[0] == calls.CALL:
                self._return(caller, item)
            else:
                kept.append((caller, item))
        self._inbox = kept

    def _return(self, caller: Caller, item: tuple[Any, ...]) -> None:
        self.execution.let_go(item[5])
        caller.out.append((item[1], calls.RETURNED, None))

    # ------------------------------------------------------------------ one call after the other

    def _serve(self) -> None:
        """Begin the next call, if none runs; when none is left and the end is wanted, end."""
        while self.running is None and self._inbox and self.ending is None:
            caller, item = self._inbox[0]
            if item[0] == calls.USE_LEASE:
                if self.lease < item[1]:
                    return  # the node will say what it is for
                self._leases[caller.process] = item[1]
                self._inbox.popleft()
            elif self.spec is not None and not self.is_constructed:
                return
            else:
                self._inbox.popleft()
                self._begin(caller, item)
        if self.ending is not None and self.running is None:
            self._leave()

    def _begin(self, caller: Caller, item: tuple[Any, ...]) -> None:
        number = item[2]
        if number in self._cancelled:
            del self._cancelled[number]
            self.execution.let_go(item[5])
            caller.out.append((item[1], calls.CANCELLED, None))
            self._flush()
            return
        lease = self._leases.get(caller.process)
        assert self.spec is not None or lease == self.lease, "a call of a lease that is over"
        self.process.progress = number
        self.running = Run(self, caller, item)
        self.process.node.check_cpus()
        self.running.fetch()

    def over(self, run: Run) -> None:
        """The running call has been answered."""
        assert self.running is run, "two calls ran at a time"
        self.running = None
        self._cancelled.pop(run.number, None)
        self._flush()
        self._serve()

    def _cancel(self, message: m.CancelCall) -> None:
        assert not message.force, "the node does that"
        self._cancelled[message.task] = None
        run = self.running
        if run is not None and run.number == message.task:
            if message.recursive:
                self.runtime.cancelling.cancel_children(message.task)
            if self.spec is None:
                run.interrupt()

    # ------------------------------------------------------------------ waiting

    def block(self) -> None:
        """The running call waits: its CPUs are lent, and who waits behind it goes elsewhere."""
        if self.is_blocked:
            return
        self.is_blocked = True
        if self.spec is None:
            self._return_inbox()
            for caller in self._callers.here.values():
                caller.out.append((calls.BLOCKED,))
        self._flush()
        self.runtime.tell(m.Blocked(self.process.number))

    def unblock(self) -> None:
        """It goes on."""
        if self.is_blocked:
            self.is_blocked, self.was_blocked = False, True
            self.runtime.tell(m.Unblocked(self.process.number))
            if self.spec is None:
                for caller in self._callers.here.values():
                    caller.out.append((calls.UNBLOCKED,))
                self._flush()


class Run:
    """One call that runs."""

    def __init__(self, executor: Executor, caller: Caller, item: tuple[Any, ...]) -> None:
        _, self.seq, self.number, target, self._args, extra, parent = item
        self._executor = executor
        self._caller = caller
        self._extra: dict[str, Any] = extra or {}
        self._kept: list[Any] = []
        self._children: list[Any] = []
        self._is_over = False
        self._is_waiting = False
        self._context = context.Running(self.number, str(target), caller, parent, extra)
        self._stream: Any = None
        executor.execution.active[self.number] = self._context

    # ------------------------------------------------------------------ arguments

    def fetch(self) -> None:
        """Have the arguments here, then begin."""
        runtime = self._executor.runtime
        self._kept = [runtime.table.adopt(i, n) for i, n in self._extra.get("refs", ())]
        places = [self._extra["stored"]] if "stored" in self._extra else []
        places += [dep[1:] for dep in self._extra.get("deps", ()) if dep[0] == calls.STORED]
        self._places = {place[0]: place[1] for place in places}
        self._fetched(dict(self._places))
        if not self._is_over and self._places:
            self._executor.process.later(FETCH_GRACE_S, self._lend)

    def _lend(self) -> None:
        if self._places and not self._is_over:
            self._executor.block()

    def _ref(self, object_id: bytes) -> Any:
        return next(ref for ref in self._kept if id_of(ref) == object_id)

    def _fetched(self, missing: dict[bytes, bytes]) -> None:
        """Go on with the next argument that is not here."""
        if self._is_over:
            return
        program = self._executor
        for object_id, seen_on in list(missing.items()):
            ref = self._ref(object_id)
            if not program.is_readable(ref):
                program.bring(ref, lambda: self._fetched(missing), seen_on)
                return
            del missing[object_id]
        self._places = {}
        program.unblock()
        self._run()

    def _arguments(self) -> tuple[Any, ...]:
        extra = self._extra
        if self._args is not None:
            return self._args
        runtime = self._executor.runtime

        def stored(place: tuple[Any, ...]) -> Any:
            return serialization.unpack_users(*runtime.values.packed_here(self._ref(place[0])))

        if "stored" in extra:
            args, _ = stored(extra["stored"])
        else:
            args, _ = serialization.unpack_users(*extra["packed"])
        values = []
        for dep in extra.get("deps", ()):
            if dep[0] == calls.PLAIN:
                values.append(dep[1])
            elif dep[0] == calls.INLINE:
                values.append(serialization.unpack_users(dep[1], dep[2]))
            else:
                values.append(stored(dep[1:]))
        return tuple(values[arg.index] if type(arg) is calls.Slot else arg for arg in args)

    # ------------------------------------------------------------------ the body

    def _run(self) -> None:
        program = self._executor
        try:
            first, *rest = self._arguments()
        except Exception as error:
            self._reply_error(error)
            return
        self.plan = plan = Plan(*first)
        self._found = list(refs_in(rest))
        program.world.truth.started(
            self, program, self._caller.process, self._extra.get("attempt", 0)
        )
        if program.spec is not None and plan.keeps and not program.world.is_stopping:
            program.state += self._found
        elif program.rng.random() < 0.3:
            program.forget()
        program.process.later(plan.duration_s, self._computed)

    def _computed(self) -> None:
        if self._is_over:
            return
        program, plan = self._executor, self.plan
        token = context.enter(self._context)
        try:
            self._children = program.call_children(plan, self._found)
        finally:
            context.leave(token)
        if is_streaming(self._extra):
            self._stream = program.execution.open_stream(self._caller, self.seq, self._extra)
            self._next_item()
            return
        wanted = list(self._children)
        if plan.waits and program.spec is None:
            wanted += self._found[:2]
        if plan.waits and wanted:
            self._is_waiting = True
            program.get_all(wanted, self._got, PATIENCE_S if self._found else None)
            program.process.later(0.001, self._block)
        else:
            self._finish()

    def _block(self) -> None:
        if self._is_waiting and not self._is_over:
            self._executor.block()

    def _got(self, values: list[Any]) -> None:
        if not self._is_over:
            self._is_waiting = False
            self._found += refs_in(values)
            self._executor.unblock()
            self._finish()

    def _finish(self) -> None:
        """Reply, with room for a large result if there is to be one."""
        program, plan = self._executor, self.plan
        if self._is_over:
            return
        refs = program.some([*self._found, *self._children], 3)
        if program.rng.random() < 0.3:
            refs.append(program.runtime.put([plan.number, program.some(self._found, 1)]))
        if plan.result == "large":
            program.runtime.store.with_room(plan.size + 8192, lambda: self._reply(refs))
        else:
            self._reply(refs)

    def _reply(self, refs: list[Any]) -> None:
        if self._is_over:
            return
        execution = self._executor.execution
        token = context.enter(self._context)
        try:
            value = value_of(self.plan, refs)
            execution.reply(self._caller, self.seq, self.number, self._extra or None, value)
            execution.note(self._context)
        except Exception as error:
            self._reply_error(error)
            return
        finally:
            context.leave(token)
        self._over()

    def _reply_error(self, error: Exception) -> None:
        execution, name = self._executor.execution, "simulated"
        execution.reply_error(self._caller, self.seq, self.number, name, error)
        execution.note(self._context, error)
        error.__traceback__ = None
        self._over()

    def interrupt(self) -> None:
        """It was cancelled while it ran."""
        if not self._is_over and not self._places:
            execution = self._executor.execution
            error = TaskCancelledError()
            execution.reply_cancelled(self._caller, self.seq, self._context, error)
            execution.note(self._context, is_cancelled=True)
            self._over()

    def _over(self) -> None:
        self._is_over = True
        del self._executor.execution.active[self.number]
        self._caller.streams.pop(self.seq, None)
        self._kept, self._found, self._children = [], [], []
        self._executor.unblock()
        self._executor.over(self)

    # ------------------------------------------------------------------ generators

    def _next_item(self) -> None:
        program, stream = self._executor, self._stream
        if self._is_over:
            return
        if stream.is_full:
            self._is_waiting = True
            program.process.later(0.002, self._block)
            return
        if stream.count >= self.plan.items:
            program.execution.stream_end(self._caller, self.seq)
            program.execution.note(self._context)
            self._over()
            return
        item = [self.plan.number, program.some([*self._found, *self._children], 1)]
        program.execution.stream_item(self._caller, self.seq, self.number, item)
        program._flush()
        program.process.later(program.rng.expovariate(1 / 0.01), self._next_item)

    def credited(self) -> None:
        """The caller has read some items."""
        if self._stream is not None and self._is_waiting and not self._stream.is_full:
            self._is_waiting = False
            self._executor.unblock()
            self._next_item()
