"""The last part of an executor's life: it serves nobody any more, and stays for what it owes.

Theory of operation
-------------------
When the server of calls has ended, all replies have been written and the program's exit handlers
have run. If calls that this process has made are not over, it says so (`ProcessLeaving`), hangs up
on its callers, and waits. From then on it has no work: the node has told the scheduler that its
lease or actor is over, which frees what these had in use. A task's process waits until all its
calls have come back. An actor's waits for those only whose values somebody else wants: what it
started for itself ends with it.

The node kills it, as any other process, when its job is over or the node ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ract.client.debts import Debts
from ract.client.process import context
from ract.core.messages import ExitCause, ProcessLeaving
from ract.worker.executor.titles import set_title

if TYPE_CHECKING:
    from ract.client.runtime import Runtime

LOOK_S = 0.05
"""How often a process that stays looks whether its calls are over: nothing announces the last."""

ASK_S = 0.5
"""How often it asks whether anybody waits for them."""


class Leaving:
    """Ends one executor when it owes nothing."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.debts = Debts(
            runtime.table,
            runtime.unfinished_calls,
            runtime.lineage,
            partial(runtime.link.request, "owed"),
        )
        self.has_begun = False
        self._cause = ExitCause("exited")
        self._hang_up: Callable[[], None] = lambda: None

    def begin(self, cause: ExitCause, hang_up: Callable[[], None]) -> None:
        """The server has ended.

        Args:
            cause: Why.
            hang_up: Closes the connections of the callers.
        """
        self.has_begun = True
        self._cause, self._hang_up = cause, hang_up

    def stay(self) -> None:
        """Return when nothing is owed. The program's exit handlers have run."""
        if not self._owes():
            return
        set_title("LEAVING")
        leaving = ProcessLeaving(self._runtime.process, replace(self._cause, at=time.time()))
        self._runtime.tell(leaving)
        self._hang_up()  # after it: who finds the connection closed soon hears why
        ask_at = time.monotonic()
        while self._owes():
            time.sleep(LOOK_S)
            if self._is_actor and time.monotonic() >= ask_at:
                if not self.debts.are_waited_for():
                    return
                ask_at = time.monotonic() + ASK_S

    @property
    def _is_actor(self) -> bool:
        return context.process.actor_spec is not None

    def _owes(self) -> bool:
        return self.debts.has_promises() if self._is_actor else self.debts.has_calls()
