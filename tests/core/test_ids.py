"""Ids: sizes, conversions, how they nest, and that none is made twice."""

import pickle

import pytest

from ract.core import ids
from ract.core.ids import (
    ActorClassID,
    ActorID,
    BaseID,
    ClusterID,
    FunctionID,
    JobID,
    NodeID,
    PlacementGroupID,
    TaskID,
    UniqueID,
    WorkerID,
)

SIZES = {
    JobID: 4,
    ActorID: 16,
    PlacementGroupID: 18,
    TaskID: 24,
    UniqueID: 28,
    NodeID: 28,
    WorkerID: 28,
    FunctionID: 28,
    ActorClassID: 28,
    ClusterID: 28,
}
KINDS = pytest.mark.parametrize("kind", SIZES, ids=lambda kind: kind.__name__)
RANDOM = [kind for kind in SIZES if kind not in (JobID, TaskID)]

JOB = JobID.from_int(7)


def some(kind):
    return kind(bytes(range(SIZES[kind])))


@KINDS
def test_an_id_has_its_size(kind):
    assert kind.size() == SIZES[kind] == len(some(kind).binary())


@KINDS
def test_an_id_goes_round_through_bytes_hex_and_pickle(kind):
    made = some(kind)
    for same in (
        kind.from_binary(made.binary()),
        kind.from_hex(made.hex()),
        kind(bytearray(made.binary())),
        pickle.loads(pickle.dumps(made)),
    ):
        assert type(same) is kind
        assert same == made
        assert hash(same) == hash(made)
    assert made.hex() == made.binary().hex()
    assert repr(made) == f"{kind.__name__}({made.hex()})"


@KINDS
def test_the_nil_id_is_all_ones_and_says_so(kind):
    assert kind.nil().is_nil()
    assert kind.nil().binary() == b"\xff" * SIZES[kind]
    assert not some(kind).is_nil()


@KINDS
@pytest.mark.parametrize("change", [-1, 1])
def test_bytes_of_another_size_are_refused(kind, change):
    with pytest.raises(ValueError, match=f"{kind.__name__} has {SIZES[kind]} bytes"):
        kind(bytes(SIZES[kind] + change))


@pytest.mark.parametrize("value", ["0" * 56, 5, None, memoryview(bytes(28))])
def test_what_is_not_bytes_is_refused(value):
    with pytest.raises(TypeError, match="made from bytes"):
        NodeID(value)


def test_bad_hex_digits_are_refused():
    with pytest.raises(ValueError):
        JobID.from_hex("nothex!!")


def test_ids_of_two_kinds_differ_though_their_bytes_are_equal():
    assert NodeID(bytes(28)) != WorkerID(bytes(28))
    assert NodeID(bytes(28)) != bytes(28)
    assert len({NodeID(bytes(28)), WorkerID(bytes(28)), NodeID(bytes(28))}) == 2


@pytest.mark.parametrize("kind", RANDOM, ids=lambda kind: kind.__name__)
def test_random_ids_differ(kind):
    made = {kind.from_random() for _ in range(100)}
    assert len(made) == 100
    assert {type(one) for one in made} == {kind}


@pytest.mark.parametrize("kind", [JobID, TaskID, BaseID])
def test_jobs_and_tasks_are_not_random(kind):
    assert not hasattr(kind, "from_random")


# --------------------------------------------------------------------------- nesting


@pytest.mark.parametrize("number", [0, 1, 255, 256, 2**32 - 1])
def test_a_job_id_is_a_number(number):
    assert JobID.from_int(number).int() == number


@pytest.mark.parametrize("number", [-1, 2**32])
def test_a_job_number_outside_32_bits_is_refused(number):
    with pytest.raises(OverflowError):
        JobID.from_int(number)


def test_job_ids_sort_as_their_numbers_in_hex():
    numbers = [0, 1, 9, 10, 255, 256, 70_000]
    assert sorted(JobID.from_int(n).hex() for n in numbers) == [
        JobID.from_int(n).hex() for n in numbers
    ]


def test_tasks_actors_and_groups_know_their_job():
    driver = TaskID.for_driver_task(JOB)
    actor = ActorID.of(JOB, driver, 3)
    assert driver.job_id() == JOB
    assert actor.job_id == JOB
    assert TaskID.for_normal_task(JOB, driver, 1).job_id() == JOB
    assert TaskID.for_fake_task(JOB).job_id() == JOB
    assert TaskID.for_actor_task(JOB, driver, 1, actor).job_id() == JOB
    assert TaskID.for_actor_creation_task(actor).job_id() == JOB
    assert PlacementGroupID.of(JOB).binary()[14:] == JOB.binary()


def test_actor_tasks_know_their_actor_and_normal_tasks_have_none():
    driver = TaskID.for_driver_task(JOB)
    actor = ActorID.of(JOB, driver, 3)
    assert TaskID.for_actor_task(JOB, driver, 1, actor).actor_id() == actor
    assert TaskID.for_actor_creation_task(actor).actor_id() == actor
    normal = TaskID.for_normal_task(JOB, driver, 1).actor_id()
    assert normal.binary() == b"\xff" * 12 + JOB.binary()


def test_derived_ids_are_the_same_every_time():
    driver = TaskID.for_driver_task(JOB)
    assert TaskID.for_normal_task(JOB, driver, 5) == TaskID.for_normal_task(JOB, driver, 5)
    assert ActorID.of(JOB, driver, 5) == ActorID.of(JOB, driver, 5)


def test_derived_ids_differ_for_neighbouring_parents_and_counters():
    parents = [
        TaskID(ids.task_id_bytes(process << 36 | n, JOB.binary()))
        for process in (1, 2)
        for n in range(20)
    ]
    tasks = {TaskID.for_normal_task(JOB, p, n) for p in parents for n in range(100)}
    actors = {ActorID.of(JOB, p, n) for p in parents for n in range(100)}
    assert len(tasks) == len(actors) == 4000


def test_grandchildren_differ_from_children():
    driver = TaskID.for_driver_task(JOB)
    children = [TaskID.for_normal_task(JOB, driver, n) for n in range(60)]
    grandchildren = [TaskID.for_normal_task(JOB, c, n) for c in children for n in range(60)]
    assert len({*children, *grandchildren}) == 60 + 3600


def test_groups_of_a_job_differ():
    assert PlacementGroupID.of(JOB) != PlacementGroupID.of(JOB)


# --------------------------------------------------------------------------- raw helpers


@pytest.mark.parametrize("number", [0, 1, 2**36 + 5, 2**64 - 1])
def test_raw_ids_nest_as_the_classes_do(number):
    job = JOB.binary()
    actor = ids.actor_id_bytes(number, job)
    task, call = ids.task_id_bytes(number, job), ids.task_id_bytes(number, job, actor)
    assert ActorID(actor).job_id == TaskID(task).job_id() == TaskID(call).job_id() == JOB
    assert TaskID(call).actor_id() == ActorID(actor)
    assert TaskID(task).actor_id().binary()[:12] == b"\xff" * 12
    assert ids.task_number(task) == ids.task_number(call) == number
    first, second = ids.object_id_bytes(task, 0), ids.object_id_bytes(task, 2**32 - 1)
    assert len(first) == len(second) == 28
    assert first != second
    assert ids.task_number(first) == ids.task_number(second) == number
    assert first[:24] == task


def test_process_ids_differ_by_process():
    numbers = (0, 1, 2**28 - 1)
    made = [ids.worker_id_bytes(number) for number in numbers]
    assert len(set(made)) == 3
    assert {len(one) for one in made} == {28}
    assert tuple(map(ids.process_of_worker, made)) == numbers
