"""An executor from the fork to its exit.

It binds its socket, says hello to its node, and serves tasks until the node makes it an actor, or
the end. Control messages arrive on the IO thread; what concerns the main thread is posted to it.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import inspect
import json
import logging
import os
import pickle
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ract.client.calls.ends import shape_facts
from ract.client.people.logging_config import LoggingConfig
from ract.client.process import context, current, tracing
from ract.client.process.metrics import recorder
from ract.client.process.node_link import NodeLink
from ract.client.runtime import Runtime
from ract.client.tasks.strategies import group_of
from ract.core import naming, serialization
from ract.core.messages import (
    ActorInitFailed,
    ActorStarted,
    Blob,
    CancelCall,
    CollectGarbage,
    CreateActor,
    DumpStacks,
    EndProcess,
    ExitCause,
    Hello,
    ReopenLogs,
    StacksDumped,
    StillOwes,
    UseLease,
)
from ract.core.resources import UNIT
from ract.core.session import setting
from ract.worker.executor import accelerators, stacks
from ract.worker.executor.concurrent import ASYNC_CONCURRENCY, ConcurrentServer
from ract.worker.executor.durable import HeldReplies, IntervalReplies
from ract.worker.executor.execution import Execution
from ract.worker.executor.keeper import Keeper
from ract.worker.executor.leaving import Leaving
from ract.worker.executor.serial import SerialServer
from ract.worker.executor.streams import NamedStream, log_path, open_log
from ract.worker.executor.titles import set_title

logger = logging.getLogger(__name__)

LISTEN_BACKLOG = 512
THREADS = "OMP_NUM_THREADS"
REPR_CHARACTERS_MAX = 500


def socket_path(session_dir: str, process: int) -> str:
    """Where the executor with this process number listens."""
    return os.path.join(session_dir, f"e{process}.sock")


def run(process: int, session_dir: str, env: dict[str, str], progress: memoryview) -> None:
    """Be an executor; never returns.

    Args:
        process: The process number that the node chose.
        session_dir: The node's session directory.
        env: Variables to set before user code runs.
        progress: Takes the number of the call that was started last; the zygote reads it.
    """
    os.environ.update(env)
    faulthandler.enable()
    code, leaving = 1, None
    try:
        executor = Executor(process, session_dir, progress)
        code = executor.run()
        leaving = executor.leaving
    except BaseException:
        traceback.print_exc()
    finally:
        _leave(code, leaving)


def _leave(code: int, leaving: Leaving | None) -> None:
    """End the process as a Python program would, though it is a fork; then stay while it must."""
    try:
        atexit._run_exitfuncs()
        recorder.flush()
        sys.stdout.flush()
        sys.stderr.flush()
        if leaving is not None and not code:
            leaving.stay()
    finally:
        os._exit(code)


_threads_of_user = os.environ.get(THREADS)


def _limit_threads(demand: dict[str, int], own: Mapping[str, str]) -> None:
    """As many threads for libraries that are imported from now on as there are CPUs."""
    if _threads_of_user is None and THREADS not in own:
        os.environ[THREADS] = str(max(1, demand.get("CPU", 0) // UNIT))


def _variables(runtime_env: str) -> dict[str, str]:
    return (json.loads(runtime_env) if runtime_env else {}).get("env_vars", {})


class Executor:
    """One executor process."""

    def __init__(self, process: int, session_dir: str, progress: memoryview) -> None:
        self._session_dir = session_dir
        self.address = socket_path(session_dir, process)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.address)
        listener.listen(LISTEN_BACKLOG)
        self._listener = listener
        hello = Hello("executor", os.getpid(), process)
        self.link = NodeLink(os.path.join(session_dir, "node.sock"), hello)
        self.runtime = Runtime(self.link, is_driver=False)
        self.execution = Execution(self.runtime)
        self.server: SerialServer | ConcurrentServer = SerialServer(
            self.execution, listener, progress
        )
        self._create: CreateActor | None = None
        self._keeper: Keeper | None = None
        self._job_known = b""
        self._constructing_since = 0.0
        self.leaving = Leaving(self.runtime)
        context.process.is_executor = True
        context.process.server = self.server
        current.install(self.runtime)
        self.runtime.on_control = self._on_control
        self.runtime.on_tick = self._tick

    def run(self) -> int:
        """Serve until the end; returns the exit code."""
        set_title("IDLE")
        sys.stdout = NamedStream(sys.stdout.fileno(), self._who_prints)
        sys.stderr = NamedStream(sys.stderr.fileno(), self._who_prints)
        self.runtime.start()
        first = self.server
        assert isinstance(first, SerialServer)
        first.serve(self._on_posted)
        create, server = self._create, self.server
        if create is not None and isinstance(server, ConcurrentServer):
            server.serve(lambda: self._construct(create), self._on_posted)
        self.execution.flush_events(at_once=True)
        assert self.server.ending is not None
        cause = replace(self.server.ending, task=first.progress[0])
        self.leaving.begin(cause, self.server.hang_up)
        return self.server.exit_code

    def _tick(self) -> float | None:
        """On the IO thread; returns in how many seconds to tick again."""
        nap_s = self.execution.flush_events()
        look_s = None
        if isinstance(self.server, SerialServer):
            look_s = self.server.look(time.monotonic())
        return nap_s if look_s is None else look_s if nap_s is None else min(nap_s, look_s)

    def _who_prints(self) -> tuple[str, int]:
        running = context.running()
        number = running.number if running is not None else 0
        if self._create is not None:
            return self.execution.actor_repr or self._create.spec.class_name, number
        return (running.name if running is not None else ""), number

    # ------------------------------------------------------------------ control messages

    def _on_control(self, message: Any) -> None:
        """On the IO thread."""
        if message is None:  # the node is gone
            os._exit(1)
        elif isinstance(message, CancelCall):
            if not self.leaving.has_begun:
                self.server.cancel(message)
        elif isinstance(message, DumpStacks):
            self.link.send(
                StacksDumped(self.runtime.process, stacks.text(self.execution.in_progress()))
            )
        elif isinstance(message, CollectGarbage):
            threading.Thread(target=gc.collect, name="garbage", daemon=True).start()
        elif isinstance(message, ReopenLogs):
            self._reopen_logs()
        elif isinstance(message, (UseLease, CreateActor, EndProcess)):
            if isinstance(message, EndProcess) and isinstance(self.server, SerialServer):
                if message.cause.kind == "idle":
                    self.server.stop_running()
            self.server.posted.append(message)
            self.server.wake()

    def _reopen_logs(self) -> None:
        for stream, suffix in ((sys.stdout, "out"), (sys.stderr, "err")):
            path = log_path(self._session_dir, self.runtime.process, suffix)
            if isinstance(stream, NamedStream) and not os.path.exists(path):
                stream.name_again()
                open_log(path, stream.fileno())

    def _on_posted(self, message: Any) -> None:
        """On the main thread."""
        if isinstance(message, UseLease):
            context.process.shape = message.shape
            self.execution.use(shape_facts(message.shape))
            current.enter_group(group_of(message.shape.strategy))
            self._join_job(message.shape.job_id, message.shape.runtime_env)
            self._equip(message.assigned, message.shape.demand, message.shape.runtime_env)
            context.process.lease = message.lease
        elif isinstance(message, EndProcess):
            if message.gone and isinstance(self.server, SerialServer):
                for gone in self.server.callers.process_gone(message.gone):
                    self.server.drop(gone)
            if message.cause.kind == "idle" and self.leaving.debts.keep_idle_process():
                self.runtime.tell(StillOwes(self.runtime.process))
            else:
                self.server.end(message.cause)
        elif isinstance(message, CreateActor):
            self._become(message)

    def _join_job(self, job_id: bytes, runtime_env: str) -> None:
        """Import from where the driver does."""
        if job_id == self._job_known:
            return
        self._job_known = job_id
        self.runtime.session.job_id = job_id
        self.runtime.runtime_env = runtime_env
        job = self.runtime.link.request("job", job_id=job_id)
        self.runtime.session.namespace = job.get("namespace", "")
        metadata = job.get("metadata", {})
        for path in reversed(json.loads(metadata.get("sys_path", "[]"))):
            if path not in sys.path:
                sys.path.insert(0, path)
        self.runtime.on_infeasible = metadata.get("on_infeasible", "wait")
        self.runtime.default_lifetime = metadata.get("default_actor_lifetime", "non_detached")
        if metadata.get("logging_config"):
            LoggingConfig.from_dict(json.loads(metadata["logging_config"])).apply()
        if metadata.get("names") == "ray":
            naming.speak_of_ray()
        for name, value in _variables(runtime_env).items():
            os.environ[name] = os.path.expandvars(value)
        hook = metadata.get("tracing_startup_hook") or setting(tracing.VARIABLE)
        if hook:
            tracing.start_in_executor(hook)

    @staticmethod
    def _equip(assigned: dict[str, Any], demand: dict[str, int], runtime_env: str) -> None:
        """Show the process what it may use: libraries read it when they are imported."""
        own = _variables(runtime_env)
        context.process.assigned = accelerators.show(assigned, own)
        _limit_threads(demand, own)

    # ------------------------------------------------------------------ becoming an actor

    def _become(self, message: CreateActor) -> None:
        spec = message.spec
        self._create = message
        self._join_job(spec.job_id, spec.runtime_env)
        process = context.process
        process.actor_spec = spec
        process.actor_incarnation = message.incarnation
        current.enter_group(group_of(spec.strategy))
        self._equip(message.assigned, spec.running_demand, spec.runtime_env)
        self.execution.actor_id = spec.actor_id
        self.execution.notes_calls = spec.enable_task_events
        self.execution.use(shape_facts(spec))
        self._constructing_since = time.time()
        set_title(spec.class_name)
        try:
            class_head, args_head = pickle.loads(spec.creation.head)
            cls = serialization.unpack(class_head)
            self._arguments = (args_head, spec.creation.buffers)
        except Exception as error:
            self._init_failed(message, error)
            return
        self._class = cls
        is_async = any(
            inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)
            for _, member in inspect.getmembers(cls)
        )
        limit = spec.max_concurrency or (ASYNC_CONCURRENCY if is_async else 1)
        is_bounded = spec.mailbox_size > 0  # then calls are counted while one runs
        if spec.durable:
            cluster_id = self.runtime.link.welcome.cluster_id
            self._keeper = Keeper(spec, cluster_id, message.incarnation, message.saved_on)
            if self._keeper.every_call:
                limit = 1
        if not is_async and limit == 1 and not spec.concurrency_groups and not is_bounded:
            first = self.server
            assert isinstance(first, SerialServer)
            if self._keeper is not None:
                how = self._keeper, self.execution, spec.class_name
                first.hold_replies(
                    HeldReplies(*how, first.push)
                    if self._keeper.every_call
                    else IntervalReplies(*how, first.later, lambda function: function())
                )
            self._construct(message)
            return
        groups = {"": limit, **spec.concurrency_groups}
        server = ConcurrentServer(
            self.execution, self._listener, is_async, groups, spec.mailbox_size
        )
        if self._keeper is not None:
            how = self._keeper, self.execution, spec.class_name
            server.replies = (
                HeldReplies(*how, None)
                if self._keeper.every_call
                else IntervalReplies(*how, server.later, server.soon)
            )
        self._serve_by(server)

    def _serve_by(self, server: ConcurrentServer) -> None:
        """Have another server take over from the one that serves tasks."""
        first = self.server
        assert isinstance(first, SerialServer)
        server.posted = first.posted
        self.server = context.process.server = server
        first.ending = ExitCause("exited", "another server goes on from here")

    def _construct(self, message: CreateActor) -> Any:
        """Make the instance; a coroutine if the class's ``__init__`` is one."""
        spec = message.spec
        running = context.Running(0, f"{spec.class_name}.__init__")
        token = context.enter(running)
        try:
            args, kwargs = serialization.unpack_users(*self._arguments)
            args = tuple(self._resolved(value) for value in args)
            kwargs = {key: self._resolved(value) for key, value in kwargs.items()}
            instance = self._class.__new__(self._class)
            context.process.actor_instance = self.server.instance = instance
            construct: Any = instance.__init__
            if spec.trace:
                construct = tracing.traced(construct, running.name, spec.trace)
            made = construct(*args, **kwargs)
            if inspect.isawaitable(made):
                return self._finish_async(message, made)
            if self._keeper is not None:
                self._keeper.begin(instance)
        except Exception as error:
            self._init_failed(message, error)
            return None
        except SystemExit as error:
            self._exited_in_init(error)
            return None
        finally:
            context.leave(token)
        self._started(message)
        return None

    async def _finish_async(self, message: CreateActor, made: Any) -> None:
        try:
            await made
            if self._keeper is not None:
                self._keeper.begin(self.server.instance)
        except Exception as error:
            self._init_failed(message, error)
            return
        self._started(message)

    @staticmethod
    def _resolved(value: Any) -> Any:
        from ract.client.api.functions import get
        from ract.client.objects.refs import ObjectRef

        return get(value) if isinstance(value, ObjectRef) else value

    def _started(self, message: CreateActor) -> None:
        instance = self.server.instance
        if type(instance).__repr__ is not object.__repr__:
            try:
                self.execution.actor_repr = repr(instance)
            except Exception:  # the user's __repr__ is only for messages
                self.execution.actor_repr = None
        if isinstance(self.server, SerialServer):
            self.server.is_actor = True
            self.server.may_interrupt = message.spec.interruptible
        self.execution.note_creation(self._constructing_since, None)
        runtime = self.runtime
        runtime.tell(
            ActorStarted(
                runtime.node_id,
                message.spec.actor_id,
                message.incarnation,
                runtime.process,
                self.address,
                os.getpid(),
                _sendable(self.execution.actor_repr or ""),
            )
        )

    def _init_failed(self, message: CreateActor, error: Exception) -> None:
        name = f"{message.spec.class_name}.__init__"
        self.execution.note_creation(self._constructing_since, error)
        head, buffers, _ = self.execution.pack_error(name, error)
        runtime = self.runtime
        runtime.tell(
            ActorInitFailed(
                runtime.node_id,
                message.spec.actor_id,
                message.incarnation,
                Blob(head, buffers, True),
                os.getpid(),
            )
        )
        self.server.end(ExitCause("init_failed", f"{type(error).__name__}: {error}"[:500]))

    def _exited_in_init(self, error: SystemExit) -> None:
        code = error.code if isinstance(error.code, int) else 1
        if code == 0 and error.code in (None, 0):
            self.server.end(ExitCause("exited", "sys.exit(0) was called in the constructor"))
            return
        self.server.exit_code = code
        self.server.ending = ExitCause("crashed", "sys.exit in the constructor", exit_code=code)


def _sendable(text: str) -> str:
    """What a program says of itself, as it may travel: it can be anything."""
    return text[:REPR_CHARACTERS_MAX].encode("utf-8", "replace").decode()
