"""Actors: wanted, started, watched, ended."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from ract.core.messages.values import Blob, Contained, ExitCause
from ract.core.wire import message

# --------------------------------------------------------------------------- values in messages


@message
class ActorSpec:
    """Everything needed to create an actor, and to create it again after a crash."""

    actor_id: bytes
    job_id: bytes
    owner: int  #: process number of the creator
    class_name: str
    creation: Blob  #: pickled (class, args, kwargs); refs in it are listed in ``contains``
    contains: list[Contained]
    placement_demand: dict[str, int]  #: needed to place it
    running_demand: dict[str, int]  #: held for life
    name: str = ""
    namespace: str = ""
    detached: bool = False
    max_restarts: int = 0  #: -1 without limit
    max_task_retries: int = 0
    max_pending_calls: int = -1
    max_concurrency: int | None = None
    concurrency_groups: dict[str, int] = field(default_factory=dict)
    runtime_env: str = ""
    strategy: dict[str, Any] = field(default_factory=dict)
    label_selector: dict[str, str] = field(default_factory=dict)
    methods: dict[str, Any] = field(default_factory=dict)  #: for handles made by ``get_actor``
    enable_task_events: bool = True
    interruptible: bool = False  #: cancelling a running call interrupts it
    mailbox_size: int = 0  #: how many calls may wait, of all callers together; 0 without limit
    trace: dict[str, str] = field(default_factory=dict)  #: the context of the span that creates it
    durable: str = ""  #: its state outlives its process: saved after each "call", per "interval"
    durable_interval_s: float = 1.0
    durable_path: str = ""  #: folder or URL; empty: the node's default
    call_site: str = ""  #: where it was created, if that is recorded


# --------------------------------------------------------------------------- process <-> its node


@message
class CreateActor:
    """node -> executor: become this actor."""

    process: int
    spec: ActorSpec
    incarnation: int
    assigned: dict[str, Any] = field(default_factory=dict)  #: accelerator ids and the like
    saved_on: str = ""  #: see `StartActor`


# --------------------------------------------------------------------------- process <-> scheduler


@message
class ActorWanted:
    """process -> scheduler: create an actor. Named ones go through ``Request("create_actor")``."""

    process: int
    spec: ActorSpec


@message
class ActorWatched:
    """process -> scheduler: tell me where this actor is, now and whenever that changes."""

    process: int
    actor_id: bytes


@message
class ActorChanged:
    """scheduler -> watching process. ``state``: PENDING_CREATION ALIVE RESTARTING DEAD."""

    process: int
    actor_id: bytes
    state: str
    incarnation: int
    executor: int = 0
    node_id: bytes = b""
    address: str = ""
    pid: int = 0
    cause: ExitCause | None = None
    error: Blob | None = None  #: the constructor's error
    class_name: str = ""
    max_task_retries: int = 0


@message
class ActorKillWanted:
    """process -> scheduler: ``ract.kill``."""

    process: int
    actor_id: bytes
    no_restart: bool


# --------------------------------------------------------------------------- node -> scheduler


@message
class ActorStarted:
    """The constructor returned."""

    node_id: bytes
    actor_id: bytes
    incarnation: int
    executor: int
    address: str
    pid: int
    repr_name: str = ""  #: what its class's own ``__repr__`` says


@message
class ActorInitFailed:
    """The constructor raised; its process ends."""

    node_id: bytes
    actor_id: bytes
    incarnation: int
    error: Blob
    pid: int = 0


@message
class ActorExited:
    """The actor's process is gone."""

    node_id: bytes
    actor_id: bytes
    incarnation: int
    cause: ExitCause


# --------------------------------------------------------------------------- scheduler -> node


@message
class StartActor:
    """Fork an executor and create the actor in it."""

    spec: ActorSpec
    incarnation: int
    assigned: dict[str, Any] = field(default_factory=dict)
    saved_on: str = ""  #: of a durable actor: the node that saved its state, as people read it


@message
class RemoveState:
    """A durable actor is over: remove what was saved of it."""

    actor_id: bytes
    path: str  #: folder or URL; empty: the node's default


@message
class StopActor:
    """End the actor's process: after the calls it has accepted (``graceful``) or at once."""

    actor_id: bytes
    incarnation: int
    graceful: bool
    cause: ExitCause
