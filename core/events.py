"""Task events: what executors report about calls, in batches no older than a second.

One event is a list of plain values, in this order:

====  ==============  ========================================================
  0   task_id         24 bytes
  1   attempt         0 for the first try
  2   name            as shown: the ``name`` option or the function's name
  3   function        the function's or method's qualified name
  4   type            "NORMAL_TASK" | "ACTOR_TASK" | "ACTOR_CREATION_TASK"
  5   state           "RUNNING" | "FINISHED" | "FAILED"
  6   start           seconds since the epoch
  7   end             seconds since the epoch; 0.0 while running
  8   parent          task number of the parent call; 0 for a driver
  9   actor_id        16 bytes, or b""
 10   error_type      "" | "TASK_EXECUTION_EXCEPTION" | "TASK_CANCELLED"
 11   error_message   first line of the error; ""
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
====  ==============  ========================================================
"""

from __future__ import annotations

from typing import Any

NORMAL_TASK = "NORMAL_TASK"
ACTOR_TASK = "ACTOR_TASK"
ACTOR_CREATION_TASK = "ACTOR_CREATION_TASK"

RUNNING = "RUNNING"
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
)

Event = list[Any]
