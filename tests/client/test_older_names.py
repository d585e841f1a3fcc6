"""Names and arguments of older programs, and what they are warned of."""

import logging

import pytest

import ract
from ract.exceptions import RactTaskError
from ract.testing import wait_for_condition


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@ract.remote
def echo(value):
    return value


@ract.remote
def fail():
    raise KeyError("nobody looks")


def test_wait_takes_its_arguments_by_position_and_in_milliseconds():
    refs = [ract.put(i) for i in range(3)]
    with pytest.warns(DeprecationWarning, match="by name"):
        assert ract.wait(refs, 2) == (refs[:2], refs[2:])
    with pytest.warns(UserWarning, match="seconds"), pytest.warns(DeprecationWarning, match="name"):
        assert ract.wait(refs, 1, 1000) == (refs[:1], refs[1:])
    assert ract.wait(refs, timeout_ms=10) == (refs[:1], refs[1:])
    with pytest.raises(ValueError, match="not both"):
        ract.wait(refs, timeout=1, timeout_ms=1)
    with pytest.raises(TypeError, match="positional"):
        ract.wait(refs, 1, 1, 1)


def test_worker_is_accepted_and_does_nothing():
    with pytest.warns(DeprecationWarning, match="worker="):
        ref = ract.put(1, worker=object())
    with pytest.warns(DeprecationWarning, match="worker="):
        assert ract.get(ref, worker=object()) == 1
    with pytest.warns(DeprecationWarning, match="worker="):
        assert ract.wait([ref], worker=object()) == ([ref], [])


def test_older_properties_of_the_runtime_context_warn():
    context = ract.get_runtime_context()
    with pytest.warns(DeprecationWarning, match="get_job_id"):
        assert context.job_id.hex() == context.get_job_id()
    with pytest.warns(DeprecationWarning, match="get_node_id"):
        assert context.node_id.hex() == context.get_node_id()
    for name in ("task_id", "actor_id", "current_placement_group_id"):
        with pytest.warns(DeprecationWarning, match=f"get_{name.removeprefix('current_')}"):
            assert getattr(context, name) is None
    with pytest.warns(DeprecationWarning, match="get_"):
        assert context.get()["job_id"].hex() == context.get_job_id()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_older_dict_of_the_runtime_context_has_the_ids_that_there_are():
    class Who:
        def get(self):
            return ract.get_runtime_context().get()

    actor = ract.remote(Who).remote()
    ref = actor.get.remote()
    found = ract.get(ref)
    assert found["actor_id"] == actor._actor_id
    assert found["task_id"] == ref.task_id()
    in_a_task = ract.get(ract.remote(lambda: ract.get_runtime_context().get()).remote())
    assert set(in_a_task) == {"job_id", "node_id", "namespace", "task_id"}
    assert set(ract.get_runtime_context().get()) == {"job_id", "node_id", "namespace"}


def test_an_error_that_nobody_reads_is_said(caplog, monkeypatch):
    monkeypatch.delenv("RACT_IGNORE_UNHANDLED_ERRORS", raising=False)
    with caplog.at_level(logging.ERROR):
        ref = fail.remote()
        ract.wait([ref])
        del ref
        wait_for_condition(lambda: "Unhandled error (suppress with" in caplog.text)
    assert "RACT_IGNORE_UNHANDLED_ERRORS=1" in caplog.text
    assert "nobody looks" in caplog.text
    assert any("nobody looks" in each["message"] for each in ract.error_info())


def test_an_error_that_was_read_is_not_said_again(caplog):
    with caplog.at_level(logging.ERROR):
        ref = fail.remote()
        with pytest.raises(KeyError):
            ract.get(ref)
        del ref
        other = fail.remote()
        ract.wait([other])
        del other  # after this one has been said, the first would have been
        wait_for_condition(lambda: "Unhandled error" in caplog.text)
    assert caplog.text.count("Unhandled error") == 1


def test_a_failed_argument_is_named_and_the_root_error_stays_the_cause():
    with pytest.raises(KeyError, match="input arguments for this task could not") as info:
        ract.get(echo.remote(echo.remote(fail.remote())))
    assert isinstance(info.value, RactTaskError)
    assert type(info.value.cause) is KeyError
    assert "nobody looks" in str(info.value)


def test_constants_and_modules_are_where_programs_look_for_them():
    from ract.compat.ported import remote_function, runtime_context

    assert (ract.SCRIPT_MODE, ract.WORKER_MODE, ract.LOCAL_MODE) == (0, 1, 2)
    assert ract.get in ract.AUTO_INIT_APIS
    assert ract.nodes in ract.NON_AUTO_INIT_APIS
    assert ract.cloudpickle.loads(ract.cloudpickle.dumps(lambda: 3))() == 3
    assert isinstance(echo, remote_function.RemoteFunction)
    assert isinstance(ract.get_runtime_context(), runtime_context.RuntimeContext)


def test_is_canceled_is_not_for_coroutines():
    @ract.remote
    class Async:
        async def ask(self):
            return ract.get_runtime_context().is_canceled()

    with pytest.raises(RuntimeError, match="CancelledError"):
        ract.get(Async.remote().ask.remote())


def test_job_config_is_checked_and_gives_actors_their_lifetime(tmp_path):
    import subprocess
    import sys

    from ract.compat.ported.job_config import JobConfig

    with pytest.raises(ValueError, match="detached"):
        JobConfig(default_actor_lifetime="forever")
    code = """
import ract
from ract.compat.ported.job_config import JobConfig
from ract.testing import Cluster

cluster = Cluster(initialize_head=True)
config = JobConfig(ray_namespace="here", default_actor_lifetime="detached")
ract.init(address=cluster.address, job_config=config)

@ract.remote(name="kept")
class Kept:
    def ping(self):
        return ract.get_runtime_context().namespace

print(ract.get(Kept.remote().ping.remote()))
ract.shutdown()
ract.init(address=cluster.address, namespace="here")
print(ract.get(ract.get_actor("kept").ping.remote()))
ract.shutdown()
cluster.shutdown()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["here", "here"], done.stderr


def test_arguments_of_init_of_older_programs():
    import subprocess
    import sys

    code = """
import ract, warnings
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    ract.init(num_cpus=1, num_workers=3, redirect_output=True, driver_mode=3)
print(sorted(str(each.message).split("(")[1].split("=")[0] for each in found))
ract.shutdown()
try:
    ract.init(driver_mode=7)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "['driver_mode', 'num_workers', 'redirect_output']",
        "driver_mode=7 is not one of [0, 1, 2, 3]",
    ], done.stderr


def test_what_is_missing_in_a_traceback_comes_from_where_the_code_is(monkeypatch):
    """An executor does not have the cells of a notebook; its driver has."""
    import linecache

    source = "def cell():\n    raise KeyError('in a cell')\n"
    monkeypatch.setitem(
        linecache.cache, "<cell 7>", (len(source), None, source.splitlines(True), "")
    )
    names = {"__name__": "__main__"}
    exec(compile(source, "<cell 7>", "exec"), names)
    with pytest.raises(KeyError, match="raise KeyError") as info:
        ract.get(ract.remote(names["cell"]).remote())
    lines = str(info.value).splitlines()
    at = next(i for i, line in enumerate(lines) if "<cell 7>" in line)
    assert lines[at + 1].strip() == "raise KeyError('in a cell')"


def test_a_failed_argument_whose_error_was_read_is_not_said_to_be_unread(caplog):
    with caplog.at_level(logging.ERROR):
        for _ in range(20):
            with pytest.raises(KeyError):
                ract.get(echo.remote(fail.remote()))
        other = fail.options(name="the last one").remote()
        ract.wait([other])
        del other
        wait_for_condition(lambda: "Unhandled error" in caplog.text)
    assert caplog.text.count("Unhandled error") == 1


def test_a_blocking_get_in_a_coroutine_warns(capfd):
    @ract.remote
    class Async:
        async def ask(self):

            return ract.get(slow.remote())

    @ract.remote
    def slow():
        import time

        time.sleep(0.05)
        return 1

    assert ract.get(Async.remote().ask.remote()) == 1
    printed = []

    def warned():
        printed.append(capfd.readouterr().err)
        return "blocking ract.get inside an async actor" in "".join(printed)

    wait_for_condition(warned)
