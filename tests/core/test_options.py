"""Options of tasks, actors and methods: what is accepted, refused, merged and derived."""

import copy
import math
import pickle
import warnings

import pytest

from ract.core.options import actor_options, method_options, task_options


class Strategy:
    def to_plain(self):
        return {"kind": "SPREAD"}


STRATEGY = Strategy()

# --------------------------------------------------------------------------- what is accepted

COMMON = [
    ("num_cpus", 0),
    ("num_cpus", 2),
    ("num_cpus", 0.5),
    ("num_gpus", 0.25),
    ("num_gpus", 4),
    ("resources", {}),
    ("resources", {"custom": 1.5, "none": 0}),
    ("memory", 0),
    ("memory", 500 * 2**20),
    ("accelerator_type", "A100"),
    ("label_selector", {"region": "in(a,b)"}),
    ("fallback_strategy", [{"label_selector": {}}]),
    ("name", "special"),
    ("runtime_env", {"env_vars": {"A": "1"}}),
    ("scheduling_strategy", "DEFAULT"),
    ("scheduling_strategy", "SPREAD"),
    ("scheduling_strategy", STRATEGY),
    ("placement_group", "default"),
    ("placement_group_bundle_index", -1),
    ("placement_group_bundle_index", 3),
    ("placement_group_capture_child_tasks", True),
    ("enable_task_events", False),
    ("_labels", {"a": "b"}),
    ("_metadata", {"a": 1}),
    ("timeout", 0.5),
    ("priority", -5),
]
TASK = [
    ("num_returns", 0),
    ("num_returns", 3),
    ("num_returns", "streaming"),
    ("num_returns", "dynamic"),
    ("max_calls", 0),
    ("max_calls", 5),
    ("max_retries", -1),
    ("max_retries", 0),
    ("retry_exceptions", True),
    ("_generator_backpressure_num_objects", 1),
    ("_generator_backpressure_num_objects", -1),
]
ACTOR = [
    ("max_restarts", -1),
    ("max_restarts", 4),
    ("max_task_retries", -1),
    ("max_pending_calls", -1),
    ("max_pending_calls", 10),
    ("max_concurrency", 0),
    ("max_concurrency", 100),
    ("concurrency_groups", {"io": 2}),
    ("lifetime", "detached"),
    ("lifetime", "non_detached"),
    ("namespace", "mine"),
    ("get_if_exists", False),
    ("object_store_memory", 100),
    ("allow_out_of_order_execution", True),
    ("enable_tensor_transport", True),
    ("mailbox_size", 3),
    ("on_full", "shed"),
    ("interruptible", True),
    ("durable", "call"),
    ("durable", "interval"),
]
METHOD = [
    ("name", "special"),
    ("num_returns", 2),
    ("concurrency_group", "io"),
    ("max_task_retries", -1),
    ("retry_exceptions", True),
    ("enable_task_events", False),
    ("_generator_backpressure_num_objects", 5),
    ("tensor_transport", "nccl"),
    ("timeout", 3),
    ("priority", 1),
]
ACCEPTED = [
    *((task_options, *pair) for pair in COMMON + TASK),
    *((actor_options, *pair) for pair in COMMON + ACTOR),
    *((method_options, *pair) for pair in METHOD),
]


@pytest.mark.parametrize(("make", "name", "value"), ACCEPTED)
def test_a_good_value_is_kept(make, name, value):
    options = make(**{name: value})
    assert getattr(options, name) == value
    assert options.given_values() == {name: value}


@pytest.mark.parametrize(("make", "name", "value"), ACCEPTED)
def test_none_is_the_default(make, name, value):
    assert getattr(make(**{name: None}), name) == getattr(make(), name)


def test_defaults_are_those_of_the_table():
    task, actor, method = task_options(), actor_options(), method_options()
    assert (task.num_cpus, task.num_gpus, task.memory, task.resources) == (None,) * 4
    assert (task.max_retries, task.retry_exceptions, task.max_calls) == (3, False, 0)
    assert (task.num_returns, task.placement_group, task.placement_group_bundle_index) == (
        None,
        "default",
        -1,
    )
    assert task.enable_task_events is actor.enable_task_events is True
    assert (actor.max_restarts, actor.max_task_retries, actor.max_pending_calls) == (0, 0, -1)
    assert (actor.max_concurrency, actor.lifetime, actor.get_if_exists) == (None, None, False)
    assert (method.num_returns, method.max_task_retries) == (None, None)


def test_retry_exceptions_may_list_classes():
    assert task_options(retry_exceptions=[OSError, KeyError]).retry_exceptions == (
        OSError,
        KeyError,
    )
    assert method_options(retry_exceptions=(ValueError,)).retry_exceptions == (ValueError,)
    assert task_options(retry_exceptions=[]).retry_exceptions == ()


# --------------------------------------------------------------------------- what is refused

WRONG_TYPES = [
    *((make, name, value) for make in (task_options, actor_options) for name, value in [
        ("num_cpus", "1"),
        ("num_cpus", True),
        ("num_gpus", [1]),
        ("resources", [("a", 1)]),
        ("resources", {1: 1}),
        ("resources", {"a": "1"}),
        ("resources", {"a": True}),
        ("memory", "1GB"),
        ("memory", True),
        ("accelerator_type", 100),
        ("label_selector", "region=a"),
        ("label_selector", {"region": 1}),
        ("label_selector", {1: "a"}),
        ("fallback_strategy", {}),
        ("name", 5),
        ("runtime_env", "env"),
        ("scheduling_strategy", 5),
        ("placement_group_bundle_index", "0"),
        ("placement_group_bundle_index", 1.0),
        ("placement_group_capture_child_tasks", 1),
        ("enable_task_events", "yes"),
        ("enable_task_events", 1),
        ("_labels", []),
        ("_metadata", "a"),
        ("timeout", "1"),
        ("timeout", True),
        ("priority", 1.5),
    ]),
    (task_options, "num_returns", 2.0),
    (task_options, "num_returns", True),
    (task_options, "num_returns", [2]),
    (task_options, "max_calls", "5"),
    (task_options, "max_calls", 1.5),
    (task_options, "max_retries", "3"),
    (task_options, "max_retries", False),
    (task_options, "retry_exceptions", "yes"),
    (task_options, "retry_exceptions", OSError),
    (task_options, "retry_exceptions", 1),
    (task_options, "_generator_backpressure_num_objects", "1"),
    (actor_options, "max_restarts", 1.0),
    (actor_options, "max_restarts", "1"),
    (actor_options, "max_task_retries", True),
    (actor_options, "max_pending_calls", "5"),
    (actor_options, "max_concurrency", 1.5),
    (actor_options, "concurrency_groups", [("io", 2)]),
    (actor_options, "concurrency_groups", {"io": "2"}),
    (actor_options, "concurrency_groups", {"io": True}),
    (actor_options, "concurrency_groups", {1: 2}),
    (actor_options, "lifetime", 1),
    (actor_options, "namespace", 1),
    (actor_options, "get_if_exists", 1),
    (actor_options, "object_store_memory", "1"),
    (actor_options, "mailbox_size", "1"),
    (method_options, "num_returns", 1.0),
    (method_options, "concurrency_group", 1),
    (method_options, "name", 1),
    (method_options, "max_task_retries", "1"),
]  # fmt: skip

BAD_VALUES = [
    *((make, name, value) for make in (task_options, actor_options) for name, value in [
        ("num_cpus", -1),
        ("num_cpus", 0.00001),
        ("num_cpus", math.nan),
        ("num_cpus", math.inf),
        ("num_gpus", -0.5),
        ("num_gpus", 1.5),
        ("resources", {"a": -1}),
        ("resources", {"a": 0.00001}),
        ("resources", {"CPU": 1}),
        ("resources", {"GPU": 1}),
        ("resources", {"memory": 1}),
        ("resources", {"object_store_memory": 1}),
        ("memory", -1),
        ("memory", math.nan),
        ("memory", math.inf),
        ("memory", 10**30),
        ("scheduling_strategy", "spread"),
        ("scheduling_strategy", ""),
        ("placement_group_bundle_index", -2),
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", math.nan),
        ("no_such_option", 1),
        ("numcpus", 1),
        ("concurrency_group", "io"),
    ]),
    (task_options, "num_returns", -1),
    (task_options, "num_returns", "stream"),
    (task_options, "num_returns", ""),
    (task_options, "max_calls", -1),
    (task_options, "max_retries", -2),
    (task_options, "retry_exceptions", [1]),
    (task_options, "retry_exceptions", ["OSError"]),
    (task_options, "retry_exceptions", [int]),
    (task_options, "retry_exceptions", [OSError()]),
    (task_options, "retry_exceptions", [KeyboardInterrupt]),
    (task_options, "_generator_backpressure_num_objects", 0),
    (task_options, "_generator_backpressure_num_objects", -2),
    (task_options, "object_store_memory", 1),
    (task_options, "max_restarts", 1),
    (task_options, "max_concurrency", 1),
    (task_options, "lifetime", "detached"),
    (actor_options, "max_restarts", -2),
    (actor_options, "max_task_retries", -2),
    (actor_options, "max_pending_calls", -2),
    (actor_options, "max_concurrency", -1),
    (actor_options, "concurrency_groups", {"io": 0}),
    (actor_options, "concurrency_groups", {"io": -1}),
    (actor_options, "lifetime", "forever"),
    (actor_options, "lifetime", ""),
    (actor_options, "namespace", ""),
    (actor_options, "name", ""),
    (actor_options, "object_store_memory", -1),
    (actor_options, "get_if_exists", True),
    (actor_options, "mailbox_size", 0),
    (actor_options, "on_full", "wait"),
    (actor_options, "durable", "always"),
    (actor_options, "durable_path", "relative/path"),
    (actor_options, "durable_path", "memory://gone/with/the/process"),
    (actor_options, "durable_interval_s", 0),
    (actor_options, "max_calls", 1),
    (actor_options, "num_returns", 1),
    (actor_options, "max_retries", 1),
    (actor_options, "retry_exceptions", True),
    (method_options, "num_returns", -1),
    (method_options, "max_task_retries", -2),
    (method_options, "_generator_backpressure_num_objects", 0),
    (method_options, "num_cpus", 1),
    (method_options, "max_retries", 1),
    (method_options, "runtime_env", {}),
]  # fmt: skip


@pytest.mark.parametrize(("make", "name", "value"), WRONG_TYPES)
def test_a_value_of_a_wrong_type_is_a_type_error(make, name, value):
    with pytest.raises(TypeError) as raised:
        make(**{name: value})
    assert name in str(raised.value) or name == "resources"
    if name not in ("max_calls", "concurrency_groups"):  # for decorators only
        with pytest.raises(TypeError):
            make().merged(**{name: value})


@pytest.mark.parametrize(("make", "name", "value"), BAD_VALUES)
def test_a_bad_value_or_an_unknown_option_is_a_value_error(make, name, value):
    with pytest.raises(ValueError):
        make(**{name: value})
    with pytest.raises(ValueError):
        make().merged(**{name: value})


def test_the_error_names_the_option_the_value_and_what_is_expected():
    with pytest.raises(ValueError, match=r"'max_retries' must be None, -1, 0 or.*got -2"):
        task_options(max_retries=-2)
    with pytest.raises(TypeError, match=r"'max_calls' must be None, 0 or a positive.*got str"):
        task_options(max_calls="5")
    with pytest.raises(TypeError, match=r"'label_selector' must be a dict of strings, got int"):
        task_options(label_selector={1: "a"})


def test_an_unknown_option_suggests_the_one_that_was_meant():
    with pytest.raises(ValueError, match=r"'num_cpu' .* for tasks\. Did you mean .*'num_cpus'"):
        task_options(num_cpu=1)
    with pytest.raises(ValueError, match=r"'zzz' \(value 1\) for actors\.$"):
        actor_options(zzz=1)


def test_options_that_contradict_each_other_are_refused():
    for make in (task_options, actor_options):
        with pytest.raises(ValueError, match="not both"):
            make(scheduling_strategy="SPREAD", placement_group=object())
        with pytest.raises(ValueError, match="not both"):
            make(scheduling_strategy="SPREAD").merged(placement_group=object())
        make(scheduling_strategy="SPREAD", placement_group="default")
        make(scheduling_strategy="SPREAD", placement_group=None)
    with pytest.raises(ValueError, match="needs a 'name'"):
        actor_options(get_if_exists=True)
    assert actor_options(get_if_exists=True, name="a").get_if_exists
    assert actor_options(name="a").merged(get_if_exists=True).get_if_exists


# --------------------------------------------------------------------------- old names


def test_num_return_vals_is_the_old_name_of_num_returns():
    with pytest.warns(DeprecationWarning, match="num_return_vals"):
        assert task_options(num_return_vals=3).num_returns == 3
    with (
        pytest.warns(DeprecationWarning, match="num_"),
        pytest.raises(ValueError, match="only one"),
    ):
        task_options(num_return_vals=3, num_returns=3)
    with pytest.warns(DeprecationWarning, match="num_"), pytest.raises(ValueError, match="-1"):
        task_options(num_return_vals=-1)


def test_checkpoint_interval_is_accepted_and_ignored():
    with pytest.warns(DeprecationWarning, match="checkpoint_interval"):
        assert actor_options(checkpoint_interval=5).given_values() == {}


def test_num_custom_resource_is_an_old_way_to_ask_for_it():
    with pytest.warns(DeprecationWarning, match="resources"):
        options = task_options(num_custom_resource=2, resources={"other": 1})
    assert options.resources == {"CustomResource": 2, "other": 1}
    with pytest.warns(DeprecationWarning, match="resources"):
        options = task_options(resources={"other": 1}, num_custom_resource=2)
    assert options.resources == {"CustomResource": 2, "other": 1}
    with (
        pytest.warns(DeprecationWarning, match="resources"),
        pytest.raises(ValueError, match="negative"),
    ):
        task_options(num_custom_resource=-2)
    with pytest.raises(ValueError, match="num_custom_resource"):
        method_options(num_custom_resource=2)


def test_options_of_today_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task_options(num_returns=3, resources={"CustomResource": 1})


# --------------------------------------------------------------------------- merging


def test_merged_options_override_and_leave_the_old_ones_alone():
    old = task_options(num_cpus=2, max_retries=1)
    new = old.merged(num_cpus=4, name="n")
    assert (new.num_cpus, new.max_retries, new.name) == (4, 1, "n")
    assert (old.num_cpus, old.max_retries, old.name) == (2, 1, None)
    assert new.merged(num_cpus=8).num_cpus == 8
    assert type(new) is type(old)


def test_merging_nothing_is_the_same_options():
    old = task_options(num_cpus=2)
    assert old.merged() is old


def test_none_resets_an_option_to_its_default():
    options = task_options(num_cpus=2, max_retries=0, max_calls=4).merged(
        num_cpus=None, max_retries=None
    )
    assert (options.max_retries, options.demand, options.max_calls) == (3, {"CPU": 10_000}, 4)
    actor = actor_options(num_cpus=2).merged(num_cpus=None)
    assert actor.running_demand == {}


def test_options_of_the_decorator_cannot_be_set_later():
    with pytest.raises(ValueError, match="'max_calls' is not supported"):
        task_options(max_calls=1).merged(max_calls=2)
    with pytest.raises(ValueError, match="'concurrency_groups' is not supported"):
        actor_options().merged(concurrency_groups={"io": 1})


def test_runtime_envs_merge_field_by_field_and_variables_one_by_one():
    old = task_options(runtime_env={"env_vars": {"A": "1", "B": "2"}, "working_dir": "here"})
    new = old.merged(runtime_env={"env_vars": {"B": "3"}, "pip": ["x"]})
    assert new.runtime_env == {
        "env_vars": {"A": "1", "B": "3"},
        "working_dir": "here",
        "pip": ["x"],
    }
    assert old.runtime_env == {"env_vars": {"A": "1", "B": "2"}, "working_dir": "here"}
    assert old.merged(runtime_env=None).runtime_env is None
    assert old.merged(num_cpus=1).runtime_env == old.runtime_env
    kept = old.merged(runtime_env={"working_dir": "there"})
    assert kept.runtime_env == {"env_vars": {"A": "1", "B": "2"}, "working_dir": "there"}


@pytest.mark.parametrize("old", ["pip", "uv", "conda"])
@pytest.mark.parametrize("new", ["pip", "uv", "conda"])
def test_an_installer_displaces_its_siblings(old, new):
    merged = task_options(runtime_env={old: ["x"], "config": {}}).merged(runtime_env={new: ["y"]})
    assert merged.runtime_env == {new: ["y"], "config": {}}


def test_an_env_without_variables_leaves_those_that_there_are():
    old = task_options(runtime_env={"env_vars": {"A": "1"}})
    assert old.merged(runtime_env={"env_vars": None}).runtime_env["env_vars"] == {"A": "1"}
    none = task_options(runtime_env={"env_vars": None})
    assert none.merged(runtime_env={"env_vars": {"A": "1"}}).runtime_env["env_vars"] == {"A": "1"}


# --------------------------------------------------------------------------- what is derived


def test_a_task_asks_for_one_cpu_unless_told_otherwise():
    assert task_options().demand == {"CPU": 10_000}
    assert task_options(num_cpus=0).demand == {}
    assert task_options(num_gpus=1).demand == {"CPU": 10_000, "GPU": 10_000}
    assert task_options(
        num_cpus=0.5, memory=7, resources={"a": 2}, accelerator_type="X"
    ).demand == {"CPU": 5000, "memory": 70_000, "a": 20_000, "accelerator_type:X": 10}


def test_an_actor_that_asks_for_nothing_is_placed_by_a_cpu_but_holds_none():
    for options in (actor_options(), actor_options(name="a"), actor_options(num_cpus=None)):
        assert options.placement_demand == {"CPU": 10_000}
        assert options.running_demand == {}


@pytest.mark.parametrize(
    ("given", "held"),
    [
        ({"num_cpus": 2}, {"CPU": 20_000}),
        ({"num_cpus": 0}, {}),
        ({"num_gpus": 1}, {"CPU": 10_000, "GPU": 10_000}),
        ({"num_gpus": 0}, {"CPU": 10_000}),
        ({"resources": {"a": 1}}, {"CPU": 10_000, "a": 10_000}),
        ({"num_cpus": 0, "resources": {"a": 1}}, {"a": 10_000}),
    ],
)
def test_an_actor_that_asks_holds_what_placed_it(given, held):
    options = actor_options(**given)
    assert options.placement_demand == options.running_demand == held


def test_memory_alone_does_not_make_an_actor_hold_a_cpu():
    options = actor_options(memory=5)
    assert options.placement_demand == {"CPU": 10_000, "memory": 50_000}
    assert options.running_demand == {"memory": 50_000}


@pytest.mark.parametrize(
    ("given", "calls"),
    [
        ({}, 0),
        ({"num_gpus": 1}, 1),
        ({"num_gpus": 0.5}, 1),
        ({"num_gpus": 0}, 0),
        ({"num_gpus": 1, "max_calls": 0}, 0),
        ({"num_gpus": 1, "max_calls": 7}, 7),
        ({"max_calls": 7}, 7),
    ],
)
def test_tasks_with_gpus_let_their_process_go_unless_told_otherwise(given, calls):
    assert task_options(**given).max_calls == calls


# --------------------------------------------------------------------------- frozen and shipped


def test_what_was_given_does_not_change_with_the_callers_dict():
    resources, labels, groups = {"a": 1}, {"region": "x"}, {"io": 1}
    options = actor_options(resources=resources, label_selector=labels, concurrency_groups=groups)
    resources["a"], labels["region"], groups["io"] = -5, 3, "many"
    assert options.resources == {"a": 1}
    assert options.label_selector == {"region": "x"}
    assert options.concurrency_groups == {"io": 1}
    assert options.running_demand == {"CPU": 10_000, "a": 10_000}


@pytest.mark.parametrize(
    "options",
    [
        task_options(num_cpus=2, max_retries=None),
        actor_options(name="a", concurrency_groups={"io": 2}),
        method_options(num_returns=2),
    ],
)
def test_options_go_round_through_pickle_and_copies(options):
    for same in (pickle.loads(pickle.dumps(options)), copy.copy(options), copy.deepcopy(options)):
        assert type(same) is type(options)
        assert same.given_values() == options.given_values()
        assert repr(same) == repr(options)
        assert same.name == options.name


def test_other_attributes_do_not_exist():
    with pytest.raises(AttributeError):
        task_options().max_restarts
    with pytest.raises(AttributeError):
        method_options().num_cpus
    assert not hasattr(actor_options(), "max_calls")


def test_options_show_what_was_given():
    assert repr(task_options(num_cpus=2, name="n")) == "TaskOptions(num_cpus=2, name='n')"


# --------------------------------------------------------------------------- durable actors


def test_how_often_and_where_a_durable_actor_is_saved():
    options = actor_options(durable="interval", durable_interval_s=0.5, durable_path="/there")
    assert (options.durable, options.durable_interval_s, options.durable_path) == (
        "interval",
        0.5,
        "/there",
    )
    assert actor_options(durable="call", durable_path="s3://bucket/x").durable_interval_s == 1.0


@pytest.mark.parametrize(
    "given",
    [
        {"durable_interval_s": 2},
        {"durable_path": "/there"},
        {"durable": "call", "durable_interval_s": 2},
        {"durable": "call", "max_concurrency": 2},
        {"durable": "call", "concurrency_groups": {"io": 1}},
    ],
)
def test_options_that_contradict_a_durable_actor_are_refused(given):
    with pytest.raises(ValueError, match="durable"):
        actor_options(**given)
