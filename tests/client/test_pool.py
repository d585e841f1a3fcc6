"""What a pool of tasks tells the cluster, in which order."""

import types

from ract.client.tasks.leases import Lease, Todo
from ract.client.tasks.pools import Pools
from ract.core.messages import LeaseReleased, LeasesWanted, Shape


def test_a_backlog_is_stated_with_the_leases_whose_release_is_told_after_it():
    told = []
    runtime = types.SimpleNamespace(
        process=1,
        node_id=b"n",
        channels={},
        reactor=types.SimpleNamespace(is_asleep=False, wake=lambda: None),
        tell=lambda *messages: told.extend(messages),
    )
    pool = Pools(runtime).find("shape", lambda: Shape({}, b"job1"))
    with pool._lock:
        pool._perform(Todo(backlog=1, release=[Lease(7, 70)]))
    wanted, released = told
    assert isinstance(wanted, LeasesWanted)
    assert (wanted.backlog, wanted.held) == (1, 1)
    assert isinstance(released, LeaseReleased)
