"""The small helpers of `ract.util`: marks, serializers, diagnosis, names, addresses."""

import copyreg
import io
import re
import socket
import subprocess
import sys
import threading
import warnings

import pytest

import ract
from ract import testing, util
from ract.util import annotations, debug, network
from ract.util.annotations import Deprecated, DeveloperAPI, PublicAPI, RayDeprecationWarning
from ract.util.check_serialize import FailureTuple

LOCK = threading.Lock()


@pytest.fixture
def cluster(ract_module):
    return ract_module


# --------------------------------------------------------------------------- the package


def test_everything_that_is_listed_is_there():
    for name in util.__all__:
        assert getattr(util, name) is not None
    assert set(util.__all__) <= set(dir(util))
    with pytest.raises(AttributeError, match="nothing_like_this"):
        util.nothing_like_this


def test_importing_it_imports_nothing_else():
    script = "import sys, ract.util; print(*(m for m in sys.modules if m.startswith('ract.')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"ract.core", "ract.core.version", "ract.util"}


def test_progress_is_the_function_in_every_order_of_imports():
    script = "import ract.util.progress_bar, ract.util; print(callable(ract.util.progress))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/")
    assert done.stdout.split() == ["True"], done.stderr


def test_placement_group_is_the_function_in_every_order_of_imports():
    script = "import ract.util.placement_group as g, ract.util; print(g.__code__.co_name)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/")
    assert done.stdout.split() == ["placement_group"], done.stderr
    script = "from ract.util import placement_group; print(placement_group.__code__.co_name)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/")
    assert done.stdout.split() == ["placement_group"], done.stderr


# --------------------------------------------------------------------------- log_once


@pytest.fixture
def fresh_log_once(monkeypatch):
    monkeypatch.setattr(debug, "_last_logged", {})
    monkeypatch.setattr(debug, "_is_disabled", False)
    monkeypatch.setattr(debug, "_is_periodic", False)


@pytest.mark.usefixtures("fresh_log_once")
def test_log_once_is_true_the_first_time_only():
    assert [util.log_once("a"), util.log_once("a"), util.log_once("b")] == [True, False, True]


@pytest.mark.usefixtures("fresh_log_once")
def test_log_once_can_be_reset_for_one_key_or_all():
    util.log_once("a"), util.log_once("b")
    debug.reset_log_once("a")
    debug.reset_log_once("never asked for")
    assert [util.log_once("a"), util.log_once("b")] == [True, False]
    debug.reset_log_once()
    assert [util.log_once("a"), util.log_once("b")] == [True, True]


@pytest.mark.usefixtures("fresh_log_once")
def test_log_once_can_be_disabled():
    util.disable_log_once_globally()
    assert not util.log_once("a")


@pytest.mark.usefixtures("fresh_log_once")
def test_log_once_can_be_periodic(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(debug.time, "monotonic", lambda: now)
    util.enable_periodic_logging()
    assert util.log_once("a")
    now += debug.PERIOD_S
    assert not util.log_once("a")
    now += 1
    assert util.log_once("a")
    assert not util.log_once("a")


# --------------------------------------------------------------------------- annotations


def test_marks_are_used_bare_or_with_arguments():
    @PublicAPI
    def stable():
        """Doc."""
        return 1

    @PublicAPI(stability="beta", api_group="Group")
    def beta():
        """Doc."""

    @DeveloperAPI
    def developer():
        pass

    @DeveloperAPI()
    class Developer:
        """Doc."""

    assert stable() == 1
    assert stable.__doc__ == "Doc."
    assert beta.__doc__.startswith("Doc.\n\n**PublicAPI (beta):**")
    assert "DeveloperAPI" in developer.__doc__
    assert "DeveloperAPI" in Developer.__doc__
    kinds = annotations.AnnotationType
    assert stable._annotated_type is beta._annotated_type is kinds.PUBLIC_API
    assert (beta._annotated, beta._annotated_api_group) == ("beta", "Group")
    assert developer._annotated_type is Developer._annotated_type is kinds.DEVELOPER_API
    with pytest.raises(ValueError, match="weird"):
        PublicAPI(stability="weird")
    with pytest.raises(TypeError, match="by name"):
        PublicAPI("beta")


def test_deprecated_tells_in_the_docstring_and_warns_only_if_asked():
    @Deprecated
    def quiet(x):
        """Doc."""
        return x

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert quiet(3) == 3
    assert quiet.__doc__.startswith("Doc.\n\n.. warning::\n\n    **DEPRECATED**")
    assert quiet._annotated_type is annotations.AnnotationType.DEPRECATED


def test_deprecated_function_warns_at_every_call_where_it_is_called():
    @Deprecated(message="Use that.", warning=True)
    def loud(x):
        """Doc."""
        return x

    for _ in range(2):
        with pytest.warns(RayDeprecationWarning, match="Use that") as caught:
            assert loud(3) == 3
        assert caught[0].filename == __file__
    assert "Use that." in loud.__doc__
    assert loud.__name__ == "loud"


def test_deprecated_class_stays_the_same_class():
    class Old:
        def __init__(self, x):
            self.x = x

    marked = Deprecated(message="Use New.", warning=True)(Old)
    assert marked is Old
    with pytest.warns(RayDeprecationWarning, match="Use New"):
        assert marked(2).x == 2


def test_deprecation_warnings_are_shown_by_default():
    assert issubclass(RayDeprecationWarning, DeprecationWarning)
    script = (
        "from ract.util.annotations import Deprecated\n"
        "import types\n"
        "module = types.ModuleType('library')\n"
        "exec('def use(f): f()', module.__dict__)\n"
        "module.use(Deprecated(message='Use that.', warning=True)(lambda: None))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/")
    assert "RayDeprecationWarning" in done.stderr


# --------------------------------------------------------------------------- serializers


class Guarded:
    """Cannot be pickled: it has a lock."""

    def __init__(self, value):
        self.value = value
        self.lock = threading.Lock()


class Derived(Guarded):
    pass


@pytest.fixture
def registered(cluster):
    util.register_serializer(
        Guarded, serializer=lambda guarded: guarded.value, deserializer=lambda x: Guarded(x + 1)
    )
    yield
    util.deregister_serializer(Guarded)


@ract.remote
def value_of(guarded):
    return guarded.value


@ract.remote
def same(guarded):
    return guarded


@pytest.mark.usefixtures("registered")
def test_registered_class_can_be_put_and_passed():
    assert ract.get(ract.put(Guarded(1))).value == 2
    [inner] = ract.get(ract.put({"inner": Guarded(1)})).values()
    assert inner.value == 2
    assert ract.get(value_of.remote(Guarded(1))) == 2


@pytest.mark.usefixtures("registered")
def test_readers_need_no_registration_but_writers_do():
    with pytest.raises(TypeError, match="lock"):
        ract.get(same.remote(Guarded(1)))

    @ract.remote
    def register_and_return(guarded):
        util.register_serializer(
            type(guarded), serializer=lambda g: g.value, deserializer=lambda x: -x
        )
        return [guarded]

    assert ract.get(register_and_return.remote(Guarded(1))) == [-2]


@pytest.mark.usefixtures("registered")
def test_serializer_is_for_exactly_its_class():
    with pytest.raises(TypeError, match="lock"):
        ract.put(Derived(1))


@pytest.mark.usefixtures("registered")
def test_registering_again_replaces_and_deregistering_ends():
    util.register_serializer(Guarded, serializer=lambda g: g.value, deserializer=str)
    assert ract.get(ract.put([Guarded(1)])) == ["1"]
    util.deregister_serializer(Guarded)
    util.deregister_serializer(Guarded)
    with pytest.raises(TypeError, match="lock"):
        ract.put(Guarded(1))


def test_serializer_comes_before_reduce_and_gives_back_what_was_registered(cluster):
    pattern = re.compile("a+")
    before = copyreg.dispatch_table[re.Pattern]
    util.register_serializer(re.Pattern, serializer=lambda p: p.pattern, deserializer=len)
    try:
        assert ract.get(ract.put([pattern])) == [2]
    finally:
        util.deregister_serializer(re.Pattern)
    assert copyreg.dispatch_table[re.Pattern] is before
    assert ract.get(ract.put([pattern])) == [pattern]


def test_what_cannot_be_registered_is_told():
    with pytest.raises(TypeError, match="class"):
        util.register_serializer(3, serializer=str, deserializer=str)
    with pytest.raises(TypeError, match="deserializer must be callable"):
        util.register_serializer(Guarded, serializer=str, deserializer=None)
    with pytest.raises(ValueError, match="dict"):
        util.register_serializer(dict, serializer=str, deserializer=str)
    util.deregister_serializer(dict)


# --------------------------------------------------------------------------- diagnosis


def inspect(value, **arguments):
    printed = io.StringIO()
    good, failures = util.inspect_serializability(value, print_file=printed, **arguments)
    return good, failures, printed.getvalue()


def test_what_can_be_pickled_has_no_failures(capsys):
    assert util.inspect_serializability([1]) == (True, set())
    assert "Checking Serializability of [1]" in capsys.readouterr().out


def test_variables_of_functions_are_found():
    lock = threading.Lock()

    def uses_closure():
        return lock

    def uses_global():
        return LOCK

    def with_default(held=LOCK):
        return held

    for function, name, culprit in (
        (uses_closure, "lock", lock),
        (uses_global, "LOCK", LOCK),
        (with_default, "held", LOCK),
    ):
        good, [failure], printed = inspect(function, name="fn")
        assert not good
        assert isinstance(failure, FailureTuple)
        assert failure.obj is culprit
        assert failure.parent is function
        assert (failure.name, failure.path) == (name, f"fn -> {name}")
        assert f"Serializing '{name}'" in printed


def test_attributes_and_items_are_found_down_to_the_depth():
    guarded = Guarded(1)
    value = {"a": [0, guarded]}
    _, [failure], _ = inspect(value)
    assert failure.obj is guarded.lock
    assert failure.path == "a -> 1 -> lock"
    assert failure.parent is guarded
    _, [failure], _ = inspect(value, depth=1)
    assert failure.obj is value["a"]
    _, [failure], _ = inspect(value, depth=0)
    assert (failure.obj, failure.path, failure.name, failure.parent) == (value, "", "unknown", None)


def test_all_failing_parts_are_found_and_cycles_end():
    first, second = Guarded(1), Guarded(2)
    first.other, second.other = second, first
    _, failures, _ = inspect([first, second])
    assert {failure.obj for failure in failures} == {first.lock, second.lock}


def test_class_that_holds_what_fails_is_found_through_its_instance():
    class Local:
        lock = LOCK

    _, [failure], _ = inspect(Local())
    assert failure.obj is LOCK
    assert failure.path == "__class__ -> lock"


def test_objects_that_misbehave_are_survived():
    class Rude:
        def __reduce__(self):
            raise RuntimeError("no")

        def __repr__(self):
            raise RuntimeError("no")

    rude = Rude()
    good, [failure], printed = inspect([rude])
    assert not good
    assert failure.obj is rude
    assert "RuntimeError" in printed or "no" in printed


# --------------------------------------------------------------------------- cluster


def test_named_actors_are_listed_while_they_live(cluster):
    @ract.remote(num_cpus=0)
    class Named:
        def ping(self):
            return 1

    here = Named.options(name="here").remote()
    there = Named.options(name="there", namespace="elsewhere").remote()
    ract.get([here.ping.remote(), there.ping.remote()])
    assert util.list_named_actors() == ["here"]
    both = util.list_named_actors(all_namespaces=True)
    assert {"name": "there", "namespace": "elsewhere"} in both
    assert {"name": "here", "namespace": ract.get_runtime_context().namespace} in both

    @ract.remote(num_cpus=0)
    def names():
        return util.list_named_actors()

    assert ract.get(names.remote()) == ["here"]
    ract.kill(here)
    ract.kill(there)
    testing.wait_for_condition(lambda: util.list_named_actors(all_namespaces=True) == [])


def test_node_address_is_that_of_the_cluster(cluster):
    address = util.get_node_ip_address()
    assert address == ract.nodes()[0]["NodeManagerAddress"]
    assert ract.get(ract.remote(util.get_node_ip_address).remote()) == address


def test_node_address_towards_a_peer():
    assert util.get_node_ip_address("127.0.0.1:1") == "127.0.0.1"
    with pytest.raises(ValueError, match="host:port"):
        util.get_node_ip_address("127.0.0.1")


def test_node_address_without_a_network(monkeypatch):
    class Unconnected:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def connect(self, address):
            raise OSError("network is unreachable")

    def unknown(name):
        raise OSError("no such host")

    monkeypatch.setattr(network.socket, "socket", Unconnected)
    monkeypatch.setattr(socket, "gethostbyname", unknown)
    assert util.get_node_ip_address("8.8.8.8:53") == "127.0.0.1"


def test_instance_id_is_what_the_cloud_told(monkeypatch):
    monkeypatch.delenv("RACT_CLOUD_INSTANCE_ID", raising=False)
    monkeypatch.delenv("RAY_CLOUD_INSTANCE_ID", raising=False)
    assert util.get_node_instance_id() == ""
    monkeypatch.setenv("RAY_CLOUD_INSTANCE_ID", "i-17")
    assert util.get_node_instance_id() == "i-17"


def test_inspecting_a_ref_does_not_keep_its_object(cluster):
    ref = ract.put(1)
    kept = ref.hex()
    assert inspect([ref])[0]
    assert not inspect([ref, LOCK])[0]
    assert kept in testing.reference_counts()
    del ref
    assert kept not in testing.reference_counts()
