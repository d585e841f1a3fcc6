"""``ray._private.test_utils``: what Ray's own tests use, as far as ract has what it is about."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import psutil

import ract
from ract.compat.absent import absent
from ract.compat.killers import (
    RayletKiller,
    ResourceKiller,
    WorkerKillerActor,
    get_and_run_resource_killer,
)
from ract.compat.ported._common.network_utils import find_free_port
from ract.compat.ported._common.test_utils import (
    MetricSamplePattern,
    PrometheusTimeseries,
    Semaphore,
    SignalActor,
    async_wait_for_condition,
    fetch_prometheus,
    fetch_prometheus_metric_timeseries,
    fetch_prometheus_metrics,
    fetch_prometheus_timeseries,
    fetch_raw_prometheus,
    run_string_as_driver,
    run_string_as_driver_nonblocking,
    run_string_as_driver_stdout_stderr,
    wait_for_condition,
)
from ract.compat.ported.core.generated.gcs_pb2 import ActorTableData
from ract.compat.prometheus import get_metric_check_condition, raw_metric_timeseries
from ract.compat.subscriptions import (
    get_error_message,
    get_log_batch,
    get_log_data,
    get_log_message,
    get_log_sources,
    init_error_pubsub,
    init_log_pubsub,
)
from ract.util.placement_group import (
    PlacementGroup,
    placement_group_table,
    remove_placement_group,
)
from ract.util.state.api import get_actor, list_actors
from ract.util.state.common import MAX_LIMIT
from ract.util.testing import memory_summary

__all__ = [
    "MetricSamplePattern",
    "PrometheusTimeseries",
    "RayletKiller",
    "ResourceKiller",
    "Semaphore",
    "SignalActor",
    "WorkerKillerActor",
    "async_wait_for_condition",
    "chdir",
    "check_call_ray",
    "check_call_subprocess",
    "check_spilled_mb",
    "client_test_enabled",
    "convert_actor_state",
    "dicts_equal",
    "external_redis_test_enabled",
    "fetch_prometheus",
    "fetch_prometheus_metric_timeseries",
    "fetch_prometheus_metrics",
    "fetch_prometheus_timeseries",
    "fetch_raw_prometheus",
    "find_free_port",
    "format_web_url",
    "generate_system_config_map",
    "get_actor_node_id",
    "get_and_run_resource_killer",
    "get_current_unused_port",
    "get_error_message",
    "get_load_metrics_report",
    "get_log_batch",
    "get_log_data",
    "get_log_message",
    "get_log_sources",
    "get_metric_check_condition",
    "get_node_stats",
    "get_non_head_nodes",
    "get_other_nodes",
    "get_resource_usage",
    "init_error_pubsub",
    "init_log_pubsub",
    "is_placement_group_removed",
    "is_process_alive",
    "kill_actor_and_wait_for_failure",
    "kill_process_by_name",
    "kill_raylet",
    "make_global_state_accessor",
    "no_resource_leaks_excluding_node_resources",
    "object_memory_usage",
    "placement_group_assert_no_leak",
    "put_object",
    "raw_metric_timeseries",
    "run_string_as_driver",
    "run_string_as_driver_nonblocking",
    "run_string_as_driver_stdout_stderr",
    "same_elements",
    "wait_for_assertion",
    "wait_for_children_of_pid",
    "wait_for_children_of_pid_to_exit",
    "wait_for_condition",
    "wait_for_num_actors",
    "wait_for_num_nodes",
    "wait_for_pid_to_exit",
    "wait_until_server_available",
    "wait_until_succeeded_without_exception",
]


def client_test_enabled() -> bool:
    """Whether the tests run through a client server: ract has none."""
    return False


def generate_system_config_map(**settings: Any) -> dict[str, Any]:
    """Arguments of a fixture that starts a cluster with these settings."""
    return {"_system_config": settings}


def wait_for_pid_to_exit(pid: int, timeout: float = 20) -> None:
    """Return once the process is gone. Raises RuntimeError."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        if time.monotonic() >= deadline:
            raise RuntimeError(f"Timed out while waiting for process {pid} to exit.")
        time.sleep(0.05)


def kill_actor_and_wait_for_failure(actor: Any, timeout: float = 10, retry_interval_ms=100) -> None:
    """Kill an actor and return once the cluster knows that it is dead or restarts."""
    actor_id = actor._actor_id.hex()
    before = get_actor(actor_id)
    ract.kill(actor)

    def failed() -> bool:
        row = get_actor(actor_id)
        if row is None or row.state == "DEAD":
            return True
        return before is not None and row.pid != before.pid

    wait_for_condition(failed, timeout=timeout, retry_interval_ms=retry_interval_ms)


def convert_actor_state(state: Any) -> str:
    """The name of an actor's state; tables have the name already."""
    return state if isinstance(state, str) else ActorTableData.ActorState.Name(state)


def wait_for_num_actors(num_actors: int, state: str | None = None, timeout: float = 10) -> None:
    """Return once the cluster knows so many actors (in that state). Raises RuntimeError."""
    filters: Any = [("state", "=", state)] if state else None
    wait_for_condition(
        lambda: len(list_actors(filters=filters, limit=MAX_LIMIT)) >= num_actors, timeout=timeout
    )


def wait_for_num_nodes(num_nodes: int, timeout_s: float) -> None:
    """Return once so many nodes are alive. Raises RuntimeError."""
    wait_for_condition(
        lambda: sum(node["Alive"] for node in ract.nodes()) == num_nodes, timeout=timeout_s
    )


def get_other_nodes(cluster: Any, exclude_head: bool = False) -> list[Any]:
    """The nodes of a test cluster but this process' own (or the head)."""
    nodes = [cluster.head_node, *cluster.worker_nodes]
    if exclude_head:
        return [node for node in nodes if node is not cluster.head_node]
    mine = ract.get_runtime_context().get_node_id()
    return [node for node in nodes if node.node_id != mine]


def get_actor_node_id(actor_handle: Any) -> str | None:
    """The node of an actor, in hex; None before it has one."""
    row = get_actor(actor_handle._actor_id.hex())
    return row.node_id if row is not None else None


def is_placement_group_removed(pg: PlacementGroup) -> bool:
    """Whether the cluster knows that a placement group is removed."""
    return placement_group_table(pg).get("state") == "REMOVED"


def placement_group_assert_no_leak(pgs_created: Iterable[PlacementGroup]) -> None:
    """Remove placement groups, and check that they give back all that they had reserved."""
    groups = list(pgs_created)
    for group in groups:
        remove_placement_group(group)

    def free_again() -> bool:
        left = ract.available_resources()
        names = [name for name in left for group in groups if group.id.hex() in name]
        return not names and all(map(is_placement_group_removed, groups))

    wait_for_condition(free_again)
    assert free_again()


def no_resource_leaks_excluding_node_resources() -> bool:
    """Whether all that the cluster has is free, apart from memory of objects."""

    def counted(resources: dict[str, float]) -> dict[str, float]:
        return {
            name: n
            for name, n in resources.items()
            if not name.startswith("node:") and name != "object_store_memory"
        }

    return counted(ract.cluster_resources()) == counted(ract.available_resources())


def wait_for_children_of_pid(pid: int, num_children: int = 1, timeout: float = 20) -> None:
    """Return once a process has so many children. Raises RuntimeError."""
    wait_for_condition(lambda: len(_children(pid)) >= num_children, timeout=timeout)


def wait_for_children_of_pid_to_exit(pid: int, timeout: float = 20) -> None:
    """Return once the children that a process has now are gone. Raises RuntimeError."""
    children = _children(pid)
    wait_for_condition(lambda: not any(child.is_running() for child in children), timeout=timeout)


def _children(pid: int) -> list[psutil.Process]:
    try:
        return [
            child
            for child in psutil.Process(pid).children()
            if child.status() != psutil.STATUS_ZOMBIE
        ]
    except psutil.NoSuchProcess:
        return []


def object_memory_usage() -> float:
    """Bytes of the object store that are in use, in the whole cluster."""
    total = ract.cluster_resources().get("object_store_memory", 0)
    return total - ract.available_resources().get("object_store_memory", 0)


def get_current_unused_port() -> int:
    """A TCP port of this machine that nobody listens at now."""
    return find_free_port()


@contextlib.contextmanager
def chdir(d: str) -> Iterator[None]:
    """Work in another folder for a while."""
    before = os.getcwd()
    os.chdir(d)
    try:
        yield
    finally:
        os.chdir(before)


def external_redis_test_enabled() -> bool:
    """False: there is no Redis here."""
    return False


def get_non_head_nodes(cluster: Any) -> list[Any]:
    """The nodes of a test cluster but the head."""
    return get_other_nodes(cluster, exclude_head=True)


def wait_for_assertion(
    assertion_predictor: Callable[..., Any],
    timeout: float = 10,
    retry_interval_ms: float = 100,
    raise_exceptions: bool = False,
    **kwargs: Any,
) -> None:
    """Return once the function raises no AssertionError."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            assertion_predictor(**kwargs)
            return
        except AssertionError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(retry_interval_ms / 1000)


def wait_until_succeeded_without_exception(
    func: Callable[..., Any],
    exceptions: Any,
    *args: Any,
    timeout_ms: float = 1000,
    retry_interval_ms: float = 100,
    raise_last_ex: bool = False,
) -> bool:
    """Whether the function came to its end in time without one of these exceptions."""
    deadline = time.monotonic() + timeout_ms / 1000
    while True:
        try:
            func(*args)
            return True
        except exceptions:
            if time.monotonic() >= deadline:
                if raise_last_ex:
                    raise
                return False
        time.sleep(retry_interval_ms / 1000)


def same_elements(elems_a: Iterable[Any], elems_b: Iterable[Any]) -> bool:
    """Whether both have the same elements, in any order."""
    a, b = list(elems_a), list(elems_b)
    return all(a.count(each) == b.count(each) for each in (*a, *b))


def dicts_equal(dict1: dict[Any, Any], dict2: dict[Any, Any], abs_tol: float = 1e-4) -> bool:
    """Whether both have the same keys, and numbers that differ by no more."""
    return dict1.keys() == dict2.keys() and all(
        abs(value - dict2[key]) <= abs_tol for key, value in dict1.items()
    )


def put_object(obj: Any, use_ray_put: bool) -> Any:
    """A ref to the value, made by ``put`` or by a task."""
    return ract.put(obj) if use_ray_put else _returned.remote(obj)


@ract.remote
def _returned(value: Any) -> Any:
    return value


def is_process_alive(pid: int) -> bool:
    """Whether there is such a process."""
    return os.path.exists(f"/proc/{pid}")


def kill_raylet(raylet: dict[str, Any], graceful: bool = False) -> None:
    """Kill the daemon of a node of this machine, which `ract.nodes` tells of, and wait for that."""
    try:
        daemon = psutil.Process(raylet["pid"])
        daemon.terminate() if graceful else daemon.kill()
        daemon.wait(20)
    except psutil.NoSuchProcess:
        pass


def kill_process_by_name(name: str, SIGKILL: bool = False) -> None:
    """End the processes of this machine whose name is ``name`` and something."""
    for process in psutil.process_iter(["name"]):
        if process.info["name"] in (name, f"{name}.exe"):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill() if SIGKILL else process.terminate()


def wait_until_server_available(
    address: str, timeout_ms: float = 5000, retry_interval_ms: float = 100
) -> bool:
    """Whether somebody listens at ``host:port`` in time."""
    host, _, port = address.removeprefix("http://").rpartition(":")

    def connect() -> None:
        socket.create_connection((host, int(port)), timeout=1).close()

    return wait_until_succeeded_without_exception(
        connect, OSError, timeout_ms=timeout_ms, retry_interval_ms=retry_interval_ms
    )


def format_web_url(url: str) -> str:
    """An address with its scheme."""
    return url if url.startswith(("http://", "https://")) else f"http://{url}"


def check_spilled_mb(
    address: Any,
    spilled: int | None = None,
    restored: int | None = None,
    fallback: int | None = None,
) -> None:
    """Wait until so many MiB were spilled (or none), restored, and are behind files of their own.

    Raises:
        RuntimeError: it does not come to that.
    """

    def is_so() -> bool:
        text = memory_summary(address=address["address"], stats_only=True)
        lines = {"Spilled": spilled, "Restored": restored}
        told = [
            f"{verb} {n} MiB" in text if n else verb not in text
            for verb, n in lines.items()
            if n is not None or verb == "Spilled"
        ]
        return all(told) and (not fallback or f"mmap usage: {fallback} MiB" in text)

    wait_for_condition(is_so, timeout=20)


def check_call_subprocess(
    argv: list[str], capture_stdout: bool = False, capture_stderr: bool = False
) -> tuple[str, str]:
    """Run a command; its (stdout, stderr), as far as they are captured.

    Raises:
        subprocess.CalledProcessError: it ended with another exit code than 0.
    """
    pipe = subprocess.PIPE
    done = subprocess.run(
        argv,
        stdout=pipe if capture_stdout else None,
        stderr=pipe if capture_stderr else None,
        text=True,
        check=True,
    )
    return done.stdout or "", done.stderr or ""


def check_call_ray(
    args: list[str], capture_stdout: bool = False, capture_stderr: bool = False
) -> tuple[str, str]:
    """Run ract's command with these arguments."""
    command = [sys.executable, "-m", "ract", *args]
    return check_call_subprocess(command, capture_stdout, capture_stderr)


get_node_stats = absent("get_node_stats", "statistics by RPC")
get_resource_usage = absent("get_resource_usage", "statistics by RPC")
get_load_metrics_report = absent("get_load_metrics_report", "metrics of an autoscaler")
make_global_state_accessor = absent(
    "make_global_state_accessor", "accessor of a global control store"
)
