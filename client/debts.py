"""What others would lose if this process ended now.

Theory of operation
-------------------
A process that ends takes three things with it: calls that it has made and that have not come back,
values that it has promised to others (a ref of such a call has left the process), and the knowledge
of how to make lost objects again (`ract.client.calls.lineage`). All else outlives it: values that
are there are published with their refs, and what lies in shared memory belongs to the node.

So an executor that could end asks here first. One that is idle stays for any of the three. One that
has to end (``max_calls``, an actor that is over) stays for calls and promises only: knowledge is
needed by chance, and would keep the process for as long as somebody holds an object.

Whether somebody still waits for a promise is known to the scheduler, which counts the holds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ract.client.calls.channel import Call
from ract.client.calls.lineage import Lineage
from ract.client.objects.held import Held
from ract.core.errors import RactSystemError

logger = logging.getLogger(__name__)


class Debts:
    """The debts of one process.

    Args:
        table: The refs that others may know.
        unfinished: Returns the calls of this process that wait or run.
        lineage: How this process made what lies in shared memory.
        ask: Asks the scheduler for the ids of what the process has promised to others who still
            want it. Raises OSError if there is no answer.
    """

    def __init__(
        self,
        table: Held,
        unfinished: Callable[[], list[Call]],
        lineage: Lineage,
        ask: Callable[[], list[bytes]],
    ) -> None:
        self._table = table
        self._unfinished = unfinished
        self._lineage = lineage
        self._ask = ask

    def keep_idle_process(self) -> bool:
        """Whether anything would be lost that somebody may need some time."""
        return bool(self._lineage.recipes) or self.has_calls()

    def has_calls(self) -> bool:
        """Whether calls have not come back."""
        # Twice: a call may go from a channel to a queue, or back, while both are looked at. One
        # whose value is promised is seen wherever it is.
        return self.has_promises() or bool(self._unfinished() or self._unfinished())

    def has_promises(self) -> bool:
        """Whether calls have not come back whose values were promised to others."""
        lost = any(recipe.wanted for recipe in list(self._lineage.recipes.values()))
        return lost or bool(self._table.promised())

    def are_waited_for(self) -> bool:
        """Whether others still want what was promised; so it is taken if nobody can tell."""
        try:
            return bool(self._ask())
        except (OSError, RactSystemError) as error:  # the scheduler is away, or slow
            logger.debug("cannot find out who waits for this process: %s", error)
            return True
