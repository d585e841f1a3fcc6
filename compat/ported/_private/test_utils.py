"""``ray._private.test_utils``: what Ray's own tests use, as far as ract has what it is about."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

import psutil

import ract
from ract.compat.ported._common.test_utils import (
    Semaphore,
    SignalActor,
    async_wait_for_condition,
    run_string_as_driver,
    run_string_as_driver_nonblocking,
    wait_for_condition,
)
from ract.util.state.api import get_actor, list_actors
from ract.util.state.common import MAX_LIMIT
from ract.util.testing import error_messages, log_messages

__all__ = [
    "Semaphore",
    "SignalActor",
    "async_wait_for_condition",
    "client_test_enabled",
    "convert_actor_state",
    "dicts_equal",
    "find_free_port",
    "generate_system_config_map",
    "get_error_message",
    "get_non_head_nodes",
    "get_other_nodes",
    "init_error_pubsub",
    "init_log_pubsub",
    "kill_actor_and_wait_for_failure",
    "put_object",
    "run_string_as_driver",
    "run_string_as_driver_nonblocking",
    "same_elements",
    "wait_for_assertion",
    "wait_for_condition",
    "wait_for_num_actors",
    "wait_for_num_nodes",
    "wait_for_pid_to_exit",
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
    """The name of an actor's state, which is what tables have."""
    return str(state)


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


def find_free_port(family: socket.AddressFamily = socket.AF_INET) -> int:
    """A TCP port of this machine that nobody listens at now."""
    with socket.socket(family) as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def put_object(obj: Any, use_ray_put: bool) -> Any:
    """A ref to the value, made by ``put`` or by a task."""
    return ract.put(obj) if use_ray_put else _returned.remote(obj)


@ract.remote
def _returned(value: Any) -> Any:
    return value


class _Messages:
    """A subscription: what came since it was made."""

    def __init__(self, read: Callable[[], list[dict[str, Any]]]) -> None:
        self._read = read
        self._seen = len(read())

    def take(self) -> list[dict[str, Any]]:
        found = self._read()
        new, self._seen = found[self._seen :], len(found)
        return new

    def close(self) -> None:
        """Nothing to end."""


def init_error_pubsub() -> _Messages:
    """Listen for errors that the cluster pushes to this driver."""
    return _Messages(error_messages)


def init_log_pubsub() -> _Messages:
    """Listen for lines that tasks and actors print."""
    return _Messages(log_messages)


def get_error_message(
    subscriber: _Messages, num: float = 1e6, error_type: str | None = None, timeout: float = 20
) -> list[Any]:
    """Up to ``num`` errors (of a type) that came, waiting for them until the timeout."""
    deadline = time.monotonic() + timeout
    found: list[Any] = []
    while len(found) < num and time.monotonic() < deadline:
        for message in subscriber.take():
            if error_type is None or message.get("type") == error_type:
                found.append(message)
        time.sleep(0.05)
    return found


def is_process_alive(pid: int) -> bool:
    """Whether there is such a process."""
    return os.path.exists(f"/proc/{pid}")
