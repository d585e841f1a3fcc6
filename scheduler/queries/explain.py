"""What something waits for: ``ract.explain`` in words and in data.

Theory of operation
-------------------
An explanation is ``{"id", "kind", "state", "text", "reasons": [...]}``. ``text`` names, for what
has not ended, the message that is waited for and who owes it. Each reason is a dict with a ``what``
and a ``text`` of its own: a node (or bundle) that was looked at, what it lacks and who holds that;
what is ahead in the queue; the process that has to bring a value; the message that is to come.

One thing often waits for another: an object for a call, the call for an actor, the actor for a
node. An explanation follows these steps to the last one that the scheduler knows of. What only a
process knows, like calls that it has not reported yet, is told by that process
(`ract.client.api.functions.explain`), which puts this text behind its own.
"""

from __future__ import annotations

from typing import Any

from ract.core import events
from ract.core.causes import text_of
from ract.core.ids import TaskID, process_of, worker_id_bytes
from ract.core.resources import describe
from ract.scheduler.actors.actor_states import Actor
from ract.scheduler.books.nodes import Node
from ract.scheduler.books.processes import Process
from ract.scheduler.cluster import Cluster
from ract.scheduler.leases.lease_records import STARTING, Want
from ract.scheduler.objects.directory import Entry
from ract.scheduler.objects.promises import owed_by
from ract.scheduler.people.task_records import ENDED, Task
from ract.scheduler.queries.room import (
    Explanation,
    Reason,
    explain_group,
    lookup,
    made,
    pending,
)

TOLD_MAX = 5
"""So many calls, values or nodes of one kind are named."""


def explain(cluster: Cluster, process: int, args: dict[str, Any]) -> Explanation:
    """Explain what has an ``id``, or a lease shape of ``process`` by ``shape_key``."""
    found = _found(cluster, process, args)
    if cluster.turn.is_patient:
        text = "The scheduler was away and waits for nodes that have yet to come back."
        found["reasons"].append({"what": "restart", "text": text})
        found["text"] = f"{found['text']} {text}"
    return found


def _found(cluster: Cluster, process: int, args: dict[str, Any]) -> Explanation:
    if "shape_key" in args:
        key = int(args["shape_key"])
        want = cluster.leases.wants.get((process, key))
        if want is None:
            return made(str(key), "lease", "NONE", "nothing of this shape is wanted", [])
        return _want(cluster, want)
    id_ = args.get("id", b"")
    try:
        id_ = bytes.fromhex(id_) if isinstance(id_, str) else id_
    except ValueError:
        raise ValueError(f"{id_!r} is not an id in hex digits") from None
    if id_ in cluster.actors.table:
        return _actor(cluster, cluster.actors.table[id_])
    if id_ in cluster.groups.table:
        return explain_group(cluster, cluster.groups.table[id_])
    if id_ in cluster.objects.table:
        return _object(cluster, cluster.objects.table[id_])
    if id_ in cluster.nodes.table:
        return _node(cluster, cluster.nodes.table[id_])
    for each in cluster.processes.alive.values():
        if worker_id_bytes(each.number) == id_:
            return _process(cluster, each)
    # What a call makes is local to its process until it is handed on; the call may be known.
    attempts = [task for task in cluster.tasks.all() if task.task_id == id_[: TaskID.SIZE]]
    if attempts:
        return _task(cluster, attempts)
    return _unknown(cluster, id_)


def _unknown(cluster: Cluster, id_: bytes) -> Explanation:
    unknown = cluster.actors.watching.unknown
    watching = sorted(number for actor_id, number in unknown if actor_id == id_)
    if watching:
        who = ", ".join(_who(cluster, number) for number in watching[:TOLD_MAX])
        text = f"Nobody has created this actor yet (ActorWanted is awaited), and {who} asks for it."
        return made(id_.hex(), "actor", "UNKNOWN", text, [])
    text = (
        "The scheduler knows no such object, task, actor, placement group, node or process: it is "
        "local to a process (tasks are told of when they have waited or run for a second), or gone."
    )
    if len(id_) >= TaskID.SIZE and process_of(id_) in cluster.processes.alive:
        text += f" It would be made by {_who(cluster, process_of(id_))}."
    return made(id_.hex(), "unknown", "UNKNOWN", text, [])


# --------------------------------------------------------------------------- leases and actors


def _want(cluster: Cluster, want: Want) -> Explanation:
    ident = str(want.key[1])
    who = ", ".join(want.names) or "tasks"
    starting = [lease for lease in want.leases.values() if lease.state == STARTING]
    reasons: list[Reason] = []
    for lease in starting[:TOLD_MAX]:
        text = f"Node {lease.node.short} starts an executor (LeaseStarted is awaited)"
        node_id = lease.node.node_id.hex()
        reasons.append({"what": "starting", "lease": lease.lease, "node_id": node_id, "text": text})
    if not want.need:
        told = " ".join(f"{reason['text']}." for reason in reasons)
        text = (
            f"{who}: {want.held} leases held and {want.starting} starting; nothing waits "
            f"for resources. {told}"
        ).strip()
        state = "STARTING" if want.starting else "GRANTED"
        return made(ident, "lease", state, text, reasons)
    reasons += lookup(cluster, want.ask)
    line = cluster.leases.queues[want.ask.key]
    ahead = line.ahead_of(want.key, cluster.leases.of_job)
    if ahead:
        text = f"{ahead} other processes are ahead in the queue of this demand"
        reasons.append({"what": "queue", "ahead": ahead, "text": text})
    reasons += _recalled(cluster, want.recalled)
    count = "1 more executor" if want.need == 1 else f"{want.need} more executors"
    lead = f"{who} waits for {count} with {describe(want.ask.demand)}"
    return pending(cluster, ident, "lease", want.ask, lead, reasons)


def _recalled(cluster: Cluster, number: int) -> list[Reason]:
    """Who was asked to give a lease back, if it still has it."""
    lease = cluster.leases.table.get(number)
    if lease is None:
        return []
    text = (
        f"{_who(cluster, lease.want_key[0])} was asked to give back an executor on node "
        f"{lease.node.short} when what it runs is done (LeaseReleased is awaited)"
    )
    return [{"what": "recalled", "lease": number, "process": lease.want_key[0], "text": text}]


def _actor(cluster: Cluster, actor: Actor) -> Explanation:
    ident = actor.spec.actor_id.hex()
    who = f"actor {actor.spec.class_name}({ident[:8]})"
    if actor.waits:
        reasons = lookup(cluster, actor.ask)
        ahead = list(cluster.actors.waiting[actor.ask.key].actors).index(actor.spec.actor_id)
        if ahead:
            text = f"{ahead} actors wait longer"
            reasons.append({"what": "queue", "ahead": ahead, "text": text})
        reasons += _recalled(cluster, actor.recalled)
        lead = f"{who} is {actor.state} and waits for {describe(actor.ask.demand)}"
        return pending(cluster, ident, "actor", actor.ask, lead, reasons)
    if actor.state == "DEAD":
        cause = actor.cause
        why = f"{cause.kind}: {cause.detail}" if cause else "unknown"
        text = f"{who} is dead: {why}"
        if actor.body is not None:
            text += f" (node {actor.body.node.short} has yet to say that its process has ended)"
        return made(ident, "actor", "DEAD", text, [])
    text, reasons = _body(cluster, actor, who)
    return made(ident, "actor", actor.state, text, reasons)


def _body(cluster: Cluster, actor: Actor, who: str) -> tuple[str, list[Reason]]:
    """What is to be said of an actor that has a process, or is about to."""
    body = actor.body
    assert body is not None, "neither waiting nor dead: it has a body"
    node = body.node.short
    if actor.state != "ALIVE":
        if body.incarnation < actor.incarnation:
            text = (
                f"{who} restarts as soon as its old process on node {node} has ended "
                "(ActorExited is awaited)."
            )
        else:
            text = (
                f"{who} is being constructed on node {node} (ActorStarted is awaited of its "
                "process)."
            )
        if body.ending is not None:
            text += f" Then it ends: {text_of(body.ending)}."
        return text, []
    text = f"{who} runs on node {node}, process {body.executor}, pid {body.pid}."
    reasons = _running(cluster, body.executor)
    if waiting := cluster.mailboxes.of(actor.spec.actor_id):
        more = f"{waiting} calls to it have had no answer yet"
        reasons.append({"what": "mailbox", "calls": waiting, "text": more})
    if body.ending is not None or body.is_moving:
        why = text_of(body.ending) if body.ending is not None else "its node is drained"
        text += f" It was asked to end ({why}) and does so after the calls that it has accepted."
    reasons += _owed(cluster, body.executor)
    return _with(text, reasons), reasons


# --------------------------------------------------------------------------- processes and nodes


def _who(cluster: Cluster, number: int) -> str:
    """A process, as people know it."""
    process = cluster.processes.alive.get(number)
    if process is None:
        return f"process {number}, which is gone"
    node = cluster.nodes.table.get(process.node_id)
    where = f", node {node.short}" if node is not None else ""
    return f"process {number} ({process.kind}, pid {process.pid}{where})"


def _leaving(cluster: Cluster, number: int) -> str:
    """Of a process that only stays for what it owes: why it serves nobody any more."""
    process = cluster.processes.alive.get(number)
    if process is None or process.leaving is None:
        return ""
    why = text_of(process.leaving)
    return f" It runs nothing else any more ({why}) and ends when nobody waits for it."


def _running(cluster: Cluster, executor: int) -> list[Reason]:
    """The calls that a process is in, as far as it has told."""
    found: list[Reason] = []
    for task in cluster.tasks.table.values():
        if task.executor == executor and task.state not in ENDED and len(found) < TOLD_MAX:
            ident = task.task_id.hex()
            text = f"It is in {task.name}, which is {task.state}"
            found.append({"what": "running", "task": ident, "state": task.state, "text": text})
    return found


def _owed(cluster: Cluster, number: int) -> list[Reason]:
    """What a process has promised others, and the calls of its own that it waits for."""
    reasons: list[Reason] = []
    promised = list(owed_by(cluster.objects, number))
    for object_id in promised[:TOLD_MAX]:
        entry = cluster.objects.table[object_id]
        name = f" of task {entry.task_name}" if entry.task_name else ""
        text = f"It has yet to bring the value{name} {object_id.hex()}"
        reasons.append({"what": "promised", "object": object_id.hex(), "text": text})
    if len(promised) > TOLD_MAX:
        text = f"It has yet to bring {len(promised) - TOLD_MAX} more values"
        reasons.append({"what": "promised", "text": text})
    queue = cluster.tasks.queues.get(number)
    for task in list(queue.tasks.values())[:TOLD_MAX] if queue is not None else ():
        text = f"A call that it submitted has not come back: {task.name} is {task.state}"
        reasons.append({"what": "submitted", "task": task.task_id.hex(), "text": text})
    return reasons


def _process(cluster: Cluster, process: Process) -> Explanation:
    reasons = [*_running(cluster, process.number), *_owed(cluster, process.number)]
    who = _who(cluster, process.number)
    text = f"{who[0].upper()}{who[1:]} is alive.{_leaving(cluster, process.number)}"
    state = "ALIVE" if process.leaving is None else "LEAVING"
    ident = worker_id_bytes(process.number).hex()
    return made(ident, "process", state, _with(text, reasons), reasons)


def _node(cluster: Cluster, node: Node) -> Explanation:
    ident = node.node_id.hex()
    if not node.is_alive:
        return made(ident, "node", "DEAD", f"Node {node.short} is gone: {text_of(node.cause)}", [])
    if node.is_draining:
        left = ", ".join(cluster.drains.what_is_left(node)) or "nothing"
        reasons: list[Reason] = []
        for process in cluster.processes.on_node(node.node_id):
            for reason in _owed(cluster, process.number):
                text = f"{_who(cluster, process.number)}: {reason['text']}"
                reasons.append({**reason, "text": text})
        reasons = reasons[:TOLD_MAX]
        text = _with(f"Node {node.short} is being drained; what is left on it: {left}.", reasons)
        return made(ident, "node", "DRAINING", text, reasons)
    text = f"Node {node.short} is alive; free: {describe(node.ledger.free)}."
    return made(ident, "node", "ALIVE", text, [])


# --------------------------------------------------------------------------- tasks


def _task(cluster: Cluster, attempts: list[Task]) -> Explanation:
    task = max(attempts, key=lambda each: each.attempt)
    ident = task.task_id.hex()
    again = f" (attempt {task.attempt + 1})" if task.attempt else ""
    who = f"task {task.name}{again}"
    submitter = process_of(task.task_id)
    reasons: list[Reason] = []
    if task.state == events.ARGS:
        text = (
            f"{who} waits for its arguments: what makes them has not finished. "
            f"{_who(cluster, submitter)} sends it then."
        )
    elif task.state == events.PLACE:
        text = f"{who} waits for an executor."
        waiting = _what_it_runs_in(cluster, task, submitter)
        if waiting is not None:
            text, reasons = f"{who} waits: {waiting['text']}", waiting["reasons"]
    elif task.state == events.SUBMITTED:
        text = f"{who} was sent to an executor and waits there until earlier calls are done."
        if task.actor_id in cluster.actors.table:
            waiting = _actor(cluster, cluster.actors.table[task.actor_id])
            text, reasons = f"{text} {waiting['text']}", waiting["reasons"]
    else:
        node = cluster.nodes.table.get(task.node_id)
        where = f" on node {node.short}, pid {task.pid}" if node is not None else ""
        why = f": {task.error_type}: {task.error_message}" if task.error_type else ""
        text = f"{who} is {task.state}{where}{why}"
        if task.state not in ENDED:
            reasons = _owed(cluster, task.executor)
            text = _with(f"{text}; {_who(cluster, submitter)} waits for its reply.", reasons)
    return made(ident, "task", task.state, text, reasons)


def _what_it_runs_in(cluster: Cluster, task: Task, submitter: int) -> Explanation | None:
    """The actor, or the leases, that a task waits for."""
    if task.actor_id in cluster.actors.table:
        return _actor(cluster, cluster.actors.table[task.actor_id])
    if not task.actor_id:
        for want in cluster.leases.wants.values():
            if want.key[0] == submitter and task.name in want.names:
                return _want(cluster, want)
    return None


# --------------------------------------------------------------------------- objects


def _object(cluster: Cluster, entry: Entry) -> Explanation:
    ident = entry.object_id.hex()
    name = f" of task {entry.task_name}" if entry.task_name else ""
    reasons: list[Reason] = []
    publisher = _who(cluster, entry.publisher)
    if entry.state == "PENDING":
        text = (
            f"The value{name} is not there yet: {publisher} will bring it "
            f"(ObjectPublished or ObjectStored is awaited).{_leaving(cluster, entry.publisher)}"
        )
        reasons.append({"what": "publisher", "process": entry.publisher, "text": text})
        text = f"{text} {_of_call(cluster, entry, reasons)}".strip()
    elif entry.state == "REBUILDING":
        text = f"The value{name} was lost: {publisher} was asked to make it again (ObjectLost)."
        reasons.append({"what": "publisher", "process": entry.publisher, "text": text})
        text = f"{text} {_of_call(cluster, entry, reasons)}".strip()
    elif entry.state == "READY":
        nodes = [cluster.nodes.table[n].short for n in entry.nodes]
        where = "inline at the scheduler" if entry.blob else "on " + ", ".join(nodes)
        text = f"The value{name} is there: {entry.size} bytes, {where}."
        reasons += _copied(cluster, entry)
        text = _with(text, reasons)
    elif entry.state == "UNKNOWN":
        text = f"Somebody asks for it, but nobody has published it yet. {_maker(cluster, entry)}"
    else:
        text = f"The value{name} is gone: {entry.answer.decode(errors='replace')}"
    if entry.seekers:
        seekers = [cluster.nodes.table[n].short for n in entry.seekers][:TOLD_MAX]
        text += f" Who waits for it: node {', '.join(seekers)}."
    return made(ident, "object", entry.state, text, reasons)


def _of_call(cluster: Cluster, entry: Entry, reasons: list[Reason]) -> str:
    """What is known of the call that makes an object; its reasons are added."""
    task_id = entry.object_id[: TaskID.SIZE]
    attempts = [task for task in cluster.tasks.all() if task.task_id == task_id]
    actor = cluster.actors.table.get(TaskID(task_id).actor_id().binary())
    wants = [
        want
        for want in cluster.leases.wants.values()
        if want.key[0] == entry.publisher and entry.task_name in want.names
    ]
    if attempts:
        found = _task(cluster, attempts)
    elif actor is not None:
        found = _actor(cluster, actor)
    elif any(want.need or want.starting for want in wants):
        found = _want(cluster, next(want for want in wants if want.need or want.starting))
    else:
        return "No executor has told of the call yet: it has just begun, or was just sent."
    reasons += found["reasons"]
    return f"{found['text'][:1].upper()}{found['text'][1:]}"


def _maker(cluster: Cluster, entry: Entry) -> str:
    """Who owes the scheduler a word of an object that it does not know."""
    storing = cluster.nodes.table.get(entry.seen_on)
    if storing is not None and storing.is_alive:
        return f"Node {storing.short} stores it, and has yet to tell (ObjectStored is awaited)."
    who = _who(cluster, process_of(entry.object_id))
    asked = " and was asked what became of it (ObjectUntold)" if entry.is_maker_asked else ""
    return f"It was made by {who}{asked}."


def _copied(cluster: Cluster, entry: Entry) -> list[Reason]:
    """Who copies an object now, and who waits for its turn."""
    reasons: list[Reason] = []
    spread = cluster.objects.pulls.table.get(entry.object_id)
    names = cluster.nodes.table
    for node_id, pull in list(spread.pulls.items())[:TOLD_MAX] if spread is not None else ():
        text = f"Node {names[node_id].short} copies it from node {names[pull.source].short}"
        reasons.append({"what": "pull", "node_id": node_id.hex(), "text": text})
    if entry.seekers:
        text = "Others wait until a copy is free to be copied"
        reasons.append({"what": "queue", "ahead": len(reasons), "text": text})
    return reasons


def _with(text: str, reasons: list[Reason]) -> str:
    return " ".join([text, *(f"{reason['text']}." for reason in reasons)])
