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

The messages stand in files by what they are about; all of them are names of this package.

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

# ruff: noqa: F401 - every message is a name of this package
from __future__ import annotations

from ract.core.messages.actors import (
    ActorChanged,
    ActorExited,
    ActorInitFailed,
    ActorKillWanted,
    ActorSpec,
    ActorStarted,
    ActorWanted,
    ActorWatched,
    CreateActor,
    RemoveState,
    StartActor,
    StopActor,
)
from ract.core.messages.calls import (
    CallsLost,
    CancelAsked,
    CancelCall,
    CancelWanted,
)
from ract.core.messages.groups import (
    GroupChanged,
    GroupRemoveWanted,
    GroupSpec,
    GroupWanted,
    GroupWatched,
)
from ract.core.messages.leases import (
    Blocked,
    EndLease,
    LeaseFailed,
    LeaseGranted,
    LeaseLost,
    LeaseOver,
    LeaseRecalled,
    LeaseRefused,
    LeaseReleased,
    LeaseStarted,
    LeasesWanted,
    Shape,
    StartLease,
    Unblocked,
    UseLease,
)
from ract.core.messages.nodes import (
    EndNode,
    NodeAccepted,
    NodeAnswered,
    NodeAsked,
    NodeJoined,
    NodeLeaving,
    NodesChanged,
)
from ract.core.messages.objects import (
    FreeObject,
    HoldsChanged,
    KeepObject,
    LineageKept,
    LineageOver,
    ObjectHere,
    ObjectKept,
    ObjectLocated,
    ObjectLost,
    ObjectMissing,
    ObjectPublished,
    ObjectSealed,
    ObjectsFreed,
    ObjectSought,
    ObjectStored,
    ObjectUnrecoverable,
    ObjectUnsought,
    ObjectUntold,
    ObjectUnwanted,
    ObjectWanted,
    SegmentClosed,
    SegmentGranted,
    SegmentRefused,
    SegmentsMoved,
    SegmentWanted,
)
from ract.core.messages.people import (
    PASSING,
    CallsWaiting,
    LogLines,
    MetricsReported,
    NodeMetrics,
    NodeStats,
    Pushed,
    TaskEvents,
    TasksWaiting,
    UserSpans,
    Warned,
)
from ract.core.messages.processes import (
    CollectGarbage,
    DumpStacks,
    EndProcess,
    Hello,
    JobFinished,
    ProcessAccepted,
    ProcessBlock,
    ProcessBlockWanted,
    ProcessExited,
    ProcessJoined,
    ProcessLeaving,
    Refused,
    ReopenLogs,
    Reply,
    Request,
    StacksDumped,
    StillOwes,
    Waiting,
    Welcome,
)
from ract.core.messages.values import (
    Blob,
    Contained,
    ExitCause,
    Hold,
)
