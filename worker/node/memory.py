"""Whose process ends when a node runs out of memory: the pure policy.

Theory of operation
-------------------
An executor without work goes first: nothing is lost with it. Among those that work, whoever runs
again by itself goes before whoever does not, and tasks before actors, whose state is lost. Of
these, the caller with most of them loses its newest: so the work that has come furthest goes on,
and a caller that floods the node pays for it. The only task of its caller on the node is not tried
again: it would meet the same end, for ever. (Rules: Ray's documentation, "Out-Of-Memory
Prevention".)

Beyond that, a process that holds next to nothing is passed over while there are others, because its
end would help nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WORTH_FRACTION = 0.01
"""A process that holds a smaller part of the node's memory is passed over, if others hold more."""

IDLE_BYTES_MIN = 100 * 10**6
"""An executor without work that holds less is left alone: a new one holds a third of it."""

MB = 10**6


@dataclass(frozen=True, slots=True)
class Candidate:
    """An executor that could be ended.

    Attributes:
        process: Its process number.
        owner: The process number of whoever called, 0 if the executor has no work.
        since: When its work began.
        held_bytes: What would be free without it.
        is_retriable: Whether its work runs again by itself.
        is_actor: Whether it is an actor.
    """

    process: int
    owner: int
    since: float
    held_bytes: int
    is_retriable: bool = True
    is_actor: bool = False


@dataclass(frozen=True, slots=True)
class Victim:
    """Whom to end. ``is_final``: its task is not to run again, whatever retries it has left."""

    process: int
    is_final: bool = False


@dataclass(frozen=True, slots=True)
class Consumer:
    """A process of the machine, or a group of processes, that holds memory."""

    pid: int
    name: str
    held_bytes: int


def choose(candidates: Iterable[Candidate], total_bytes: int) -> Victim | None:
    """Choose an executor; None if there is none.

    Args:
        candidates: The node's executors.
        total_bytes: The memory of the node.
    """
    every = sorted(candidates, key=lambda each: (each.since, each.process))
    worth = total_bytes * WORTH_FRACTION
    large = [each for each in every if each.held_bytes >= worth]
    idle = [each for each in large if not each.owner and each.held_bytes >= IDLE_BYTES_MIN]
    if idle:
        return Victim(max(idle, key=lambda each: each.held_bytes).process)
    working = [each for each in every if each.owner]
    if not working:
        return None
    working = [each for each in working if each.held_bytes >= worth] or working
    rank = min(map(_rank, working))
    groups: dict[int, list[Candidate]] = {}
    for each in working:
        if _rank(each) == rank:
            groups.setdefault(each.owner, []).append(each)
    # Of two callers with as many, the one that came later.
    group = max(groups.values(), key=lambda group: (len(group), group[0].since, group[0].process))
    newest = group[-1]
    fellows = sum(each.owner == newest.owner and _rank(each) == rank for each in every)
    return Victim(newest.process, is_final=fellows == 1 and not newest.is_actor)


def _rank(candidate: Candidate) -> tuple[bool, bool]:
    return not candidate.is_retriable, candidate.is_actor


def explain(
    used_bytes: int,
    total_bytes: int,
    threshold: float,
    held_bytes: int,
    peak_bytes: int,
    consumers: Sequence[Consumer],
) -> str:
    """Why the victim ended, and what can be done; for whoever waits for its result."""
    most = ", ".join(f"{c.name} (pid {c.pid}) {c.held_bytes / MB:.0f} MB" for c in consumers)
    return (
        f"{used_bytes / MB:.0f} of {total_bytes / MB:.0f} MB were in use, more than "
        f"{threshold:.0%} (RACT_memory_usage_threshold). It held {held_bytes / MB:.0f} MB, at its "
        f"peak {peak_bytes / MB:.0f} MB. Smaller pieces of work, fewer of them at a time "
        f"(num_cpus=, memory=) or a node with more memory would help. "
        f"Most memory was held by {most}"
    )
