"""Spans of calls, as OpenTelemetry exports them from the driver and the executors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ract
from ract.client.process import tracing
from ract.core.session import child_environment
from ract.testing import wait_for_condition

HOOK = "ract.util.tracing.setup_local_tmp_tracing:setup_tracing"


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ract.init(num_cpus=2, _tracing_startup_hook=HOOK)
    yield
    ract.shutdown()
    assert tracing.tracer is None


def spans():
    """All spans that were exported so far, by id."""
    decoder = json.JSONDecoder()
    found = {}
    for path in Path(os.environ["RACT_TMPDIR"], "spans").glob("*.txt"):
        text = path.read_text()
        while text := text.lstrip():
            try:
                span, end = decoder.raw_decode(text)
            except ValueError:  # it is being written
                break
            found[span["context"]["span_id"]] = span
            text = text[end:]
    return found


def find(name, **attributes):
    """The span of this name, once it is there."""

    def candidates():
        return [
            span
            for span in spans().values()
            if span["name"] == name and attributes.items() <= span["attributes"].items()
        ]

    wait_for_condition(candidates)
    [span] = candidates()
    return span


def parent(span):
    """The span that this one is below."""
    return spans()[span["parent_id"]]


@ract.remote
def outer(x):
    return ract.get(inner.remote(x)) + 1


@ract.remote
def inner(x):
    return x + 1


def test_a_call_has_a_span_where_it_is_made_and_one_below_it_where_it_runs():
    assert ract.get(outer.remote(1)) == 3
    worker = find("inner ract.remote_worker")
    chain = [worker]
    while chain[-1]["parent_id"]:
        chain.append(parent(chain[-1]))
    assert [span["name"] for span in chain] == [
        "inner ract.remote_worker",
        "inner ract.remote",
        "outer ract.remote_worker",
        "outer ract.remote",
    ]
    assert len({span["context"]["trace_id"] for span in chain}) == 1
    kinds = [span["kind"].removeprefix("SpanKind.") for span in chain]
    assert kinds == ["CONSUMER", "PRODUCER"] * 2
    pids = [span["attributes"]["ract.pid"] for span in chain]
    assert pids[3] == os.getpid()
    assert pids[1] == pids[2] != pids[0]
    assert worker["attributes"]["ract.function"] == "inner"
    assert worker["attributes"]["ract.node_id"] == ract.get_runtime_context().get_node_id()
    assert "ract.task_id" in worker["attributes"]


def test_an_error_is_in_the_span():
    @ract.remote
    def fails():
        raise KeyError("no such thing")

    with pytest.raises(KeyError):
        ract.get(fails.remote())
    span = find("fails ract.remote_worker")
    assert span["status"]["status_code"] == "ERROR"
    [event] = span["events"]
    assert event["attributes"]["exception.type"] == "KeyError"


@ract.remote(num_cpus=0)
class Counter:
    def __init__(self, start):
        self.n = start

    def add(self, n):
        self.n += n
        return self.n

    def count(self, n):
        for i in range(n):
            yield ract.get(inner.options(name=f"item{i}").remote(i))


def test_actors_have_spans_of_creation_calls_and_streams():
    counter = Counter.remote(1)
    assert ract.get(counter.add.remote(2)) == 3
    made = find("Counter.__init__ ract.remote_worker")
    assert parent(made)["name"] == "Counter.__init__ ract.remote"
    added = find("Counter.add ract.remote_worker")
    assert parent(added)["name"] == "Counter.add ract.remote"
    assert added["attributes"]["ract.actor_id"] == counter._actor_id.hex()
    stream = counter.count.options(num_returns="streaming").remote(3)
    assert [ract.get(each) for each in stream] == [1, 2, 3]
    counted = find("Counter.count ract.remote_worker")
    for i in range(3):
        item = find(f"item{i} ract.remote_worker")
        # What a generator does is in its span, however often its reader makes it wait.
        assert parent(parent(item)) == counted


@ract.remote(num_cpus=0)
class Async:
    async def ask(self, x):
        return await inner.options(name=f"asked{x}").remote(x)

    async def stream(self, n):
        for i in range(n):
            yield await inner.options(name=f"streamed{i}").remote(i)

    def threaded(self):
        return 1


def test_async_methods_and_their_generators_have_spans_of_their_own():
    actor = Async.remote()
    assert sorted(ract.get([actor.ask.remote(i) for i in range(3)])) == [1, 2, 3]
    asking = [parent(parent(find(f"asked{i} ract.remote_worker"))) for i in range(3)]
    assert {span["name"] for span in asking} == {"Async.ask ract.remote_worker"}
    assert len({span["context"]["span_id"] for span in asking}) == 3
    stream = actor.stream.options(num_returns="streaming").remote(2)
    assert [ract.get(each) for each in stream] == [1, 2]
    whole = find("Async.stream ract.remote_worker")
    for i in range(2):
        assert parent(parent(find(f"streamed{i} ract.remote_worker"))) == whole


def test_threaded_actors_have_spans():
    actor = Async.options(max_concurrency=2).remote()
    assert ract.get(actor.threaded.remote()) == 1
    assert parent(find("Async.threaded ract.remote_worker"))["name"] == "Async.threaded ract.remote"


def test_tasks_that_return_refs_or_several_values_do_so_with_spans_too():
    @ract.remote
    def ref():
        return inner.remote(1)

    @ract.remote(num_returns=2)
    def pair():
        return 1, 2

    @ract.remote(num_returns=2)
    def yielded():
        yield 1
        yield 2

    assert ract.get(ract.get(ref.remote())) == 2
    assert ract.get(pair.remote()) == ract.get(list(yielded.remote())) == [1, 2]
    for name in ("ref", "pair", "yielded"):
        find(f"{name} ract.remote_worker")


# --------------------------------------------------------------------------- hooks that fail


@pytest.mark.parametrize(
    ("hook", "error", "message"),
    [
        (5, TypeError, "a text 'module:function', not int"),
        ("nothing", ValueError, "looks like 'module:function'"),
        ("ract:", ValueError, "looks like 'module:function'"),
        ("no_such_module:f", ImportError, "no_such_module"),
        ("ract:no_such_function", ValueError, "no function 'no_such_function' in 'ract'"),
    ],
)
def test_bad_hooks_are_refused_before_anything_starts(hook, error, message):
    code = f"""
import ract
try:
    ract.init(num_cpus=1, _tracing_startup_hook={hook!r})
except {error.__name__} as error:
    assert {message!r} in str(error), error
else:
    raise AssertionError("it started")
assert not ract.is_initialized()
"""
    subprocess.run([sys.executable, "-c", code], env=child_environment(), check=True, timeout=60)


def test_without_opentelemetry_the_hook_is_refused_and_says_what_to_install():
    code = f"""
import sys
sys.modules["opentelemetry"] = None
import ract
try:
    ract.init(num_cpus=1, _tracing_startup_hook={HOOK!r})
except ImportError as error:
    assert "pip install 'ract[tracing]'" in str(error)
else:
    raise AssertionError("it started")
"""
    subprocess.run([sys.executable, "-c", code], env=child_environment(), check=True, timeout=60)


def test_a_hook_that_executors_do_not_have_leaves_calls_untraced(tmp_path):
    (tmp_path / "only_here.py").write_text(
        "import os\ndriver = os.getpid()\n"
        "def setup():\n"
        "    if os.environ.get('DRIVER') != str(os.getpid()):\n"
        "        raise RuntimeError('not in executors')\n"
    )
    code = """
import os
os.environ["DRIVER"] = str(os.getpid())
import ract
ract.init(num_cpus=1, _tracing_startup_hook="only_here:setup")
assert ract.get(ract.remote(lambda: 5).remote()) == 5
ract.shutdown()
"""
    environment = child_environment()
    environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)


def test_a_node_can_have_a_hook_for_all_its_executors(tmp_path):
    """As ``rworker --tracing-startup-hook`` sets it: the driver that joins has none."""
    (tmp_path / "of_the_node.py").write_text("called = []\ndef setup():\n    called.append(1)\n")
    code = """
import os
import ract
from ract.testing import Cluster
os.environ["RACT_TRACING_STARTUP_HOOK"] = "of_the_node:setup"
cluster = Cluster()
cluster.add_node(num_cpus=1)
del os.environ["RACT_TRACING_STARTUP_HOOK"]
cluster.connect()
from ract.client.process import tracing
assert tracing.tracer is None
@ract.remote
def called():
    import of_the_node
    return of_the_node.called
assert ract.get(called.remote()) == [1]
ract.shutdown()
cluster.shutdown()
"""
    environment = child_environment()
    environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)


def test_without_a_hook_opentelemetry_is_not_imported():
    code = """
import sys
import ract
ract.init(num_cpus=1)
loaded = ract.remote(lambda: "opentelemetry" in sys.modules)
assert not ract.get(loaded.remote())
assert "opentelemetry" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], env=child_environment(), check=True, timeout=60)
