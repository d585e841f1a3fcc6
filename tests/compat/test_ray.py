"""Programs written for Ray run unchanged (each in a process of its own: the name is for good)."""

import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
import sys
import ray
import ray.exceptions as errors
from ray.actor import ActorHandle
from ray.cluster_utils import Cluster
from ray._private.test_utils import SignalActor, run_string_as_driver, wait_for_condition

ray.init(num_cpus=2)


@ray.remote
def where(value):
    import ray  # in the executor too
    import setproctitle

    return setproctitle.getproctitle(), ray.get(ray.put(value))


@ray.remote
class Counter:
    def __init__(self):
        self.n = 0

    def add(self):
        self.n += 1
        return self.n, ray.get_runtime_context().get_actor_id()


@ray.remote
def fail():
    raise KeyError("lost")


title, value = ray.get(where.remote(7))
assert (title, value) == ("ray::where", 7), title
counter = Counter.remote()
assert isinstance(counter, ActorHandle)
assert ray.get(counter.add.remote()) == (1, counter._actor_id.hex())
try:
    ray.get(fail.remote())
except errors.RayTaskError as error:
    assert isinstance(error, KeyError) and "ray::fail()" in str(error), error
    assert type(error).__name__ == "RayTaskError(KeyError)", type(error)
print(sys.argv[1:], ray.__version__)
"""


def run(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def test_the_command_runs_an_unchanged_program(program):
    printed = run("-m", "ract.commands.main", "run", "--ray", "program.py", "a", "--b", cwd=program)
    assert printed.strip().splitlines()[-1] == "['a', '--b'] 2.60.0"


def test_the_command_runs_a_module(program):
    printed = run("-m", "ract.commands.main", "run", "--ray", "-m", "program", "a", cwd=program)
    assert printed.strip().splitlines()[-1] == "['a'] 2.60.0"


def test_one_import_is_enough(program):
    (program / "main.py").write_text("import ract.compat.ray\nimport program\n")
    assert "2.60.0" in run("main.py", cwd=program)


def test_modules_are_the_same_under_both_names_and_what_is_missing_is_named(tmp_path):
    code = """
    import ract.compat.ray
    import ract.exceptions, ray, ray.exceptions, ray.util, importlib.util, os, subprocess, sys
    assert ray.exceptions is ract.exceptions
    assert ray.exceptions.RayError is ract.exceptions.RactError
    assert ray.get is ract.get
    for name in ("ray.data", "ray.train.torch", "ray.worker"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            assert name.startswith(error.name) and "no module" in str(error), error
        else:
            raise AssertionError(name)
    try:
        from ray import tune
    except ImportError as error:
        assert "tune" in str(error)
    assert not hasattr(ray, "serve") and hasattr(ray, "util")
    ray.anything = 1
    assert not hasattr(ract, "anything")
    # A program that this one starts sees the same.
    code = "import ray; print(ray.__version__, ray.remote.__module__)"
    print(subprocess.check_output([sys.executable, "-c", code], text=True))
    """
    assert "2.60.0 ract.client.api.functions" in run("-c", textwrap.dedent(code), cwd=tmp_path)


def test_executors_of_other_nodes_find_it(tmp_path):
    code = """
    import ract.testing
    cluster = ract.testing.Cluster(initialize_head=True)
    cluster.add_node(num_cpus=1, resources={"there": 1})
    import ract.compat.ray  # after the nodes were started
    import ray

    ray.init(address=cluster.address)

    @ray.remote(resources={"there": 1})
    def there():
        import setproctitle
        import ray.exceptions

        return setproctitle.getproctitle(), ray.__version__

    print(ray.get(there.remote()))
    ray.shutdown()
    cluster.shutdown()
    """
    assert "('ray::there', '2.60.0')" in run("-c", textwrap.dedent(code), cwd=tmp_path)


def test_ray_itself_is_not_replaced_under_its_users(tmp_path):
    (tmp_path / "ray.py").write_text("")
    code = "import ray, ract.compat.ray"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert "Ray itself is imported already" in done.stderr


def test_the_client_builder_connects_as_init_does(tmp_path):
    code = """
    import warnings
    import ract.testing
    import ract.compat.ray
    import ray
    from ray.client_builder import ClientBuilder, ClientContext

    cluster = ract.testing.Cluster(initialize_head=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        builder = ray.client(cluster.address)
    assert "ray.init" in str(caught[0].message), caught
    assert isinstance(builder, ClientBuilder)
    with builder.env({"env_vars": {"A": "b"}}).namespace("here").connect() as context:
        assert isinstance(context, ClientContext) and context.ray_version
        assert ray.get_runtime_context().namespace == "here"
        assert ray.get(ray.remote(lambda: __import__("os").environ["A"]).remote()) == "b"
    assert not ray.is_initialized()
    cluster.shutdown()
    ray.client("local").connect().disconnect()
    try:
        ray.client().env(3)
    except TypeError:
        print("fine")
    """
    assert "fine" in run("-W", "ignore", "-c", textwrap.dedent(code), cwd=tmp_path)
