"""Helpers that Ray's own tests import do what they say."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import ract
from ract.compat.ported._common import network_utils, utils
from ract.compat.ported._private import (
    accelerators,
    internal_api,
    label_utils,
    state,
    test_utils,
)
from ract.compat.ported._private.utils import parse_pg_formatted_resources_to_original
from ract.compat.ported._private.worker import global_worker
from ract.compat.ported.core.generated.gcs_pb2 import ActorTableData
from ract.testing import Cluster
from ract.util import placement_group
from ract.util.metrics import Counter
from ract.util.testing import SignalActor


def test_what_ract_does_not_have_is_named_when_it_is_called():
    with pytest.raises(ImportError, match=r"get_node_stats.*statistics by RPC"):
        test_utils.get_node_stats({})
    with pytest.raises(AttributeError, match="gcs_client"):
        global_worker.gcs_client


@pytest.mark.parametrize(
    ("written", "labels"),
    [("", {}), ("a=b, c=d", {"a": "b", "c": "d"}), ("a=", {"a": ""}), ("x.y/a=b", {"x.y/a": "b"})],
)
def test_labels_are_read(written, labels):
    assert label_utils.parse_node_labels_string(written) == labels


@pytest.mark.parametrize("written", ["a", "a=b,", "a=b=c", "=b", "a@=b", "a=b@", "a/b/c=d"])
def test_bad_labels_are_refused(written):
    with pytest.raises(ValueError, match=r"Invalid label key|key-value pair"):
        label_utils.parse_node_labels_string(written)


def test_labels_of_users_have_no_reserved_prefix():
    assert label_utils.parse_node_labels_json('{"a": "b"}') == {"a": "b"}
    with pytest.raises(ValueError, match="cannot start with the prefix"):
        label_utils.parse_node_labels_json('{"ray.io/a": "b"}')


@pytest.mark.parametrize("value", ["v", "!v", "in(a,b)", "!in(a, b)", ""])
def test_selectors_are_accepted(value):
    assert label_utils.validate_label_selector({"key": value}) is None


@pytest.mark.parametrize("value", ["!", "!!v", "in()", "in(a", "in(a,)", "exists()", "v@"])
def test_what_is_wrong_with_a_selector_is_said(value):
    assert "Invalid label selector value" in label_utils.validate_label_selector({"key": value})
    fallback = [{"label_selector": {"key": value}}]
    assert "Invalid" in label_utils.validate_fallback_strategy(fallback)


def test_resources_of_a_placement_group_are_resources():
    group = "e765be422c439de2cd263c5d9d1701000000"
    named = {f"CPU_group_0_{group}": 1, f"CPU_group_1_{group}": 2, f"CPU_group_{group}": 3, "a": 4}
    assert parse_pg_formatted_resources_to_original(named) == {"CPU": 3, "a": 4}


def test_addresses():
    assert network_utils.parse_address(network_utils.build_address("::1", 80)) == ("::1", "80")
    assert network_utils.parse_address("host:1") == ("host", "1")
    assert network_utils.parse_address("host") is None


def test_environment_variables_are_read(monkeypatch):
    monkeypatch.setenv("NUMBER", "3")
    monkeypatch.setenv("YES", "True")
    assert utils.env_integer("NUMBER", 1) == 3
    assert utils.env_integer("YES", 0) == 1
    assert utils.env_bool("YES", False) is True
    assert utils.env_float("NOTHING", 0.5) == 0.5


def test_states_have_numbers_and_names():
    assert test_utils.convert_actor_state(ActorTableData.DEAD) == "DEAD"
    assert test_utils.convert_actor_state("ALIVE") == "ALIVE"
    assert ActorTableData.ActorState.Value("RESTARTING") == 3


def test_managers_know_their_devices(monkeypatch):
    manager = accelerators.get_accelerator_manager_for_resource("TPU")
    assert manager is accelerators.TPUAcceleratorManager
    assert manager.get_visible_accelerator_ids_env_var() == "TPU_VISIBLE_CHIPS"
    assert manager.validate_resource_request_quantity(4) == (True, None)
    assert manager.validate_resource_request_quantity(3)[0] is False
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    nvidia = accelerators.NvidiaGPUAcceleratorManager
    assert nvidia.get_current_process_visible_accelerator_ids() == ["3", "5"]
    assert "GPU" in accelerators.get_all_accelerator_resource_names()
    assert accelerators.get_accelerator_manager_for_resource("nothing") is None


def test_a_script_that_does_not_end_is_ended():
    with pytest.raises(subprocess.TimeoutExpired):
        test_utils.run_string_as_driver("import time; time.sleep(60)", timeout=1)
    printed = test_utils.run_string_as_driver_stdout_stderr(
        "import sys; print(1); print(2, file=sys.stderr)"
    )
    assert printed == ("1\n", "2\n")


def test_leaks_of_placement_groups_are_found(ract_start):
    group = placement_group([{"CPU": 1}])
    assert group.wait(10)
    assert not test_utils.is_placement_group_removed(group)
    assert not test_utils.no_resource_leaks_excluding_node_resources()
    test_utils.placement_group_assert_no_leak([group])
    assert test_utils.is_placement_group_removed(group)
    assert test_utils.no_resource_leaks_excluding_node_resources()


def test_tables_by_node_and_facts_about_the_process(ract_start):
    me = global_worker.current_node_id.hex()
    assert me == ract.get_runtime_context().get_node_id()
    assert state.state.total_resources_per_node()[me]["CPU"] == 2
    assert state.available_resources_per_node()[me]["CPU"] == 2
    assert state.node_ids() == [state.current_node_id()]
    assert global_worker.mode == ract.SCRIPT_MODE

    @ract.remote
    def inside():
        return global_worker.mode, global_worker.current_task_id.is_nil(), os.getpid()

    mode, is_nil, pid = ract.get(inside.remote())
    assert (mode, is_nil) == (ract.WORKER_MODE, False)
    ract.shutdown()
    test_utils.wait_for_pid_to_exit(pid)


def test_the_process_tells_of_its_refs_and_of_its_node(ract_start):
    ref = ract.put(list(range(100)))
    process, node = global_worker.core_worker, global_worker.node
    assert process.object_exists(ref)
    assert process.get_all_reference_counts() == {ref.hex().encode(): {"local": 1, "submitted": 0}}
    assert node.node_id == node.unique_id == ract.get_runtime_context().get_node_id()
    assert os.path.isdir(node.get_session_dir_path())
    assert node.get_logs_dir_path().startswith(node.get_session_dir_path())
    assert node.address == ract.get_runtime_context().gcs_address
    assert node.remaining_processes_alive()
    for holder, name in ((process, "submit_task"), (node, "kill_reaper")):
        with pytest.raises(AttributeError, match=name):
            getattr(holder, name)
    ract.shutdown()
    assert global_worker.node is None
    with pytest.raises(ract.exceptions.RactSystemError):
        global_worker.core_worker


def test_lines_that_tasks_print_are_subscribed_to(ract_start):
    lines = test_utils.init_log_pubsub()

    @ract.remote
    def talk(text):
        print(text)

    ract.get([talk.remote("one"), talk.remote("two")])
    found = test_utils.get_log_message(lines, 1, matcher=lambda each: "two" in each["lines"])
    assert any("two" in each for each in found)


def test_modules_are_attributes_as_in_ray(tmp_path):
    code = """
    import ract.compat.ray
    import ray
    assert ray._private.state.actors and ray._private.worker.global_worker
    assert ray._private.worker._global_node is None
    assert ray.core.generated.gcs_pb2.ActorTableData
    assert ray.experimental.internal_kv and ray.util.state
    from ray.util.client.ray_client_helpers import connect_to_client_or_not
    from ray.autoscaler.v2.sdk import request_cluster_resources
    with connect_to_client_or_not(True):
        pass
    for name in ("worker", "scheduler", "testing"):
        assert not hasattr(ray, name), name
    assert not hasattr(ray.core, "messages")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_stores_tell_what_they_hold(ract_module):
    here = ract.get_runtime_context().get_node_id()
    assert internal_api.node_stats()[here]["objects"] >= 0
    assert "Plasma memory usage" in internal_api.store_stats()


def test_metrics_are_read_under_the_names_of_ray(tmp_path):
    ract.shutdown()
    with ract.init(num_cpus=1, include_dashboard=True) as info:
        counter = Counter("seen", description="d", tag_keys=("a",))
        counter.inc(2, tags={"a": "x"})
        series = test_utils.PrometheusTimeseries()
        pattern = test_utils.MetricSamplePattern("ray_seen_total", 2.0, {"a": "x"})
        test_utils.wait_for_condition(
            test_utils.get_metric_check_condition([pattern], series), timeout=30
        )
        [sample] = test_utils.raw_metric_timeseries(info, series)["ray_seen_total"]
        assert sample.labels["a"] == "x"
        node = ract.nodes()[0]
        address = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
        assert info["metrics_export_port"] == node["MetricsExportPort"]
        assert "ray_seen_total" in test_utils.fetch_prometheus_metrics([address])
        pattern.value = 3.0
        assert not test_utils.get_metric_check_condition([pattern], series)()
        assert test_utils.wait_until_server_available(address)
    assert test_utils.fetch_prometheus([address]) == ({address: set()}, {}, [])


def test_killers_kill_what_they_are_for():
    ract.shutdown()
    with Cluster(True, head_node_args={"num_cpus": 2, "resources": {"head": 1}}) as cluster:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        cluster.connect()
        signal = SignalActor.options(resources={"head": 0.1}).remote()

        @ract.remote(max_retries=-1, num_cpus=1, resources={"head": 0.1})
        def work():
            ract.get(signal.wait.remote())
            return os.getpid()

        ref = work.remote()
        killer = test_utils.get_and_run_resource_killer(
            test_utils.WorkerKillerActor,
            0.05,
            max_to_kill=1,
            kill_filter_fn=lambda task: task.name == "work",
        )
        test_utils.wait_for_condition(
            lambda: len(ract.get(killer.get_killed_nodes.remote())) == 1, timeout=30
        )
        [(_, pid, node_id)] = ract.get(killer.get_killed_nodes.remote())
        assert node_id == ract.get_runtime_context().get_node_id()
        ract.get(signal.send.remote())
        assert ract.get(ref) != pid
        ract.kill(killer)
        killer = test_utils.get_and_run_resource_killer(
            test_utils.RayletKiller, 0.05, max_to_kill=None, namespace="other"
        )
        test_utils.wait_for_num_nodes(1, 30)
        assert ract.get(killer.stop_run.remote())
        assert len(ract.get(killer.get_total_killed.remote())) == 1
        node = cluster.add_node(num_cpus=1)
        test_utils.wait_for_num_nodes(2, 30)
        [row] = [row for row in ract.nodes() if row["NodeID"] == node.node_id]
        test_utils.kill_raylet(row)
        test_utils.wait_for_num_nodes(1, 30)


def test_what_was_spilled_is_told_in_megabytes():
    ract.shutdown()
    with ract.init(num_cpus=1, object_store_memory=150 * 2**20) as address:
        test_utils.check_spilled_mb(address)
        refs = [ract.put(np.zeros(50 * 2**20, np.uint8)) for _ in range(5)]
        test_utils.check_spilled_mb(address, spilled=150)
        del refs


def test_commands_are_run():
    said, _ = test_utils.check_call_ray(["--version"], capture_stdout=True)
    assert ract.__version__ in said
    with pytest.raises(subprocess.CalledProcessError):
        test_utils.check_call_ray(["no-such-command"], capture_stderr=True)
