"""The exceptions: their tree, their names, and that they arrive as they were sent."""

import copy
import inspect
import pickle
import signal
import subprocess
import sys

import cloudpickle
import pytest

from ract.core import errors, naming
from ract.core.errors import (
    ActorDiedError,
    ActorUnschedulableError,
    OutOfMemoryError,
    RactActorError,
    RactError,
    RactSystemError,
    RactTaskError,
    TaskUnschedulableError,
    WorkerCrashedError,
    error_by_name,
    error_from_exit,
    reason_text,
)
from ract.core.messages import ExitCause

KINDS = [
    kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type)
    and issubclass(kind, BaseException)
    and not name.startswith("Ray")
    and kind.__module__.startswith("ract.")
]

TREE = {
    "TaskCancelledError": "RactError",
    "RactTaskError": "RactError",
    "LocalRayletDiedError": "RactError",
    "LeftClusterError": "RactError RuntimeError",
    "WorkerCrashedError": "RactError",
    "RactActorError": "RactError",
    "ActorDiedError": "RactActorError",
    "ActorUnavailableError": "RactActorError",
    "RactSystemError": "RactError",
    "RactChannelError": "RactSystemError",
    "RactChannelTimeoutError": "RactChannelError TimeoutError",
    "RactCgraphCapacityExceeded": "RactSystemError",
    "RactDirectTransportError": "RactSystemError",
    "StreamingGeneratorReplayInconsistentError": "RactSystemError",
    "UserCodeException": "RactError",
    "ObjectStoreFullError": "RactError",
    "OutOfDiskError": "RactError",
    "OutOfMemoryError": "RactError",
    "NodeDiedError": "RactError",
    "ObjectLostError": "RactError",
    "ObjectFetchTimedOutError": "ObjectLostError",
    "ReferenceCountingAssertionError": "ObjectLostError AssertionError",
    "ObjectFreedError": "ObjectLostError",
    "OwnerDiedError": "ObjectLostError",
    "ObjectReconstructionFailedError": "ObjectLostError",
    "ObjectReconstructionFailedMaxAttemptsExceededError": "ObjectReconstructionFailedError",
    "ObjectReconstructionFailedLineageEvictedError": "ObjectReconstructionFailedError",
    "RpcError": "RactError",
    "GetTimeoutError": "RactError TimeoutError",
    "PlasmaObjectNotAvailable": "RactError",
    "DurableStateError": "RactError",
    "AsyncioActorExit": "RactError",
    "RuntimeEnvSetupError": "RactError",
    "TaskPlacementGroupRemoved": "RactError",
    "ActorPlacementGroupRemoved": "RactError",
    "TaskKilledWithPlacementGroup": "TaskPlacementGroupRemoved WorkerCrashedError",
    "ActorKilledWithPlacementGroup": "ActorPlacementGroupRemoved ActorDiedError",
    "PendingCallsLimitExceeded": "RactError",
    "MailboxFullError": "PendingCallsLimitExceeded",
    "TaskTimeoutError": "RactError TimeoutError",
    "TaskUnschedulableError": "RactError",
    "ActorUnschedulableError": "RactError",
    "ObjectRefStreamEndOfStreamError": "RactError",
    "OufOfBandObjectRefSerializationException": "RactError",
    "AuthenticationError": "RactError",
    "SchedulerAwayError": "RactError ConnectionError",
    "JournalError": "RactError",
    "UnserializableException": "RactError",
    "ActorAlreadyExistsError": "RactError ValueError",
    "ActorHandleNotFoundError": "RactError ValueError",
    "CrossLanguageError": "RactError",
    "ActorClassInheritanceException": "TypeError",
    "BadDecoratorError": "TypeError AssertionError",
    "BadMethodError": "ValueError AssertionError",
}


def test_the_tree_has_no_other_branches():
    assert {kind.__name__ for kind in KINDS} == {*TREE, "RactError"}


@pytest.mark.parametrize("name", TREE)
def test_every_error_is_what_its_name_promises(name):
    kind = getattr(errors, name)
    for base in TREE[name].split():
        assert issubclass(kind, getattr(errors, base, None) or getattr(errors.builtins, base))
    assert kind.__name__ == name
    assert kind.__doc__


@pytest.mark.parametrize("name", [n for n in vars(errors) if n.startswith("Ray")])
def test_rays_names_are_the_same_classes(name):
    assert getattr(errors, name) is getattr(errors, name.replace("Ray", "Ract", 1))


def test_every_class_of_ract_has_rays_name_and_all_are_exported():
    ours = [kind.__name__ for kind in KINDS if kind.__name__.startswith("Ract")]
    assert len(ours) == 8
    for name in ours:
        assert getattr(errors, name.replace("Ract", "Ray", 1)) is getattr(errors, name)
        assert name.replace("Ract", "Ray", 1) in errors.__all__
    assert {kind.__name__ for kind in KINDS} <= set(errors.__all__)
    assert all(hasattr(errors, name) for name in errors.__all__)
    assert not {"ExitCause", "Any", "BaseException"} & set(errors.__all__)


def test_the_list_of_types_has_every_error_once():
    assert errors.RAY_EXCEPTION_TYPES is errors.RACT_EXCEPTION_TYPES
    listed = errors.RACT_EXCEPTION_TYPES
    assert len(listed) == len(set(listed))
    assert set(listed) == {kind for kind in KINDS if issubclass(kind, RactError)}


# --------------------------------------------------------------------------- pickling


def made(kind):
    """The error with a value of its own for every parameter of its constructor."""
    if not inspect.isfunction(kind.__init__):  # that of a builtin exception
        return kind("a message")
    parameters = inspect.signature(kind).parameters.values()
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters)
    values = {p.name: f"the {p.name}" for p in parameters if p.kind is not p.VAR_POSITIONAL}
    return kind(**values) if values else kind("a message")


def bare(kind):
    return kind("f", "Traceback", ValueError("x")) if kind is errors.RactTaskError else kind()


def comparable(error):
    return {name: repr(value) for name, value in vars(error).items()}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("make", [made, bare])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_keeps_type_message_and_attributes_through_pickle(kind, make, protocol):
    error = make(kind)
    same = pickle.loads(pickle.dumps(error, protocol))
    assert type(same) is type(error)
    assert str(same) == str(error)
    assert repr(same) == repr(error)
    assert repr(same.args) == repr(error.args)
    assert comparable(same) == comparable(error)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_goes_through_cloudpickle_copies_and_a_second_pickle(kind):
    error = made(kind)
    again = pickle.loads(pickle.dumps(pickle.loads(cloudpickle.dumps(error))))
    for same in (again, copy.copy(error), copy.deepcopy(error)):
        assert type(same) is kind
        assert str(same) == str(error)
        assert comparable(same) == comparable(error)


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if issubclass(k, RactError)], ids=lambda kind: kind.__name__
)
def test_every_error_goes_round_through_bytes(kind):
    error = made(kind)
    data = error.to_bytes()
    assert isinstance(data, bytes)
    for same in (kind.from_bytes(data), RactError.from_bytes(data)):
        assert type(same) is kind
        assert str(same) == str(error)


def test_notes_and_attributes_set_later_travel_too():
    error = errors.NodeDiedError("gone")
    error.add_note("look at the rack")
    error.rack = 7
    same = pickle.loads(pickle.dumps(error))
    assert same.__notes__ == ["look at the rack"]
    assert same.rack == 7


@pytest.mark.parametrize("first", ["task_error", "errors", "messages", "options"])
def test_every_module_can_be_imported_first(first):
    """Without ract/__init__, whose imports come in an order that may change."""
    script = (
        "import sys, types\n"
        f"package = types.ModuleType('ract'); package.__path__ = {list(_package_path())!r}\n"
        "sys.modules['ract'] = package\n"
        f"import ract.core.{first}\n"
        "from ract.core.errors import RactTaskError, RayTaskError\n"
        "assert RactTaskError is RayTaskError"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""


def _package_path():
    import ract

    return ract.__path__


# --------------------------------------------------------------------------- messages


def test_actor_errors_say_which_actor_and_why():
    error = ActorDiedError("The actor C died: it was killed", b"\x01" * 16)
    assert error.actor_id == "01" * 16
    assert str(error) == error.error_msg == "The actor C died: it was killed"
    assert not error.actor_init_failed
    assert str(ActorDiedError()) == "The actor died unexpectedly before finishing this task."
    plain = RactActorError("ab", "text", True, True)
    assert (plain.actor_id, str(plain), plain.actor_init_failed, plain.preempted) == (
        "ab",
        "text",
        True,
        True,
    )
    assert "error before finishing" in str(RactActorError())


def test_a_constructors_error_is_in_the_message_of_the_actors_death():
    cause = errors.RactTaskError(
        "C.__init__", "Traceback ...\nValueError: no", ValueError("no"), actor_id="cd"
    )
    error = ActorDiedError(cause)
    assert error.actor_init_failed
    assert error.cause is cause
    assert error.actor_id == "cd"
    assert "creation task" in str(error)
    assert "ValueError: no" in str(error)
    same = pickle.loads(pickle.dumps(error))
    assert same.actor_init_failed
    assert isinstance(same.cause.cause, ValueError)


def test_lost_objects_are_named_with_the_reason():
    error = errors.ObjectLostError("ab" * 28, "owner", "made in f()")
    assert "ab" * 28 in str(error)
    assert "all copies" in str(error)
    assert "made in f()" in str(error)
    assert (error.object_ref_hex, error.owner_address, error.call_site) == (
        "ab" * 28,
        "owner",
        "made in f()",
    )
    texts = {
        str(kind("ab"))
        for kind in (
            errors.ObjectLostError,
            errors.ObjectFetchTimedOutError,
            errors.ReferenceCountingAssertionError,
            errors.ObjectFreedError,
            errors.OwnerDiedError,
            errors.ObjectReconstructionFailedError,
        )
    }
    assert len(texts) == 6
    assert "because" in str(
        errors.ObjectReconstructionFailedError("ab", reason_message="because of that")
    )


@pytest.mark.parametrize(
    "cause",
    [
        MemoryError("no more"),
        OSError(2, "nothing there"),
        KeyError("k"),
        StopIteration(3),
        RecursionError("too deep"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ExceptionGroup("several", [ValueError(1)]),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_builtin_errors_of_a_task_are_raised_as_both(cause):
    error = RactTaskError("f", "Traceback", cause).as_instanceof_cause()
    assert isinstance(error, RactTaskError)
    assert isinstance(error, type(cause))
    assert error.args == cause.args


def test_cancelled_tasks_are_named():
    assert str(errors.TaskCancelledError("ab")) == "Task ab was cancelled"
    assert str(errors.TaskCancelledError()) == "This task or its dependency was cancelled"
    assert str(errors.TaskCancelledError("ab", "stopped")) == "stopped"


def test_timeouts_are_caught_as_timeouts():
    with pytest.raises(TimeoutError, match="not in time"):
        raise errors.GetTimeoutError("not in time")
    with pytest.raises(TimeoutError, match="channel"):
        raise errors.RactChannelTimeoutError("channel")


# --------------------------------------------------------------------------- from exit causes

CRASH = ExitCause("crashed", "", None, 9, "the tail", b"\xab" * 28, 123, 1.0)


def test_a_crash_is_told_with_signal_process_node_and_stderr():
    text = reason_text(CRASH)
    for part in ("pid 123", "signal 9 SIGKILL", "node abababab", "the tail", "at 19"):
        assert part in text
    assert "exit code 3" in reason_text(ExitCause("crashed", exit_code=3))
    assert "signal 255" in reason_text(ExitCause("crashed", signal=255))
    assert signal.SIGKILL == 9


@pytest.mark.parametrize(
    "kind",
    [
        "crashed",
        "exited",
        "killed",
        "out_of_scope",
        "owner_died",
        "node_died",
        "node_left",
        "job_finished",
        "init_failed",
        "out_of_memory",
        "idle",
        "max_calls",
        "unschedulable",
        "shutdown",
    ],
)
def test_every_kind_of_exit_has_words(kind):
    text = reason_text(ExitCause(kind, "the detail"))
    assert "_" not in text
    assert "the detail" in text
    assert text != kind


def test_a_ported_program_reads_that_its_actor_was_killed_by_ray_kill(monkeypatch):
    assert "killed by `ract.kill`" in reason_text(ExitCause("killed"))
    monkeypatch.setattr(naming, "program", "ray")
    assert "killed by `ray.kill`" in reason_text(ExitCause("killed"))


def test_an_exit_that_was_asked_for_shows_no_stderr():
    assert "tail" not in reason_text(ExitCause("killed", stderr_tail="tail"))
    assert "exit_actor()" in reason_text(ExitCause("exited"))


@pytest.mark.parametrize(
    ("kind", "for_task", "for_actor"),
    [
        ("crashed", WorkerCrashedError, ActorDiedError),
        ("killed", WorkerCrashedError, ActorDiedError),
        ("node_died", WorkerCrashedError, ActorDiedError),
        ("out_of_memory", OutOfMemoryError, ActorDiedError),
        ("unschedulable", TaskUnschedulableError, ActorUnschedulableError),
    ],
)
def test_exits_become_errors_of_tasks_and_actors(kind, for_task, for_actor):
    cause = ExitCause(kind, "the detail")
    task = error_from_exit(cause, what="Task f")
    actor = error_from_exit(cause, what="C.m", actor_id=b"\x01" * 16, class_name="C")
    assert (type(task), type(actor)) == (for_task, for_actor)
    assert "Task f" in str(task)
    assert f"C({'01' * 16})" in str(actor)
    assert "the detail" in str(task)
    assert "the detail" in str(actor)
    assert getattr(actor, "actor_id", "01" * 16) == "01" * 16
    for error in (task, actor):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


# --------------------------------------------------------------------------- from names


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k is not errors.RactTaskError], ids=lambda kind: kind.__name__
)
def test_every_error_can_be_named_by_a_message_and_tells_the_detail(kind):
    error = error_by_name(kind.__name__, "what happened there")
    assert "what happened there" in str(error)
    assert type(error) is kind
    assert getattr(error, "actor_id", None) is None
    assert getattr(error, "task_id", None) is None
    assert getattr(error, "object_ref_hex", "") == ""
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("name", ["ValueError", "TypeError", "RuntimeError", "KeyError"])
def test_a_few_builtin_errors_can_be_named(name):
    error = error_by_name(name, "detail")
    assert type(error).__name__ == name
    assert error.args == ("detail",)


@pytest.mark.parametrize(
    "name",
    ["", "SystemExit", "KeyboardInterrupt", "eval", "builtins", "Any", "pickle", "RactTaskError"],
)
def test_no_other_name_is_called(name):
    error = error_by_name(name, "detail")
    assert type(error) is RactSystemError
    assert f"{name}: detail" in str(error)
