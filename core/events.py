"""Task events: what executors report about calls, in batches no older than a second.

One event is a list of plain values, in this order:

====  ==============  ========================================================
  0   task_id         24 bytes
  1   attempt         0 for the first try
  2   name            as shown: the ``name`` option or the function's name
  3   function        the function's or method's qualified name
  4   type            "NORMAL_TASK" | "ACTOR_TASK" | "ACTOR_CREATION_TASK"
  5   state           "RUNNING" | "RUNNING_IN_RAY_GET" | "RUNNING_IN_RAY_WAIT" | "FINISHED" |
                      "FAILED"
  6   start           seconds since the epoch; -1.0 if unknown
  7   end             seconds since the epoch; 0.0 while running
  8   parent          task number of the parent call; 0 for a driver
  9   actor_id        16 bytes, or b""
 10   error_type      "" | "TASK_EXECUTION_EXCEPTION" | "TASK_CANCELLED" | "WORKER_DIED" |
                      "OUT_OF_MEMORY" | "NODE_DIED"
 11   error_message   the error and its traceback; ""
 12   facts           what else is known: see `FACTS`
====  ==============  ========================================================

Most calls just finish, and there may be hundreds of thousands a second. These travel in columns,
one *run* per function and batch:

====  ==============  ========================================================
  0   name            as above
  1   function        as above
  2   type            as above
  3   actor_id        as above
  4   job_id          4 bytes
  5   numbers         the task numbers: native unsigned 64-bit integers, as bytes
  6   times           start, end, start, end, ...: native doubles, as bytes
  7   parents         task numbers of the parents, likewise; b"" if all are 0
  8   facts           as above, of all of them
====  ==============  ========================================================

A call that runs for longer than half a second is reported as RUNNING, one that has waited so long
in get or wait as that, and what has waited longer than a second by who waits: in *queues*, the
newest of which replace all older ones of a process.

====  ==============  ========================================================
  0   state           "PENDING_ARGS_AVAIL" | "PENDING_NODE_ASSIGNMENT" |
                      "SUBMITTED_TO_WORKER"
  1   name            as above
  2   type            as above
  3   actor_id        as above
  4   job_id          4 bytes
  5   attempt         0 for the first try
  6   numbers         the task numbers, as above
  7   since           when each was submitted: native doubles, as bytes
  8   facts           as above
====  ==============  ========================================================
"""

from __future__ import annotations

from typing import Any

NORMAL_TASK = "NORMAL_TASK"
ACTOR_TASK = "ACTOR_TASK"
ACTOR_CREATION_TASK = "ACTOR_CREATION_TASK"

ARGS = "PENDING_ARGS_AVAIL"
PLACE = "PENDING_NODE_ASSIGNMENT"
SUBMITTED = "SUBMITTED_TO_WORKER"
RUNNING = "RUNNING"
IN_GET = "RUNNING_IN_RAY_GET"
IN_WAIT = "RUNNING_IN_RAY_WAIT"
FINISHED = "FINISHED"
FAILED = "FAILED"

FIELDS = (
    "task_id",
    "attempt",
    "name",
    "function",
    "type",
    "state",
    "start",
    "end",
    "parent",
    "actor_id",
    "error_type",
    "error_message",
    "facts",
)

FACTS = {
    "demand": dict,  # resources, in units of `ract.core.resources.UNIT`
    "group": bytes,  # the placement group
    "runtime_env": str,  # JSON
    "labels": dict,  # the label selector
    "site": str,  # where it was called from
    "since": float,  # when it began to wait in get or wait
    "parent_actor": bytes,  # the actor whose call the parent is
    "executor": int,  # who ran it, if somebody else reports; likewise these
    "pid": int,
    "node_id": bytes,
}
"""What a call's facts may be, with their types; those that are not known are left out."""

Event = list[Any]
