"""Every interleaving of what threads do to one ref, on the real ref and table."""

import types

import frontrun
import pytest

from ract.client.objects import refs
from ract.client.objects.held import RefTable
from ract.client.process import current
from ract.core.messages import ObjectPublished


class World:
    """One process with one ref of a task that has not ended."""

    def __init__(self):
        self.sent = []
        self.runtime = types.SimpleNamespace(
            process=1,
            job_id=b"\0\0\0\1",
            closed=False,
            unhandled=[],
            tell=self.sent.append,
            link=types.SimpleNamespace(hold_changes=[]),
            reactor=types.SimpleNamespace(wake=lambda: None),
        )
        self.runtime.table = RefTable(self.runtime)
        current.runtime = self.runtime
        self.ref = refs.new_ref(16 << 36 | 5, None, 1, None)
        self.ref._runtime = self.runtime

    def escape(self):
        self.runtime.table.escape(self.ref)

    def reply(self):
        self.ref._complete(refs.PLAIN, 42)

    def value_comes_after_a_hold(self):
        told = [m for m in self.sent if isinstance(m, ObjectPublished)]
        return bool(told and told[0].holds) and any(m.blob is not None for m in told)


@pytest.fixture(autouse=True)
def _no_runtime_stays():
    yield
    current.runtime = None


def test_a_ref_escapes_while_its_value_arrives():
    frontrun.explore(
        setup=World,
        workers=[World.escape, World.reply],
        invariant=World.value_comes_after_a_hold,
    ).assert_holds()
