"""Starting, joining and leaving a cluster, in programs of their own."""

import subprocess
import sys
import textwrap

import pytest

import ract

TIMEOUT_S = 60


def program(text, check=True):
    """Run a program; returns (stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    "first",
    [
        "ref = f.remote(1)",
        "ref = ract.put(2)",
        "ref = ract.get(A.remote().n.remote()); ref = ract.put(ref)",
        "ract.wait([ract.put(1)]); ref = ract.put(2)",
    ],
)
def test_the_first_use_starts_a_cluster(first):
    out, err = program(f"""
        import ract
        @ract.remote
        def f(x): return x + 1
        @ract.remote
        class A:
            def n(self): return 2
        assert not ract.is_initialized()
        {first}
        assert ract.is_initialized()
        print(ract.get(ref))
    """)
    assert out == "2\n"
    assert err == ""


def test_what_only_asks_does_not_start_a_cluster():
    out, _ = program("""
        import ract
        for ask in (ract.nodes, ract.cluster_resources, ract.available_resources):
            try:
                ask()
            except RuntimeError as error:
                print(error)
        print(ract.is_initialized())
    """)
    assert out.count("ract.init") == 3
    assert out.endswith("False\n")


def test_the_issue_in_one_script():
    out, err = program("""
        import ract
        ract.init()
        @ract.remote
        def f(x): return x + 1
        @ract.remote
        class Counter:
            def __init__(self): self.n = 0
            def add(self, k=1): self.n += k; return self.n
        y = f.remote(ract.put(41)); c = Counter.remote()
        print(ract.get([f.remote(y), c.add.remote()], timeout=10))
        ready, rest = ract.wait([f.remote(i) for i in range(4)], num_returns=2)
        print(len(ready), len(rest))
        ract.shutdown()
    """)
    assert out == "[43, 1]\n2 2\n"
    assert err == ""


def test_a_program_that_ends_by_an_error_says_only_that():
    _, err = program(
        """
        import ract
        @ract.remote
        def f(): raise KeyError("mine")
        ract.get(f.remote())
        """,
        check=False,
    )
    assert err.count("Traceback (most recent call last)") == 2  # the driver's, the remote one
    assert err.rstrip().endswith("KeyError: 'mine'")


def test_init_twice(ract_start):
    with pytest.raises(RuntimeError, match="twice"):
        ract.init()
    context = ract.init(ignore_reinit_error=True)
    assert context["address"].startswith("tls://127.0.0.1:")
    assert dict(context) == context.address_info


def test_the_context_ends_the_cluster():
    ract.shutdown()
    with ract.init(num_cpus=1) as context:
        assert ract.is_initialized()
        assert context.dashboard_url.startswith("http://127.0.0.1:")
    assert not ract.is_initialized()
    ract.shutdown()  # once more changes nothing


@pytest.mark.parametrize(
    ("arguments", "error", "what"),
    [
        ({"num_cpu": 2}, RuntimeError, r"num_cpu.*num_cpus"),
        ({"namespace": ""}, ValueError, "namespace"),
        ({"namespace": 3}, TypeError, "namespace"),
        ({"address": "auto"}, ConnectionError, "no running cluster"),
        ({"address": "127.0.0.1:1"}, ConnectionError, "no scheduler could be reached"),
        ({"address": "nowhere"}, ValueError, "tls://host:port"),
        ({"address": "tls://127.0.0.1:1", "num_cpus": 3}, ValueError, "num_cpus"),
        ({"resources": {"X": -1}}, ValueError, "X"),
        ({"labels": {"ray.io/x": "1"}}, ValueError, "ray.io/"),
        ({"object_store_memory": 100}, ValueError, "75 MiB"),
        ({"num_cpus": -1}, ValueError, "CPU.*negative"),
        ({"resources": {"CPU": 1}}, ValueError, "num_cpus"),
    ],
    ids=str,
)
def test_bad_arguments_of_init(arguments, error, what):
    ract.shutdown()
    with pytest.raises(error, match=what):
        ract.init(**arguments)
    assert not ract.is_initialized()


def test_a_forked_child_leaves_its_parents_cluster_alone(ract_start):
    import os

    pid = os.fork()
    if not pid:
        ract.shutdown()
        os._exit(7 if ract.is_initialized() else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert ract.get(ract.put([1])) == [1]
    assert len(ract.nodes()) == 1


def test_a_class_of_the_script_itself_travels():
    out, _ = program("""
        import ract, dataclasses
        @dataclasses.dataclass
        class Point:
            x: int
        @ract.remote
        def move(p): return Point(p.x + 1)
        result = ract.get(move.remote(Point(1)))
        print(result, type(result) is Point)
    """)
    assert out == "Point(x=2) True\n"


def test_what_waits_when_the_cluster_is_left_hears_of_it():
    out, err = program("""
        import ract, sys, threading, time
        from ract.testing import wait_for_condition
        ract.init(num_cpus=2)
        @ract.remote
        def stuck(): time.sleep(1000)
        @ract.remote
        class Stuck:
            def stay(self): time.sleep(1000)
        actor = Stuck.remote()
        refs = [stuck.remote(), actor.stay.remote()]
        future = stuck.remote().future()
        said = []
        def wait(ref):
            try: ract.get(ref)
            except Exception as error: said.append(type(error).__name__)
        threads = [threading.Thread(target=wait, args=[ref]) for ref in refs]
        for thread in threads: thread.start()
        def is_reading(thread):
            frame = sys._current_frames()[thread.ident]
            while frame is not None and frame.f_code.co_name != "_receive":
                frame = frame.f_back
            return frame is not None
        wait_for_condition(lambda: all(map(is_reading, threads)), retry_interval_ms=5)
        ract.shutdown()
        for thread in threads: thread.join()
        print(said, type(future.exception(10)).__name__)
    """)
    assert out == "['LeftClusterError', 'LeftClusterError'] LeftClusterError\n"
    assert err == ""


def test_refs_of_the_last_cluster_are_refused():
    ract.shutdown()
    ract.init(num_cpus=1)
    old = ract.put(1)
    ract.shutdown()
    ract.init(num_cpus=1)
    try:
        echo = ract.remote(lambda x: x)
        for use in (
            lambda: ract.get(old),
            lambda: ract.get([old]),
            lambda: ract.wait([ract.put(1), old]),
            lambda: echo.remote(old),
        ):
            with pytest.raises(ValueError, match="owner is unknown"):
                use()
    finally:
        ract.shutdown()


def test_children_of_a_detached_actor_outlive_the_driver():
    from ract.testing import Cluster

    ract.shutdown()
    with Cluster(True, head_node_args={"num_cpus": 2}) as cluster:
        program(f"""
            import ract
            ract.init({cluster.address!r}, namespace="n")
            @ract.remote(num_cpus=0)
            class Child:
                def hello(self): return "hello"
            @ract.remote(num_cpus=0)
            class Parent:
                def __init__(self): self.child = Child.remote()
                def ask(self): return ract.get(self.child.hello.remote())
            parent = Parent.options(name="parent", lifetime="detached").remote()
            other = Child.options(name="other").remote()
            print(ract.get([parent.ask.remote(), other.hello.remote()]))
        """)
        cluster.connect(namespace="n")
        parent = ract.get_actor("parent")
        assert ract.get(parent.ask.remote(), timeout=30) == "hello"
        with pytest.raises(ValueError, match="other"):
            ract.get_actor("other")
        ract.kill(parent)


def test_printed_lines_bear_the_name_of_who_printed_them():
    out, _ = program(
        """
        import ract
        from ract.testing import log_messages, wait_for_condition
        ract.init(num_cpus=1)
        @ract.remote
        def speak(): print("from a task")
        @ract.remote
        class Speaker:
            def __repr__(self): return "Speaker(1)"
            def speak(self): print("from an actor")
        speaker = Speaker.remote()
        ract.get([speak.remote(), speaker.speak.remote()])
        wait_for_condition(lambda: len(log_messages()) >= 2)
        """
    )
    assert "(speak pid=" in out
    assert "(Speaker(1) pid=" in out
    assert "\x1e" not in out


def test_the_first_use_in_several_threads_starts_one_cluster():
    out, err = program("""
        import ract, threading
        @ract.remote(num_cpus=0)
        def f(): return 1
        gate, found = threading.Barrier(4), []
        def use():
            gate.wait()
            try: found.append(ract.get(f.remote()))
            except Exception as error: found.append(error)
        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(found, len(ract.nodes()))
    """)
    assert out == "[1, 1, 1, 1] 1\n"
    assert err == ""


def test_threads_join_and_leave_a_cluster_at_any_moment():
    from ract.testing import Cluster

    ract.shutdown()
    with Cluster(True, head_node_args={"num_cpus": 2}) as cluster:
        out, err = program(f"""
            import os, ract, sys, threading
            sys.setswitchinterval(1e-6)
            os.environ["RACT_ADDRESS"] = {cluster.address!r}
            said = set()
            def repeat(step):
                for _ in range(30):
                    try: step()
                    except (RuntimeError, ValueError) as error: said.add(str(error)[:80])
            def join(): ract.init()
            def join_again(): ract.init(ignore_reinit_error=True)
            def use():
                try: assert ract.get(ract.put([1])) == [1]
                except RuntimeError as error: assert "twice" not in str(error), error
            steps = [join, join_again, ract.shutdown, ract.shutdown, use, use]
            threads = [threading.Thread(target=repeat, args=[step]) for step in steps]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            ract.shutdown()
            print(ract.is_initialized(), threading.active_count(), *sorted(said), sep="\\n")
        """)
        first, second, *said = out.splitlines()
        assert (first, second) == ("False", "1")
        words = ("twice", "ract.shutdown() was called", "has left", "belongs to a cluster")
        assert all(any(word in text for word in words) for text in said), said
        assert err == ""
