"""Views of actors: the table of all, and what there is to tell of one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ract.core.messages import ExitCause
from ract.dashboard.views import table
from ract.dashboard.views.table import Args, Row, Table, View
from ract.scheduler.actors.actor_states import Actor
from ract.scheduler.cluster import Cluster
from ract.scheduler.people.task_stats import CallStats
from ract.scheduler.queries import rows


@dataclass(frozen=True, slots=True)
class Seen:
    """An actor, with what the table sorts by and is not in its record."""

    actor: Actor
    node: str
    methods: list[CallStats]
    now: float

    @property
    def rate(self) -> float:
        """Calls that ended, per second."""
        return sum(stats.rate.at(self.now) for stats in self.methods)

    @property
    def calls(self) -> int:
        """Calls that ended, ever."""
        return sum(stats.finished + stats.failed for stats in self.methods)


def _seen(cluster: Cluster, args: Args) -> Iterable[Seen]:
    names = {node_id: node.short for node_id, node in cluster.nodes.table.items()}
    stats, now = cluster.tasks.stats, cluster.turn.now
    wanted = table.bytes_of(args.get("node_id", ""), "a node")
    group = table.bytes_of(args.get("group_id", ""), "a placement group")
    job = table.bytes_of(args.get("job_id", ""), "a job")
    for actor_id, actor in reversed(cluster.actors.table.items()):
        node_id = actor.body.node.node_id if actor.body is not None else b""
        if (wanted and node_id != wanted) or (job and actor.spec.job_id != job):
            continue
        if group and actor.ask.group_id != group:
            continue
        node = names.get(node_id, "") if node_id else ""
        yield Seen(actor, node, [*stats.of_actor(actor_id).values()], now)


def _row(cluster: Cluster, seen: Seen) -> Row:
    actor, body = seen.actor, seen.actor.body
    spec = actor.spec
    waiting = cluster.mailboxes.of(spec.actor_id)
    return {
        "key": spec.actor_id.hex(),
        "actor_id": spec.actor_id.hex(),
        "class_name": spec.class_name,
        "name": spec.name,
        "namespace": spec.namespace,
        "state": actor.state,
        "node": seen.node,
        "node_id": body.node.node_id.hex() if body else "",
        "pid": body.pid or None if body else None,
        "process": body.executor if body else 0,
        "restarts": actor.restarts,
        "max_restarts": spec.max_restarts,
        "waiting": waiting,
        "rate": seen.rate if actor.state != "DEAD" else 0.0,
        "calls": seen.calls,
        "resources": table.amounts_text(rows.amounts(spec.running_demand)) or "none",
        "job": spec.job_id.hex(),
        "created_ms": table.ms(actor.created_at),
        "died_ms": table.ms(actor.died_at),
        "cause": table.cause_text(actor.cause) if actor.state != "ALIVE" else "",
    }


ACTORS = Table(
    items=_seen,
    row=_row,
    text=lambda seen: " ".join(
        (
            seen.actor.spec.class_name,
            seen.actor.spec.name,
            seen.actor.spec.actor_id.hex(),
            seen.actor.state,
            seen.node,
            str(seen.actor.body.pid) if seen.actor.body else "",
            seen.actor.spec.namespace,
        )
    ),
    sorts={
        "created_ms": lambda seen: seen.actor.created_at,
        "class_name": lambda seen: seen.actor.spec.class_name,
        "name": lambda seen: seen.actor.spec.name,
        "state": lambda seen: seen.actor.state,
        "node": lambda seen: seen.node,
        "pid": lambda seen: seen.actor.body.pid if seen.actor.body else 0,
        "restarts": lambda seen: seen.actor.restarts,
        "rate": lambda seen: seen.rate,
        "calls": lambda seen: seen.calls,
        "died_ms": lambda seen: seen.actor.died_at,
    },
    facets={
        "state": lambda seen: seen.actor.state,
        "class_name": lambda seen: seen.actor.spec.class_name,
    },
)


def _found(cluster: Cluster, args: Args) -> Actor:
    actor_id = table.bytes_of(args.get("id", ""), "an actor")
    actor = cluster.actors.table.get(actor_id)
    if actor is None:
        raise LookupError(f"there is no actor {actor_id.hex()} (any more)")
    return actor


def actor(cluster: Cluster, args: Args) -> Row:
    """``id``: the facts about one actor, and why it died. Raises LookupError, ValueError."""
    found = _found(cluster, args)
    spec, body = found.spec, found.body
    stats = [*cluster.tasks.stats.of_actor(spec.actor_id).values()]
    node = table.node_name(cluster, table_node(cluster, found))
    row = _row(cluster, Seen(found, node, stats, cluster.turn.now))
    owner = cluster.processes.alive.get(spec.owner)
    return {
        **row,
        "node": node,
        "node_id": (table_node(cluster, found) or b"").hex(),
        "pid": row["pid"] or (found.cause.pid if found.cause else 0) or None,
        "process": body.executor if body else process_of(cluster, found),
        "incarnation": found.incarnation,
        "detached": spec.detached,
        "owner": _owner_text(cluster, spec.owner),
        "owner_pid": owner.pid if owner else None,
        "group_id": found.ask.group_id.hex(),
        "max_concurrency": spec.max_concurrency,
        "max_task_retries": spec.max_task_retries,
        "runtime_env": spec.runtime_env,
        "site": spec.call_site,
        "repr_name": found.repr_name,
        "death": _death(cluster, found.cause) if found.cause and found.state != "ALIVE" else None,
    }


def table_node(cluster: Cluster, found: Actor) -> bytes | None:
    """Where it runs, or ran when it ended."""
    if found.body is not None:
        return found.body.node.node_id
    return found.cause.node_id or None if found.cause is not None else None


def process_of(cluster: Cluster, found: Actor) -> int:
    """The number of the process that a dead actor was, 0 if it is forgotten."""
    cause = found.cause
    if cause is None or not cause.pid:
        return 0
    for process in reversed(cluster.processes.dead):
        if process.pid == cause.pid and cause.node_id in (b"", process.node_id):
            return process.number
    return 0


def _owner_text(cluster: Cluster, owner: int) -> str:
    process = cluster.processes.alive.get(owner)
    if process is None:
        return "gone"
    actor_id = cluster.actors.by_executor.get(owner)
    what = cluster.actors.table[actor_id].spec.class_name if actor_id else process.kind
    return f"{what}, pid {process.pid} on {table.node_name(cluster, process.node_id)}"


def _death(cluster: Cluster, cause: ExitCause) -> Row:
    return {
        "kind": cause.kind,
        "detail": cause.detail,
        "exit_code": cause.exit_code,
        "signal": cause.signal,
        "stderr": cause.stderr_tail,
        "node": table.node_name(cluster, cause.node_id or None),
        "at_ms": table.ms(cause.at),
    }


def story(cluster: Cluster, args: Args) -> Row:
    """``id``: what happened to an actor, the newest first."""
    found = _found(cluster, args)
    told = [
        {"key": str(i), "at_ms": table.ms(at), "state": state, "what": what}
        for i, (at, state, what) in enumerate(found.story)
    ]
    return table.listed(told[::-1], args)


def _methods(cluster: Cluster, args: Args) -> Iterable[tuple[CallStats, float]]:
    now = cluster.turn.now
    actor_id = table.bytes_of(args.get("id", ""), "an actor")
    return [(stats, now) for stats in cluster.tasks.stats.of_actor(actor_id).values()]


def call_row(seen: tuple[CallStats, float]) -> Row:
    """The counts and latencies of one function or method."""
    stats, now = seen
    return {
        "key": f"{stats.type} {stats.name}",
        "name": stats.name,
        "type": stats.type,
        "finished": stats.finished,
        "failed": stats.failed,
        "rate": stats.rate.at(now),
        "mean_s": stats.mean_s if stats.finished else None,
        "p50_s": stats.percentile_s(0.5) if stats.finished else None,
        "p95_s": stats.percentile_s(0.95) if stats.finished else None,
        "p99_s": stats.percentile_s(0.99) if stats.finished else None,
        "longest_s": stats.longest_s if stats.finished else None,
        "last_ms": table.ms(stats.last_at),
    }


CALL_SORTS: dict[str, Any] = {
    "name": lambda seen: seen[0].name,
    "finished": lambda seen: seen[0].finished,
    "failed": lambda seen: seen[0].failed,
    "rate": lambda seen: seen[0].rate.at(seen[1]),
    "mean_s": lambda seen: seen[0].mean_s,
    "longest_s": lambda seen: seen[0].longest_s,
    "last_ms": lambda seen: seen[0].last_at,
}

METHODS = Table(
    items=_methods,
    row=lambda cluster, seen: call_row(seen),
    text=lambda seen: seen[0].name,
    sorts=CALL_SORTS,
)

VIEWS: dict[str, View] = {
    "actors": ACTORS,
    "actor": actor,
    "actor_story": story,
    "actor_methods": METHODS,
}
