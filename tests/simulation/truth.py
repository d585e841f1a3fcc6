"""What a simulated world knows beside the machines: which calls there are, and what is right.

Theory of operation
-------------------
Each call has a number of its own, which travels with it and comes back in its value. So a value
that belongs to another call is seen, and a call that ran twice though it must not, and calls to an
actor that ran in another order than they were made in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ract.client.calls.streams import ObjectRefGenerator
from ract.client.objects.refs import ObjectRef
from ract.core import ids
from ract.core.errors import OwnerDiedError

if TYPE_CHECKING:
    from simulation.executors import Run
    from simulation.peers import SimProcess
    from simulation.programs import Program
    from simulation.values import Plan


@dataclass
class Made:
    """A call that was made."""

    process: int
    retries: int
    ran: list[int] = field(default_factory=list)  #: which attempts have begun to run


class Truth:
    """What must be true of calls and values.

    Args:
        crashes: Whether calls may end for reasons that no program has asked for.
    """

    def __init__(self, *, crashes: bool) -> None:
        self._crashes = crashes
        self.calls: dict[int, Made] = {}
        #: The number of the call (or put) that makes the returns of a task.
        self._numbers: dict[bytes, int] = {}
        #: Actor and caller -> the newest call of which a first attempt has begun.
        self._newest: dict[tuple[bytes, int], int] = {}

    def submitted(self, program: Program, made: Any, plan: Plan, retries: int) -> None:
        """A program has made a call."""
        self.calls[plan.number] = Made(program.process.number, retries)
        if isinstance(made, ObjectRefGenerator):
            self._numbers[task_of(made.completed())] = plan.number
        else:
            self.made(made, plan.number)

    def made(self, ref: ObjectRef, number: int) -> None:
        """A program has a ref whose value will carry this number."""
        self._numbers[task_of(ref)] = number

    def started(self, run: Run, program: Any, caller: int, attempt: int) -> None:
        """An executor begins to run the code of a call."""
        made = self.calls[run.plan.number]
        assert attempt not in made.ran, f"attempt {attempt} of call {run.plan.number} ran twice"
        made.ran.append(attempt)
        may_run = made.retries < 0 or len(made.ran) <= made.retries + 1
        assert may_run, f"call {run.plan.number} ran {len(made.ran)} times: {made}"
        if program.spec is not None and not attempt:
            key = (program.spec.actor_id, caller)
            newest = self._newest.get(key, 0)
            assert newest < run.number, f"call {run.number} of {caller} was overtaken by {newest}"
            self._newest[key] = run.number

    def check_value(self, ref: ObjectRef, number: int) -> None:
        """A program has got a value."""
        known = self._numbers.get(task_of(ref), number)
        assert known == number, f"{ref!r} of call {known} has a value of call {number}"

    def check_error(self, ref: ObjectRef, error: BaseException) -> None:
        """A program has got an error."""
        from simulation.programs import DEEDS, FAULTS

        may_be = DEEDS + FAULTS if self._crashes else DEEDS
        is_removed = isinstance(error, OwnerDiedError) and "placement group" in str(error)
        assert is_removed or isinstance(error, may_be), f"{ref!r}: {error!r}"

    def assert_nothing_waits(self, process: SimProcess) -> None:
        """All has ended that this process has begun."""
        waits = list(what_waits(process))
        assert not waits, f"process {process.number} still waits: {waits}"


def what_waits(process: SimProcess) -> Iterator[str]:
    """What a process waits for, in words."""
    runtime = process.runtime
    for call in runtime.unfinished_calls():
        if call.refs and call.refs[0]._state < 3:
            yield runtime.describe_wait(call.refs[0])
        else:
            yield f"{call.name} ({call.number:x}) is under way although it has ended"
    for since, ref in process.program.waits.values():
        yield f"since {since:.3f}: {runtime.describe_wait(ref)}"


def task_of(ref: ObjectRef) -> bytes:
    """The id of the task whose return a ref is, without making the ref's id known."""
    if isinstance(ref._id, bytes):
        return ref._id[:24]
    number, actor_id, _ = ref._id
    assert ref._home is not None
    return ids.task_id_bytes(number, ref._home.job_id, actor_id or b"")
