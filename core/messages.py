"""Control messages: what processes, node daemons and the scheduler say to each other.

Theory of operation
-------------------
Three parties talk. A *process* (driver or executor) has one Unix socket to the daemon of its
node; a *node* (daemon) has one ordered stream to the *scheduler*. Messages between a process and
the scheduler are relayed by the node, in order. Task and actor calls are not here: they travel on
direct channels between processes (`ract.core.calls`).

Every message is a frozen dataclass of plain values, encoded as a msgpack array
``[tag, field, field, ...]`` and checked against its annotations when decoded, so that a daemon or
the scheduler never unpickles what a peer sends. User payloads travel as `Blob`: opaque bytes.

Vocabulary
----------
* A *process number* is an int, unique for the life of a cluster. It names a process everywhere.
* Ids of nodes (28 bytes), actors (16), jobs (4), objects (28) are bytes.
* A *demand* is ``{resource name: quantity}`` in units of 1/10,000 (see `ract.core.resources`).
* A *hold* says that a process keeps an object or a strong actor handle alive. Holds are counts per
  (id, process); they are sent as differences, so they commute: whoever hands an id to another
  process adds that process' hold on its own stream before it drops its own, and a release that
  overtakes its hold makes a count negative for a moment, which is normal.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

from ract.core.wire import message

# --------------------------------------------------------------------------- values in messages


@message
class Blob:
    """A serialized user value: a pickle and its out-of-band buffers, never opened on the way."""

    head: bytes
    buffers: list[bytes] = field(default_factory=list)
    is_error: bool = False  #: the value is an exception that ``get`` raises


@message
class Contained:
    """An object that is kept alive because a value contains a ref to it."""

    object_id: bytes
    count: int = 1


@message
class Hold:
    """A difference to the holds of ``process`` on an object or an actor."""

    id: bytes
    process: int
    change: int


@message
class ExitCause:
    """Why a process, an actor or a node ended; carried into the error that the user sees.

    ``kind`` is one of ``crashed`` (exit code or signal not asked for), ``exited`` (asked for by
    the program itself: ``exit_actor``, ``sys.exit(0)``), ``killed`` (``ract.kill``, forced cancel),
    ``out_of_scope``, ``owner_died``, ``node_died``, ``job_finished``, ``init_failed``,
    ``out_of_memory``, ``idle``, ``max_calls``, ``unschedulable``, ``group_removed``, ``drained``,
    ``node_left`` (in order), ``shutdown``.
    """

    kind: str
    detail: str = ""
    exit_code: int | None = None
    signal: int | None = None
    stderr_tail: str = ""
    node_id: bytes = b""
    pid: int = 0
    at: float = 0.0  #: seconds since the epoch
    task: int = 0  #: of an executor: the number of the last call that it started, 0 if unknown
    host: str = ""
    is_final: bool = False  #: what ran is not to run again, whatever retries it has left


@message
class Shape:
    """What an executor must offer to run a class of tasks; equal shapes share leases."""

    demand: dict[str, int]
    job_id: bytes
    runtime_env: str = ""  #: canonical JSON, empty for none
    strategy: dict[str, Any] = field(default_factory=dict)  #: {"kind": "DEFAULT"|"SPREAD"|...}
    label_selector: dict[str, str] = field(default_factory=dict)
    is_retriable: bool = True  #: its tasks run again when their process has died


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


@message
class GroupSpec:
    """A placement group: bundles of resources to be reserved together."""

    group_id: bytes
    job_id: bytes
    owner: int  #: process number of the creator
    bundles: list[dict[str, int]]
    strategy: str = "PACK"
    name: str = ""
    namespace: str = ""
    detached: bool = False
    soft_target: bytes = b""  #: a node to be preferred (STRICT_PACK)
    selectors: list[dict[str, str]] = field(default_factory=list)  #: one per bundle, or none
    must_fit: bool = False  #: refuse it if no cluster of these nodes could ever hold it


# --------------------------------------------------------------------------- process <-> its node


@message
class Hello:
    """First message of a process on its node's socket."""

    kind: str  #: "driver" | "executor" | "tool" (status, tests: no job)
    pid: int
    process: int = 0  #: executors know their number; 0 asks for one
    namespace: str = ""
    token_fingerprint: str = ""  #: drivers that were given a token prove that it is this cluster's
    ract_version: str = ""
    python_version: str = ""
    entrypoint: str = ""
    runtime_env: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


@message
class Welcome:
    """Answer to `Hello`: who you are here."""

    process: int
    node_id: bytes
    job_id: bytes
    cluster_id: bytes
    namespace: str
    session_dir: str
    scheduler_address: str
    config: dict[str, Any] = field(default_factory=dict)


@message
class Refused:
    """Answer to `Hello`: not here, and why. ``error`` names an exception class of `core.errors`."""

    error: str
    detail: str


@message
class Waiting:
    """Not yet an answer to `Hello`: the scheduler is away, and waited for so many ``seconds``."""

    detail: str
    seconds: float


@message
class SegmentWanted:
    """A process asks for shared memory to write an object (or several small ones) into."""

    process: int
    request: int
    size: int


@message
class SegmentGranted:
    """``path`` may be written from 0 to ``size`` by the asking process, until it gives it back."""

    process: int
    request: int
    segment: int
    path: str
    size: int
    recycled: bool  #: pages are already there: copy through a mapping; else write with pwrite


@message
class SegmentRefused:
    """No room: ``error`` names an exception class of `core.errors`."""

    process: int
    request: int
    error: str
    detail: str


@message
class SegmentsMoved:
    """node -> process: these are on disk now; do not keep what you have mapped of them."""

    process: int
    paths: list[str]


@message
class SegmentClosed:
    """The process writes no further objects into the segment."""

    process: int
    segment: int


@message
class ObjectSealed:
    """An object was written to shared memory of this node. The node publishes it."""

    process: int
    object_id: bytes
    segment: int
    offset: int
    size: int
    contains: list[Contained]
    holds: list[Hold]
    is_error: bool = False
    call_site: str = ""  #: where the ref was made, if that is recorded


@message
class ObjectWanted:
    """The process (or node) waits for a value. Answered once, by `ObjectHere` (to the process)."""

    process: int
    object_id: bytes
    seen_on: bytes = b""  #: the node that stores it, as whoever made it said


@message
class ObjectUnwanted:
    """The process no longer waits."""

    process: int
    object_id: bytes


@message
class ObjectHere:
    """The value: inline in ``blob``, or in this node's shared memory at ``path``."""

    process: int
    object_id: bytes
    blob: Blob | None = None
    path: str = ""
    offset: int = 0
    size: int = 0
    is_error: bool = False


@message
class Blocked:
    """The executor's task waits in get/wait: its CPUs may be lent out."""

    process: int


@message
class Unblocked:
    """The executor's task goes on."""

    process: int


@message
class CancelCall:
    """node -> executor: interrupt (or never start) the call ``task`` (its 64-bit number)."""

    process: int
    task: int
    force: bool
    recursive: bool


@message
class CreateActor:
    """node -> executor: become this actor."""

    process: int
    spec: ActorSpec
    incarnation: int
    assigned: dict[str, Any] = field(default_factory=dict)  #: accelerator ids and the like
    saved_on: str = ""  #: see `StartActor`


@message
class UseLease:
    """node -> executor: you now run tasks of this shape for ``lease``."""

    process: int
    lease: int
    shape: Shape
    assigned: dict[str, Any] = field(default_factory=dict)


@message
class EndProcess:
    """node -> executor: finish what was accepted, run exit handlers, exit."""

    process: int
    cause: ExitCause


@message
class ReopenLogs:
    """node -> executor: your log files were renamed; write to new ones."""

    process: int


@message
class DumpStacks:
    """node -> executor: say what your threads do. Answered by `StacksDumped`."""

    process: int


@message
class CollectGarbage:
    """node -> executor: free what only cycles of objects keep alive."""

    process: int


# --------------------------------------------------------------------------- process <-> scheduler


@message
class Request:
    """A question with one answer. ``op`` is documented where the scheduler machine answers it."""

    process: int
    request: int
    op: str
    args: dict[str, Any] = field(default_factory=dict)


@message
class Reply:
    """Answer to `Request`; ``error`` names an exception class of `core.errors`, "" if none."""

    process: int
    request: int
    value: Any = None
    error: str = ""


@message
class LeasesWanted:
    """The process has ``backlog`` tasks of ``shape`` waiting; 0 withdraws. The newest counts."""

    process: int
    shape_key: int  #: chosen by the process, names the shape in answers
    shape: Shape
    backlog: int
    names: list[str] = field(default_factory=list)  #: function names, for ``explain`` and status
    priority: int = 0  #: the highest of the waiting tasks
    near: bytes = b""  #: the node that stores most of their large arguments
    held: int = 0  #: leases of this shape that it has; others granted are still on their way to it


@message
class LeaseGranted:
    """scheduler -> process: push tasks to this executor until you release it or it is lost."""

    process: int
    shape_key: int
    lease: int
    executor: int
    node_id: bytes
    address: str  #: Unix socket path on that node


@message
class LeaseRefused:
    """scheduler -> process: can never be granted (typed by ``error``); fail its tasks."""

    process: int
    shape_key: int
    error: str
    detail: str


@message
class LeaseReleased:
    """process -> scheduler: idle; give it to somebody else."""

    process: int
    lease: int


@message
class LeaseRecalled:
    """scheduler -> process: others wait; release when what is running is done."""

    process: int
    lease: int


@message
class LeaseLost:
    """scheduler -> process: the executor is gone."""

    process: int
    lease: int
    cause: ExitCause


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


@message
class Warned:
    """process -> scheduler: something that the driver of its job should read."""

    process: int
    type: str  #: as in `Pushed.data`
    text: str


@message
class GroupWanted:
    """process -> scheduler: reserve a placement group; who asks hears of it from now on.

    Named ones go through ``Request("create_group")``.
    """

    process: int
    spec: GroupSpec


@message
class GroupWatched:
    """process -> scheduler: tell me of this placement group, now and whenever it changes."""

    process: int
    group_id: bytes


@message
class GroupChanged:
    """scheduler -> watching process. ``state``: PENDING CREATED RESCHEDULING REMOVED."""

    process: int
    group_id: bytes
    state: str
    detail: str = ""


@message
class GroupRemoveWanted:
    """process -> scheduler: end a placement group and all that runs in it."""

    process: int
    group_id: bytes


@message
class CancelAsked:
    """process -> scheduler -> the process that made the call: cancel what makes an object."""

    process: int  #: who asks; then, who is asked
    object_id: bytes
    force: bool
    recursive: bool


@message
class CancelWanted:
    """process -> scheduler -> node of ``executor``: cancel a call that runs (or waits) there."""

    process: int
    executor: int
    task: int
    force: bool
    recursive: bool


@message
class HoldsChanged:
    """process -> scheduler, in order with everything else it says.

    With ``call``: of the caller, for what is in return (or item) ``index`` of that call.
    """

    process: int
    holds: list[Hold]
    call: int = 0
    index: int = 0


@message
class CallsLost:
    """process -> scheduler: an executor died that owed it replies; it has none of what was in them.

    ``calls``: [number, index of the first return (or item) that has not arrived].
    """

    process: int
    executor: int
    calls: list[list[int]]


@message
class ObjectPublished:
    """process -> scheduler: an object escaped. ``blob`` None: not ready, `process` will say.

    Sent again with a value (or by `ObjectSealed`) once it is ready.
    """

    process: int
    object_id: bytes
    blob: Blob | None
    contains: list[Contained]
    holds: list[Hold]
    task_name: str = ""
    call_site: str = ""  #: where the ref was made, if that is recorded
    #: The node that stores the value, says the reply that brought `process` a hold of it. That node
    #: tells of it too, unless it dies first.
    seen_on: bytes = b""


@message
class ObjectsFreed:
    """process -> scheduler: ``free(refs)``: drop the values though refs remain."""

    process: int
    object_ids: list[bytes]


@message
class ObjectLost:
    """scheduler -> the process that made the call: the last copy is gone, and somebody holds it.

    It runs the call again, or answers `ObjectUnrecoverable`.
    """

    process: int
    object_id: bytes
    reason: str
    is_held: bool = True  #: the cluster counts a hold of the process; it may not have heard of it


@message
class ObjectUntold:
    """scheduler -> the process that made the call: somebody waits, and no node has told of it.

    It publishes the value, or asks for it itself and says where it lies (`ObjectWanted.seen_on`).
    """

    process: int
    object_id: bytes


@message
class ObjectUnrecoverable:
    """process -> scheduler: the lost object cannot be made again.

    ``kind`` is "unrecoverable", "attempts" (no retries are left) or "evicted" (its lineage is).
    """

    process: int
    object_id: bytes
    kind: str
    reason: str


@message
class LineageKept:
    """process -> scheduler: it holds these no more, but could make them again. Say when they go."""

    process: int
    object_ids: list[bytes]


@message
class LineageOver:
    """scheduler -> process: nobody holds these any more (answers `LineageKept`)."""

    process: int
    object_ids: list[bytes]


@message
class TaskEvents:
    """process -> scheduler, at most 1 s old; the forms are described in `ract.core.events`."""

    process: int
    events: list[Any]
    runs: list[Any] = field(default_factory=list)


@message
class CallsWaiting:
    """process -> scheduler, at most once a second: its unanswered calls of actors that changed."""

    process: int
    counts: dict[bytes, int]  #: by actor; 0 for those that have answered all


@message
class MetricsReported:
    """process -> its node: what its metrics have counted since the last time.

    ``metrics`` is a batch as `ract.core.metrics` describes it; ``refused`` values are not in it.
    """

    process: int
    job_id: bytes
    metrics: list[Any]
    refused: int = 0


@message
class TasksWaiting:
    """process -> scheduler: its calls that have waited for long; replaces what it said before.

    The form of ``queues`` is described in `ract.core.events`.
    """

    process: int
    queues: list[Any]
    left_out: int = 0  #: so many more wait, which are not told of one by one


@message
class Pushed:
    """scheduler -> driver: an error, warning or log lines. ``kind``: "error" | "log"."""

    process: int
    kind: str
    data: dict[str, Any]


# --------------------------------------------------------------------------- node -> scheduler


@message
class NodeJoined:
    """First message of a node on its stream."""

    node_id: bytes
    address: str  #: the distributed worker's address
    host: str
    pid: int
    resources: dict[str, int]
    labels: dict[str, str]
    session_dir: str
    hostname: str = ""
    is_head: bool = False
    name: str = ""


@message
class NodeLeaving:
    """Last message of a node that ends by itself: why."""

    node_id: bytes
    cause: ExitCause


@message
class ProcessJoined:
    """A driver or executor of the node said hello."""

    node_id: bytes
    process: int
    kind: str
    pid: int
    namespace: str = ""
    entrypoint: str = ""
    runtime_env: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


@message
class ProcessExited:
    """A driver or executor of the node is gone; whatever it held or ran is over."""

    node_id: bytes
    process: int
    cause: ExitCause


@message
class LeaseStarted:
    """The executor for the lease is up."""

    node_id: bytes
    lease: int
    executor: int
    address: str
    pid: int


@message
class LeaseFailed:
    """No executor could be made (e.g. its environment failed).

    ``was_killed``: by SIGKILL, so that another one may well come up.
    """

    node_id: bytes
    lease: int
    error: str
    detail: str
    was_killed: bool = False


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


@message
class ObjectStored:
    """A sealed object (or a pulled copy) lies in the node's store."""

    node_id: bytes
    object_id: bytes
    size: int
    contains: list[Contained]
    holds: list[Hold]
    is_copy: bool = False
    is_error: bool = False
    maker: int = 0  #: the process that wrote it
    call_site: str = ""


@message
class ObjectKept:
    """The node keeps its copy as if the object had been made there (answer to `KeepObject`)."""

    node_id: bytes
    object_id: bytes


@message
class ObjectMissing:
    """A node could not pull the object from ``source``; answered as `ObjectSought`, if wanted."""

    node_id: bytes
    object_id: bytes
    source: bytes
    is_gone: bool = True  #: ``source`` said that it does not have it; else it could not be asked
    is_wanted: bool = True  #: somebody on the node still waits for it


@message
class ObjectSought:
    """The node has processes that wait for the object. Answered by `ObjectLocated`."""

    node_id: bytes
    object_id: bytes
    seen_on: bytes = b""  #: as in `ObjectWanted`; that node may have died before it could tell


@message
class ObjectUnsought:
    """Nobody on the node waits any more, or what it was told by `ObjectLocated` is of no use."""

    node_id: bytes
    object_id: bytes


@message
class NodeAnswered:
    """Answer to `NodeAsked`; ``error`` says why there is none, "" if there is."""

    node_id: bytes
    number: int
    value: Any = None
    error: str = ""


@message
class StacksDumped:
    """process -> its node: what its threads do (answer to `DumpStacks`)."""

    process: int
    text: str


@message
class NodeStats:
    """Sent every second or so: store bytes, memory, processes (plain values for the dashboard)."""

    node_id: bytes
    stats: dict[str, Any]


@message
class NodeMetrics:
    """What the metrics of its processes have counted: about once a second, if anything.

    ``refused`` values were not taken, ever (see `ract.core.metrics`).
    """

    node_id: bytes
    metrics: list[Any]
    refused: int = 0


@message
class LogLines:
    """What processes of a job wrote since the last time."""

    node_id: bytes
    process: int
    job_id: bytes
    pid: int
    name: str
    is_err: bool
    lines: list[str]


# --------------------------------------------------------------------------- scheduler -> node


@message
class NodeAccepted:
    """Answer to `NodeJoined`; the node numbers its processes from the block."""

    node_id: bytes
    cluster_id: bytes
    first_process: int
    process_count: int
    reconnect_s: float = 0.0  #: the scheduler may come back within this time; 0: it does not


@message
class ProcessBlock:
    """A further block of process numbers (asked for by ``ProcessBlockWanted``)."""

    first_process: int
    process_count: int


@message
class ProcessBlockWanted:
    """node -> scheduler: the block of process numbers is nearly used up."""

    node_id: bytes


@message
class ProcessAccepted:
    """The scheduler knows the process; drivers get their job. The node sends `Welcome`."""

    process: int
    job_id: bytes
    namespace: str


@message
class StartLease:
    """Find or fork an executor for a lease."""

    lease: int
    shape: Shape
    requester: int
    assigned: dict[str, Any] = field(default_factory=dict)


@message
class EndLease:
    """The lease is over: its executor is idle, or ends if ``kill``."""

    lease: int
    kill: bool
    cause: ExitCause


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


@message
class ObjectLocated:
    """Answer to `ObjectSought`: inline, or nodes that have it (their distributed addresses).

    A location is answered in turn: by `ObjectStored`, `ObjectMissing` or `ObjectUnsought`.
    """

    object_id: bytes
    blob: Blob | None
    node_ids: list[bytes]
    addresses: list[str]
    size: int
    is_error: bool = False


@message
class KeepObject:
    """Have a copy, fetched if need be, and keep it as if it had been made on this node."""

    object_id: bytes


@message
class FreeObject:
    """Nobody holds it: drop the copy."""

    object_id: bytes


@message
class NodesChanged:
    """Where the nodes are, for tunnels and pulls: ``{node id hex: distributed address}``."""

    addresses: dict[str, str]


@message
class JobFinished:
    """End the job's executors."""

    job_id: bytes
    cause: ExitCause


@message
class NodeAsked:
    """A question that the node answers by `NodeAnswered`.

    ``op``: see `ract.worker.host.answers`.
    """

    number: int
    op: str
    args: dict[str, Any] = field(default_factory=dict)


@message
class UserSpans:
    """Spans that a program has marked (`ract.util.profiling`).

    Each is ``[kind, start, end, task_id, extra]``, in seconds since the epoch.
    """

    process: int
    spans: list[Any]


@message
class EndNode:
    """Shut the node down."""

    cause: ExitCause


PASSING = (NodeStats, NodeMetrics, LogLines, TaskEvents, TasksWaiting, CallsWaiting, UserSpans)
"""What only people look at. It may be lost when the scheduler restarts."""
