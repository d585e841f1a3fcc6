"""How many calls each actor has been sent and not answered, as their callers say.

Theory of operation
-------------------
An actor that runs one call at a time looks at its mailbox when the call is done, so it cannot say
what waits; its callers can. Each process reports the actors for which its count has changed, at
most once a second (`ract.core.messages.CallsWaiting`). Nothing is decided from these numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ract.core.messages import CallsWaiting


@dataclass(slots=True, eq=False)
class Mailboxes:
    """Counts by actor and caller; those that are 0 are not kept."""

    #: Actor -> caller -> its calls that are not answered; the two are each other's inverse.
    by_actor: dict[bytes, dict[int, int]] = field(default_factory=dict)
    by_caller: dict[int, dict[bytes, None]] = field(default_factory=dict)

    def report(self, event: CallsWaiting) -> None:
        """Take what has changed for a caller."""
        for actor_id, count in event.counts.items():
            self._set(actor_id, event.process, count)

    def of(self, actor_id: bytes) -> int:
        """Of all callers together."""
        return sum(self.by_actor.get(actor_id, {}).values())

    def process_exited(self, number: int) -> None:
        """A caller is gone, and its calls with it."""
        for actor_id in list(self.by_caller.get(number, {})):
            self._set(actor_id, number, 0)

    def check(self) -> None:
        """Assert the invariants."""
        pairs = [(actor, caller) for actor, counts in self.by_actor.items() for caller in counts]
        back = [(actor, caller) for caller, actors in self.by_caller.items() for actor in actors]
        assert sorted(pairs) == sorted(back)
        assert all(n > 0 for counts in self.by_actor.values() for n in counts.values())
        assert all(self.by_actor.values())
        assert all(self.by_caller.values())

    def _set(self, actor_id: bytes, process: int, count: int) -> None:
        if count > 0:
            self.by_actor.setdefault(actor_id, {})[process] = count
            self.by_caller.setdefault(process, {})[actor_id] = None
            return
        _drop(self.by_actor, actor_id, process)
        _drop(self.by_caller, process, actor_id)


def _drop(table: dict[Any, dict[Any, Any]], key: Any, inner: Any) -> None:
    entries = table.get(key)
    if entries is not None:
        entries.pop(inner, None)
        if not entries:
            del table[key]
