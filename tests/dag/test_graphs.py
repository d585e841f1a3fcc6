"""Lazy graphs: what ``.bind()`` builds and ``.execute()`` runs."""

import asyncio
import sys
from types import SimpleNamespace

import cloudpickle
import pytest

import ract
from ract.dag import DAGInputData, InputNode, MultiOutputNode, plot
from ract.testing import wait_for_condition


@pytest.fixture(scope="module", autouse=True)
def cluster(ract_module):
    return ract_module


@ract.remote(num_cpus=0)
def echo(*args, **kwargs):
    return args, kwargs


@ract.remote(num_cpus=0)
def add(x, y):
    return x + y


@ract.remote(num_cpus=0)
class Counter:
    def __init__(self, n=0):
        self.n = n

    def inc(self, by=1):
        self.n += by
        return self.n

    def get(self):
        return self.n

    def two(self):
        return 1, 2

    def split(self, text):
        return text.split()


# --------------------------------------------------------------------------- bind and execute


def test_binding_runs_nothing_and_executing_gives_a_ref():
    node = add.bind(1, add.bind(2, y=3))
    assert ract.get(node.execute()) == 6
    assert ract.get(node.execute()) == 6


def test_bind_needs_no_cluster(tmp_path):
    import subprocess

    code = """
import ract
f = ract.remote(lambda x: x)
node = f.bind(f.bind(1))
print(ract.is_initialized())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False"], done.stderr


def test_a_node_is_neither_called_nor_submitted():
    node = add.bind(1, 2)
    with pytest.raises(AttributeError, match=r"use \.execute\(\)"):
        node.remote()
    with pytest.raises(TypeError):
        node()
    with pytest.raises(AttributeError, match="'FunctionNode' object has no attribute 'foo'"):
        node.foo


def test_arguments_are_checked_when_the_call_is_made():
    node = add.bind(1, 2, 3)
    with pytest.raises(TypeError):
        node.execute()


def test_a_node_that_several_need_runs_once(tmp_path):
    @ract.remote(num_cpus=0)
    def mark():
        with open(tmp_path / "runs", "a") as file:
            file.write("x")
        return 1

    once, never = mark.bind(), mark.bind()
    assert never is not once
    assert ract.get(add.bind(add.bind(once, once), once).execute()) == 3
    assert (tmp_path / "runs").read_text() == "x"


def test_nodes_in_containers_and_objects_become_refs():
    node = add.bind(1, 2)
    held = SimpleNamespace(node=node)
    (listed, named, kept), kwargs = ract.get(
        echo.bind([node, (node,)], {"a": node}, held).execute()
    )
    assert kwargs == {}
    for ref in (listed[0], listed[1][0], named["a"], kept.node):
        assert isinstance(ref, ract.ObjectRef)
        assert ract.get(ref) == 3
    assert held.node is node


def test_refs_may_be_bound_too():
    ref = ract.put(5)
    (value, nested), _ = ract.get(echo.bind(ref, [ref, add.bind(1, 1)]).execute())
    assert value == 5
    assert ract.get(nested) == [5, 2]


def test_options_are_kept():
    node = echo.options(num_returns=2, name="two").bind(1)
    assert node.get_options() == {"num_cpus": 0, "num_returns": 2, "name": "two"}
    args, kwargs = node.execute()
    assert ract.get([args, kwargs]) == [(1,), {}]


def test_the_graph_may_be_deeper_than_the_stack():
    node = add.bind(0, 0)
    for _ in range(2 * sys.getrecursionlimit()):
        node = add.bind(node, 1)
    seen = []
    node.traverse_and_apply(seen.append)
    assert len(seen) == 2 * sys.getrecursionlimit() + 1


def test_a_pickled_node_is_the_same_graph():
    actor = Counter.bind(1)
    actor.inc.bind(2)
    with InputNode() as given:
        node = echo.bind(actor.get.bind(), given.x, given[0])
    copy = cloudpickle.loads(cloudpickle.dumps(node))
    assert copy.get_stable_uuid() == node.get_stable_uuid()
    assert ract.get(copy.execute(7, x=8)) == ((3, 8, 7), {})

    @ract.remote(num_cpus=0)
    def run(node):
        return ract.get(node.execute(7, x=8))

    assert ract.get(run.remote(node)) == ((3, 8, 7), {})


# --------------------------------------------------------------------------- actors


def test_each_execution_makes_an_actor_of_its_own():
    actor = Counter.bind(5)
    first, second = actor.inc.bind(2), actor.inc.bind(3)
    result = actor.get.bind()
    assert ract.get(result.execute()) == 10  # the calls before run, though nobody uses them
    assert ract.get(result.execute()) == 10
    assert ract.get(first.execute()) == 7  # those behind do not
    assert ract.get(MultiOutputNode([result, second, first]).execute()) == [10, 10, 7]


def test_a_class_node_gives_the_handle_and_takes_options():
    handle = Counter.options(name="named").bind(4).execute()
    assert ract.get(handle.inc.remote()) == 5
    assert ract.get(ract.get_actor("named").get.remote()) == 5


def test_actors_may_be_arguments_and_have_arguments():
    actor = Counter.bind(add.bind(1, 2))

    @ract.remote(num_cpus=0)
    def use(counter):
        return ract.get(counter.inc.remote(10))

    assert ract.get(use.bind(actor).execute()) == 13
    assert ract.get(Counter.bind(add.bind(1, 2)).get.bind().execute()) == 3


def test_the_actor_of_a_graph_ends_after_its_results():
    ref = Counter.bind(1).inc.bind(add.bind(1, 1)).execute()
    assert ract.get(ref) == 3
    from ract.util.state import list_actors

    actor_id = ref.task_id().actor_id().hex()

    def ended():
        return [a.state for a in list_actors() if a.actor_id == actor_id] in ([], ["DEAD"])

    wait_for_condition(ended)


def test_methods_of_an_actor_that_exists_run_on_it_and_it_stays():
    counter = Counter.remote(1)
    first, second = counter.inc.bind(2), counter.inc.bind(10)
    assert ract.get(first.execute()) == 3
    assert ract.get(second.execute()) == 13  # the other one is not needed
    assert ract.get(counter.get.remote()) == 13


def test_several_returns_of_a_method_are_nodes():
    counter = Counter.remote()
    one, two = counter.two.options(num_returns=2).bind()
    assert ract.get(MultiOutputNode([two, one]).execute()) == [2, 1]
    assert ract.get(add.bind(one, two).execute()) == 3
    refs = Counter.bind().two.options(num_returns=2).bind().execute()
    assert ract.get(refs) == [1, 2]


def test_methods_of_class_nodes_are_checked():
    actor = Counter.bind()
    with pytest.raises(AttributeError, match="no method 'nope'"):
        actor.nope
    with pytest.raises(AttributeError, match=r"use \.execute"):
        actor.remote()
    with pytest.raises(AttributeError, match=r"Use \.bind\(\)"):
        actor.inc.remote()
    with pytest.raises(TypeError, match=r"use \.bind\(\)"):
        actor.inc()
    with pytest.raises(ValueError, match="num_cpus"):
        actor.inc.options(num_cpus=1)


# --------------------------------------------------------------------------- input and output


def test_the_input_is_the_only_argument():
    with InputNode() as given:
        node = echo.bind(given, [given])
        parts = echo.bind(given[0], given[1])
    assert ract.get(node.execute(3)) == ((3, [3]), {})
    assert ract.get(parts.execute(["a", "b"])) == (("a", "b"), {})


def test_the_input_has_parts_by_number_name_and_attribute():
    with InputNode() as given:
        node = echo.bind(given[0], given["k"], given.x)
        whole = echo.bind(given)
    assert ract.get(node.execute(1, k=2, x=3)) == ((1, 2, 3), {})
    ((data,), _) = ract.get(whole.execute(1, 2, a=3))
    assert isinstance(data, DAGInputData)
    assert (data[0], data[1], data["a"]) == (1, 2, 3)
    with InputNode() as given:
        node = echo.bind(given.imag)
    assert ract.get(node.execute(3j)) == ((3.0,), {})


def test_missing_parts_of_the_input_are_named():
    with InputNode() as given:
        by_number, by_name = echo.bind(given[3]), echo.bind(given.missing)
    with pytest.raises(IndexError):
        by_number.execute(1, 2)
    with pytest.raises(KeyError, match="missing"):
        by_name.execute(1, 2)


def test_misused_inputs_are_refused():
    with pytest.raises(ValueError, match="takes no arguments"):
        InputNode(1)
    with InputNode() as given:
        with pytest.raises(AssertionError, match="int or a str"):
            given[1.5]
        for wrong in (given, [given], given[0]):
            with pytest.raises(ValueError, match="constructor"):
                Counter.bind(wrong)
    with pytest.raises(AssertionError, match="with InputNode"):
        echo.bind(InputNode()).execute(1)
    with InputNode() as other:
        pass
    with pytest.raises(AssertionError, match="several"):
        echo.bind(given, other).execute(1)


def test_several_outputs_come_as_a_list():
    with InputNode() as given:
        outputs = MultiOutputNode((add.bind(given, 1), add.bind(given, 2)))
    assert ract.get(outputs.execute(1)) == [2, 3]
    for wrong in (add.bind(1, 2), {1}, 3):
        with pytest.raises(ValueError, match="list or tuple"):
            MultiOutputNode(wrong)


# --------------------------------------------------------------------------- tools


def test_a_node_says_what_it_was_bound_with():
    actor = Counter.bind(1)
    first = actor.inc.bind(2)
    second = actor.inc.options(name="z").bind(by=3)
    assert (second.get_args(), second.get_kwargs()) == ((), {"by": 3})
    assert second.get_options() == {"name": "z"}
    others = second.get_other_args_to_resolve()
    assert others["parent_class_node"] is actor
    assert others["prev_class_method_call"] is first
    assert second.get_method_name() == "inc"
    assert len(second.get_stable_uuid()) == 32
    assert repr(second) == f"ClassMethodNode(Counter.inc, {second.get_stable_uuid()[:8]})"


def test_a_graph_can_be_rebuilt_from_its_leaves():
    leaf = add.bind(1, 2)
    node = add.bind([leaf], [leaf])
    names = []

    def plus_one(each):
        names.append(each.get_args())
        if each.get_stable_uuid() == leaf.get_stable_uuid():
            return add.bind(10, 20)
        return each

    made = node.apply_recursive(plus_one)
    assert names[0] == (1, 2)
    assert len(names) == 2  # the leaf, once
    assert made.get_stable_uuid() == node.get_stable_uuid()
    assert ract.get(ract.get(made.execute())) == [30, 30]
    assert node.get_args() == ([leaf], [leaf])


def test_nodes_are_passed_through_nearest_first():
    leaf = add.bind(1, 2)
    middle = add.bind(leaf, leaf)
    node = echo.bind(middle, leaf)
    seen = []
    node.traverse_and_apply(seen.append)
    assert seen == [node, middle, leaf]


def test_values_can_be_replaced_by_a_test():
    made = add.bind(1, 2).apply_functional([1, {"a": 2}], lambda x: x == 2, lambda x: x * 10)
    assert made == [1, {"a": 20}]


def test_what_the_nodes_gave_can_be_kept():
    leaf = add.bind(1, 2)
    node = add.bind(leaf, 3)
    ref = node.execute(_ray_cache_refs=True)
    kept = asyncio.run(node.get_object_refs_from_last_execute())
    assert kept[node.get_stable_uuid()] is ref
    assert ract.get(kept[leaf.get_stable_uuid()]) == 3
    node.clear_cache()
    assert asyncio.run(node.get_object_refs_from_last_execute()) == {}


def test_graphs_are_not_compiled():
    with pytest.raises(NotImplementedError, match="compile"):
        add.bind(1, 2).experimental_compile()
    with pytest.raises(NotImplementedError, match="tensor"):
        add.bind(1, 2).with_tensor_transport()


def test_a_picture_needs_pydot_and_graphviz(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydot", None)
    with pytest.raises(ImportError, match="pip install pydot"):
        plot(add.bind(1, 2))
    monkeypatch.setitem(sys.modules, "pydot", SimpleNamespace())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ImportError, match="Graphviz"):
        plot(add.bind(1, 2))


class Drawing:
    """Stands in for pydot."""

    def __init__(self, rankdir):
        self.nodes, self.edges = [], []
        Drawing.last = self

    def add_node(self, name):
        self.nodes.append(name)

    def add_edge(self, ends):
        self.edges.append(ends)

    def write(self, path, format):
        self.written = (path, format)


def test_a_picture_has_all_nodes_and_what_they_need(monkeypatch, tmp_path):
    (tmp_path / "dot").write_text("")
    (tmp_path / "dot").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    stand_in = SimpleNamespace(
        Dot=Drawing, Node=lambda name, shape: name, Edge=lambda start, end: (start, end)
    )
    monkeypatch.setitem(sys.modules, "pydot", stand_in)
    leaf = add.bind(1, 2)
    plot(add.bind(leaf, echo.bind(leaf)), str(tmp_path / "dag.svg"))
    assert Drawing.last.nodes == ["add", "echo", "add_1"]
    assert Drawing.last.edges == [("add", "echo"), ("add", "add_1"), ("echo", "add_1")]
    assert Drawing.last.written == (str(tmp_path / "dag.svg"), "svg")


def test_it_has_its_name_under_ray(tmp_path):
    import subprocess

    code = """
import ract.compat.ray
import ray
import ray.dag
from ray.dag import InputNode, MultiOutputNode
from ray.dag.input_node import InputNode as same
import ract.dag
assert ray.dag is ract.dag and same is InputNode
print("fine")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["fine"], done.stderr
