"""Sums over calls: exact counts, estimated percentiles, limits; stories of actors; mailboxes."""

import pickle
from array import array

import pytest
from fed_cluster import FedCluster

from ract.core import messages as m
from ract.scheduler.people import task_stats
from ract.scheduler.people.task_stats import CallStats, Rate


@pytest.fixture
def cluster():
    made = FedCluster(2)
    made.wait(100)
    made.remember(10_000)
    return made


def test_counts_and_means_are_exact_however_many_calls_are_forgotten(cluster):
    worker = cluster.executor()
    for _ in range(30):
        cluster.ran(worker, "f", 1000, took=0.002)
    stats = cluster.machine.tasks.stats
    assert cluster.machine.tasks.forgotten > 15_000
    found = stats.functions["f", "NORMAL_TASK"]
    assert (found.finished, found.failed, stats.finished) == (30_000, 0, 30_000)
    assert found.mean_s == pytest.approx(0.002)
    assert found.longest_s == pytest.approx(0.002)


def test_percentiles_are_within_half_a_bucket():
    stats = CallStats("f", "NORMAL_TASK")
    for i in range(1, 101):
        stats.add([0.0], [i * 0.001], now=0.0)
    assert stats.percentile_s(0.5) == pytest.approx(0.05, rel=0.1)
    assert stats.percentile_s(0.95) == pytest.approx(0.095, rel=0.1)
    assert stats.percentile_s(1.0) <= stats.longest_s == pytest.approx(0.1)
    assert CallStats("g", "").percentile_s(0.5) == 0


def test_large_batch_is_sampled_evenly():
    stats = CallStats("f", "NORMAL_TASK")
    ends = array("d", [0.001] * 5000 + [0.1] * 5000)
    stats.add(array("d", [0.0]) * 10_000, ends, now=0.0)
    assert sum(stats.buckets.values()) <= task_stats.SAMPLES_MAX
    assert stats.finished == 10_000
    assert stats.percentile_s(0.25) == pytest.approx(0.001, rel=0.1)
    assert stats.percentile_s(0.75) == pytest.approx(0.1, rel=0.1)


def test_rate_is_that_of_the_last_seconds_and_falls_to_nothing():
    rate = Rate()
    for second in range(10):
        rate.add(50, now=100.0 + second)
    assert rate.at(109.5) == pytest.approx(50, rel=0.4)
    assert rate.at(130) == 0
    rate.add(1, now=200.0)
    assert rate.at(200) == rate.at(203) == pytest.approx(1 / 3), "also at the very moment"


def test_rate_does_not_jump_when_a_window_begins():
    rate = Rate()
    seen = []
    for tenth in range(200):
        rate.add(10, now=50.0 + tenth / 10)
        seen.append(rate.at(50.0 + tenth / 10))
    assert all(90 < each < 110 for each in seen[80:]), seen


def test_failures_are_grouped_by_function_and_kind_with_the_newest_examples(cluster):
    worker = cluster.executor()
    for i in range(9):
        cluster.failed(worker, "f", f"ValueError: number {i}")
    cluster.failed(worker, "f", "KeyError: 'x'")
    cluster.failed(worker, "f", "", error_type="TASK_CANCELLED")
    errors = cluster.machine.tasks.stats.errors
    assert {key[2]: error.count for key, error in errors.items()} == {
        "ValueError": 9,
        "KeyError": 1,
        "cancelled": 1,
    }
    examples = errors["f", "TASK_EXECUTION_EXCEPTION", "ValueError"].examples
    assert [task.error_message[-1] for task in examples] == ["4", "5", "6", "7", "8"]


def test_tables_are_limited(cluster, monkeypatch):
    monkeypatch.setattr(task_stats, "FUNCTIONS_MAX", 3)
    monkeypatch.setattr(task_stats, "ERRORS_MAX", 2)
    worker = cluster.executor()
    for name in ("a", "b", "c", "a", "d"):
        cluster.ran(worker, name)
        cluster.failed(worker, name, "E: x")
    stats = cluster.machine.tasks.stats
    assert [name for name, _ in stats.functions] == ["c", "a", "d"], "who was used last stays"
    assert len(stats.errors) == 2
    assert (stats.finished, stats.failed) == (5, 5)


def test_methods_of_an_actor_are_counted_by_actor(cluster):
    one, executor = cluster.actor_up()
    two, other = cluster.actor_up()
    cluster.ran(executor, "Counter.add", 5, actor_id=one)
    cluster.ran(other, "Counter.add", 7, actor_id=two)
    stats = cluster.machine.tasks.stats
    assert stats.of_actor(one)["Counter.add"].finished == 5
    assert stats.of_actor(two)["Counter.add"].finished == 7
    assert stats.functions["Counter.add", "ACTOR_TASK"].finished == 12


def test_forgotten_calls_leave_when_they_were_and_how_many(cluster):
    worker = cluster.executor()
    for _ in range(11):
        cluster.ran(worker, "f", 1000, took=0.001)
    tasks = cluster.machine.tasks
    assert sum(part.count for part in tasks.stats.parts) == tasks.forgotten > 0
    part = tasks.stats.parts[0]
    assert part.end - part.start == pytest.approx(0.001 * part.count)


def test_story_of_an_actor_tells_its_transitions_with_times_and_causes(cluster):
    actor_id, executor = cluster.actor_up()
    actor = cluster.machine.actors.table[actor_id]
    node_id = actor.body.node.node_id
    cluster.wait(5)
    cause = m.ExitCause("crashed", "signal 9")
    sent = cluster.say(m.ProcessExited(node_id, executor, cause))
    [again] = [c for c in sent if isinstance(c.message, m.StartActor)]
    cluster.up(again.node_id, actor_id, again.message.incarnation)
    cluster.wait(5)
    cluster.say(m.ActorKillWanted(1, actor_id, True))
    states = [(round(at - actor.created_at), state) for at, state, _ in actor.story]
    assert states == [
        (0, "PENDING_CREATION"),
        (0, "PENDING_CREATION"),
        (0, "ALIVE"),
        (5, "RESTARTING"),
        (5, "RESTARTING"),
        (5, "ALIVE"),
        (10, "DEAD"),
    ]
    texts = [what for _, _, what in actor.story]
    assert texts[3] == "restart 1 (crashed: signal 9)"
    assert texts[-1] == "killed"


def test_long_story_keeps_its_beginning_and_its_end(cluster):
    actor_id, _ = cluster.actor_up()
    actor = cluster.machine.actors.table[actor_id]
    for i in range(200):
        actor.tell(1000.0 + i, f"chapter {i}")
    texts = [what for _, _, what in actor.story]
    assert len(texts) == 60
    assert texts[0] == "created"
    assert texts[-1] == "chapter 199"


def test_mailbox_is_the_sum_over_callers_and_goes_with_them(cluster):
    mailboxes = cluster.machine.mailboxes
    actor_id, _ = cluster.actor_up()
    caller = cluster.executor()
    cluster.say(m.CallsWaiting(1, {actor_id: 3}))
    cluster.say(m.CallsWaiting(caller, {actor_id: 4, b"x" * 16: 1}))
    assert mailboxes.of(actor_id) == 7
    cluster.say(m.CallsWaiting(1, {actor_id: 0}))
    assert mailboxes.of(actor_id) == 4
    cluster.say(m.ProcessExited(cluster.ids[0], caller, m.ExitCause("crashed")))
    assert mailboxes.of(actor_id) == 0
    assert not mailboxes.by_actor
    assert not mailboxes.by_caller
    cluster.machine.check()


def test_sums_can_be_written_down_and_read_again(cluster):
    """The machine's state is kept across restarts of the scheduler."""
    worker = cluster.executor()
    cluster.ran(worker, "f", 10)
    cluster.failed(worker, "f", "ValueError: x")
    again = pickle.loads(pickle.dumps(cluster.machine.tasks.stats))
    assert again.functions["f", "NORMAL_TASK"].finished == 10
    assert list(again.errors) == list(cluster.machine.tasks.stats.errors)
