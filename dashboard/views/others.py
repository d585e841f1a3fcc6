"""Views of placement groups and jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ract.dashboard.views import table
from ract.dashboard.views.table import Args, Row, Table, View
from ract.scheduler.books.processes import FAILURES, Job
from ract.scheduler.cluster import Cluster
from ract.scheduler.placement.group_records import Group
from ract.scheduler.queries import rows


def _group_row(cluster: Cluster, group: Group) -> Row:
    spec = group.spec
    bundles = [
        {
            "index": bundle.index,
            "resources": table.amounts_text(rows.amounts(bundle.demand)),
            "node": bundle.node.short if bundle.node else "",
            "node_id": bundle.node.node_id.hex() if bundle.node else "",
            "used": _used(bundle.ledger.total, bundle.ledger.free) if bundle.ledger else "",
        }
        for bundle in group.bundles
    ]
    waited_until = group.placed_at or group.removed_at or cluster.turn.epoch_s
    return {
        "key": spec.group_id.hex(),
        "group_id": spec.group_id.hex(),
        "name": spec.name,
        "state": group.state,
        "strategy": spec.strategy,
        "bundle_count": len(bundles),
        "placed": sum(bundle.is_placed for bundle in group.bundles),
        "bundles": bundles,
        "demand": table.amounts_text(rows.amounts(group.whole.demand)),
        "job": spec.job_id.hex(),
        "detached": spec.detached,
        "actors": len(cluster.actors.by_group.get(spec.group_id, {})),
        "created_ms": table.ms(group.created_at),
        "waited_s": max(0.0, waited_until - group.created_at),
        "detail": group.detail
        or ("" if group.could_fit else "no cluster of these nodes can hold it"),
    }


def _found(cluster: Cluster, args: Args) -> Group:
    group_id = table.bytes_of(args.get("id", ""), "a placement group")
    group = cluster.groups.table.get(group_id)
    if group is None:
        raise LookupError(f"there is no placement group {group_id.hex()} (any more)")
    return group


def group(cluster: Cluster, args: Args) -> Row:
    """``id``: the facts about one placement group. Raises LookupError, ValueError."""
    return _group_row(cluster, _found(cluster, args))


def bundles(cluster: Cluster, args: Args) -> Row:
    """``id``: the bundles of a placement group. Raises LookupError, ValueError."""
    found = _group_row(cluster, _found(cluster, args))["bundles"]
    for bundle in found:
        bundle["key"] = str(bundle["index"])
    return table.listed(found, args)


def _used(total: dict[str, int], free: dict[str, int]) -> str:
    return ", ".join(
        f"{name} {(n - free.get(name, 0)) / rows.UNIT:g} of {n / rows.UNIT:g}"
        for name, n in sorted(total.items())
        if name not in table.BYTES_NAMES
    )


GROUPS = Table(
    items=lambda cluster, args: reversed(cluster.groups.table.values()),
    row=_group_row,
    text=lambda group: f"{group.spec.group_id.hex()} {group.spec.name} {group.state}",
    sorts={
        "created_ms": lambda group: group.created_at,
        "name": lambda group: group.spec.name,
        "state": lambda group: group.state,
        "bundle_count": lambda group: len(group.bundles),
    },
    facets={"state": lambda group: group.state, "strategy": lambda group: group.spec.strategy},
)


@dataclass(frozen=True, slots=True)
class SeenJob:
    """A job, with what it has."""

    job: Job
    actors: int
    executors: int


def job_status(job: Job) -> str:
    """As `list_jobs` says it."""
    if job.cause is None:
        return "RUNNING"
    return "FAILED" if job.cause.kind in FAILURES else "SUCCEEDED"


def _jobs(cluster: Cluster, args: Args) -> Iterable[SeenJob]:
    actors = Counter(a.spec.job_id for a in cluster.actors.table.values() if a.state != "DEAD")
    alive = cluster.processes.alive.values()
    executors = Counter(p.job_id for p in alive if p.kind == "executor")
    for job_id, job in reversed(cluster.processes.jobs.items()):
        yield SeenJob(job, actors[job_id], executors[job_id])


def _job_row(cluster: Cluster, seen: SeenJob) -> Row:
    job = seen.job
    end = job.finished_at or cluster.turn.epoch_s
    return {
        "key": job.job_id.hex(),
        "job": job.job_id.hex(),
        "state": job_status(job),
        "entrypoint": job.entrypoint,
        "namespace": job.namespace,
        "node": table.node_name(cluster, job.node_id),
        "node_id": job.node_id.hex(),
        "pid": job.pid,
        "actors": seen.actors,
        "executors": seen.executors,
        "started_ms": table.ms(job.started_at),
        "lasted_s": end - job.started_at,
        "metadata": ", ".join(
            f"{key}={value}" for key, value in sorted(job.metadata.items()) if key != "sys_path"
        ),
        "message": table.cause_text(job.cause),
    }


JOBS = Table(
    items=_jobs,
    row=_job_row,
    text=lambda seen: (
        f"{seen.job.job_id.hex()} {seen.job.entrypoint} {seen.job.namespace} {seen.job.pid}"
    ),
    sorts={
        "started_ms": lambda seen: seen.job.started_at,
        "state": lambda seen: job_status(seen.job),
        "actors": lambda seen: seen.actors,
        "executors": lambda seen: seen.executors,
    },
    facets={"state": lambda seen: job_status(seen.job)},
)


def job(cluster: Cluster, args: Args) -> Row:
    """``id``: the facts about one job. Raises LookupError, ValueError."""
    job_id = table.bytes_of(args.get("id", ""), "a job")
    for seen in _jobs(cluster, args):
        if seen.job.job_id == job_id:
            return {**_job_row(cluster, seen), "runtime_env": seen.job.runtime_env}
    raise LookupError(f"there is no job {job_id.hex()} (any more)")


VIEWS: dict[str, View] = {
    "groups": GROUPS,
    "group": group,
    "bundles": bundles,
    "jobs": JOBS,
    "job": job,
}
