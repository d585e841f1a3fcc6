"""A cluster of several nodes on this machine, for tests (the interface of Ray's ``Cluster``)."""

from __future__ import annotations

import atexit
import difflib
import os
import signal
import time
from typing import Any

import ract
from ract.client.start import node_processes
from ract.client.start.tool import ask_node
from ract.core.system_config import as_environment, settings
from ract.util.scheduler_process import SchedulerProcess
from ract.worker.hardware.options import check

NODE_DEFAULTS = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 150 * 1024 * 1024}
_NODE_OPTIONS = {
    "num_cpus": "num-cpus",
    "num_gpus": "num-gpus",
    "resources": "resources",
    "labels": "labels",
    "memory": "memory",
    "object_store_memory": "object-store-memory",
    "object_spilling_directory": "object-spilling-directory",
    "node_name": "name",
}
_ELSEWHERE = {"env_vars", "include_dashboard", "dashboard_host", "dashboard_port"}
_FOR_THE_HEAD = {"_system_config"}
_IGNORED = {
    "dashboard_agent_listen_port",
    "enable_object_reconstruction",
    "gcs_server_port",
    "huge_pages",
    "include_log_monitor",
    "log_to_stderr",
    "max_worker_port",
    "metrics_agent_port",
    "metrics_export_port",
    "min_worker_port",
    "no_monitor",
    "node_ip_address",
    "node_manager_port",
    "num_redis_shards",
    "object_manager_port",
    "object_spilling_directory",
    "plasma_directory",
    "raylet_socket_name",
    "redirect_output",
    "redis_max_clients",
    "redis_password",
    "redis_port",
    "temp_dir",
    "tracing_startup_hook",
    "worker_port_list",
}
"""Arguments of Ray's nodes for parts that nodes here do not have."""

_POLL_S = 0.02


class Node:
    """One node: a daemon with its executors, in processes of their own.

    Attributes:
        node_id: Its id, 56 hex digits; also as ``unique_id``.
        pid: The process of its daemon (of the head: with the scheduler).
        session_dir: Its sockets and logs.
        node_ip_address: Where all nodes of the cluster listen.
        node_labels: The labels that it was given.
        address: The scheduler's; also as ``gcs_address``.
    """

    def __init__(
        self, process: node_processes.NodeProcess, labels: dict[str, str] | None = None
    ) -> None:
        self._process = process
        self.node_id: str = process.answer["node_id"]
        self.unique_id = self.node_id
        self.node_labels = dict(labels or {})
        self.address = self.gcs_address = str(process.answer["scheduler_address"])
        self.node_ip_address = self.address.rpartition(":")[0].rpartition("/")[2]
        self.pid = process.process.pid
        self.session_dir: str = process.answer["session_dir"]
        self.dashboard_url: str = process.answer.get("dashboard_url", "")

    @property
    def alive(self) -> bool:
        """Whether its daemon runs."""
        return self._process.process.poll() is None

    def is_head(self) -> bool:
        """Whether it is the head: the scheduler is in its process, unless that has its own."""
        return bool(self._process.answer.get("is_head"))

    def get_session_dir_path(self) -> str:
        """Ray's name for ``session_dir``."""
        return self.session_dir

    def get_logs_dir_path(self) -> str:
        """The folder of what its executors print."""
        return os.path.join(self.session_dir, "logs")

    def any_processes_alive(self) -> bool:
        """Ray's name for `alive`."""
        return self.alive

    remaining_processes_alive = any_processes_alive

    def kill(self) -> None:
        """SIGKILL: no goodbye. Its executors end with it, within moments."""
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
        self._process.process.wait()

    kill_raylet = kill

    def stop(self) -> None:
        """SIGTERM: it says goodbye to the cluster and takes its executors along."""
        self._process.stop()

    def __repr__(self) -> str:
        state = "" if self.alive else ", ended"
        return f"Node({self.node_id[:8]}, pid={self.pid}{state})"


class Cluster:
    """Several nodes on this machine; the first that is added is the head.

    Args:
        initialize_head: Start the head at once.
        connect: Also connect this process to it.
        head_node_args: As for `add_node`.
        shutdown_at_exit: End the cluster with this process. If this process is killed, the nodes
            end all the same.
        journal: Run the scheduler in a process of its own, `scheduler`, which keeps a journal in
            this file: it may be killed and started again.

    Attributes:
        scheduler: The process of the scheduler, if it has one of its own.
    """

    def __init__(
        self,
        initialize_head: bool = False,
        connect: bool = False,
        head_node_args: dict[str, Any] | None = None,
        shutdown_at_exit: bool = True,
        *,
        journal: str | os.PathLike[str] | None = None,
    ) -> None:
        self.scheduler: SchedulerProcess | None = None
        self._journal = journal
        self.head_node: Node | None = None
        self._system_config: dict[str, Any] = {}
        self.worker_nodes: list[Node] = []
        self.address = ""
        if head_node_args is not None and not initialize_head:
            raise ValueError("head_node_args are for initialize_head=True")
        if connect and not initialize_head:
            raise ValueError("connect=True needs initialize_head=True")
        if shutdown_at_exit:
            atexit.register(self.shutdown)
        if initialize_head:
            self.add_node(**(head_node_args or {}))
            if connect:
                self.connect()

    @property
    def gcs_address(self) -> str:
        """Ray's name for ``address``."""
        return self.address

    def add_node(self, wait: bool = True, **node_args: Any) -> Node:
        """Start a node and return it once it has joined.

        Args:
            wait: Accepted for compatibility: a node that has not joined would be no node.
            node_args: num_cpus (1), num_gpus (0), resources, labels, memory, object_store_memory
                (150 MiB), node_name, env_vars; for the head also include_dashboard (False),
                dashboard_host, dashboard_port and _system_config. Ports and folders of parts that
                only Ray has are ignored.

        Raises:
            TypeError, ValueError: an unknown argument, a bad quantity of a resource, a bad label,
                or more accelerators than the node may see.
            RuntimeError: the node could not start.
        """
        _check(node_args)
        given = {**NODE_DEFAULTS, **node_args}
        options = {
            option: given[name]
            for name, option in _NODE_OPTIONS.items()
            if given.get(name) is not None
        }
        environ = {**os.environ, **(given.get("env_vars") or {})}
        is_first = self.head_node is None
        system_config = (given.get("_system_config") or {}) if is_first else self._system_config
        settings(system_config, environ)
        check(options, {**environ, **as_environment(system_config)})
        config: dict[str, Any] = {"node": options, "system_config": system_config}
        if is_first:
            options["is-head"] = True
            self._system_config = dict(system_config)
            if self._journal is not None:
                config["scheduler"] = self._start_scheduler(self._system_config)
            elif given.get("include_dashboard"):
                host = given.get("dashboard_host") or "127.0.0.1"
                config["dashboard"] = f"{host}:{given.get('dashboard_port') or 0}"
        else:
            config["scheduler"] = self.address
        node = Node(node_processes.start(config, given.get("env_vars")), given.get("labels"))
        if self.head_node is None:
            self.head_node = node
            self.address = node._process.answer["scheduler_address"]
        else:
            self.worker_nodes.append(node)
        return node

    def _start_scheduler(self, system_config: dict[str, Any]) -> str:
        assert self._journal is not None
        if self.scheduler is None:
            self.scheduler = SchedulerProcess(self._journal, as_environment(system_config))
        return self.scheduler.address

    def remove_node(self, node: Node, allow_graceful: bool = True) -> None:
        """End a node and return when its processes are gone.

        Args:
            node: One of this cluster; the head takes the scheduler along.
            allow_graceful: It may say goodbye (SIGTERM); otherwise SIGKILL.

        Raises:
            ValueError: not a node of this cluster.
        """
        if node is not self.head_node and node not in self.worker_nodes:
            raise ValueError(f"{node!r} is not (any more) a node of this cluster")
        if allow_graceful:
            node.stop()
        else:
            node.kill()
        if node is self.head_node:
            self.head_node = None
        else:
            self.worker_nodes.remove(node)

    def list_all_nodes(self) -> list[Node]:
        """The nodes that were added and not removed, the head first."""
        return [*([self.head_node] if self.head_node is not None else []), *self.worker_nodes]

    def wait_for_nodes(self, timeout: float = 30) -> None:
        """Wait until the scheduler knows exactly the nodes of this object as alive.

        Raises:
            TimeoutError: not within ``timeout`` seconds; the message says who is missing.
            RuntimeError: there is no head.
        """
        if self.head_node is None:
            raise RuntimeError("the cluster has no head; add a node first")
        expected = {node.node_id for node in self.list_all_nodes()}
        deadline = time.monotonic() + timeout
        while True:
            rows = ask_node(self.head_node.session_dir, "nodes")
            alive = {row["NodeID"] for row in rows if row["Alive"]}
            if alive == expected:
                return
            if time.monotonic() > deadline:
                missing = ", ".join(i[:8] for i in expected - alive) or "none"
                extra = ", ".join(i[:8] for i in alive - expected) or "none"
                raise TimeoutError(
                    f"after {timeout} s these nodes have not joined: {missing}; "
                    f"these are still alive: {extra}"
                )
            time.sleep(_POLL_S)

    def connect(self, namespace: str | None = None) -> ract.RactContext:
        """``ract.init`` of this process into this cluster.

        Raises:
            RuntimeError: there is no head, or this process is connected already.
        """
        if self.head_node is None:
            raise RuntimeError("the cluster has no head; add a node first")
        return ract.init(self.address, namespace=namespace)

    def remaining_processes_alive(self) -> bool:
        """Whether the daemon of every node that was not removed still runs."""
        return all(node.alive for node in self.list_all_nodes())

    def shutdown(self) -> None:
        """Disconnect this process if it is connected here, and end every node. Idempotent."""
        atexit.unregister(self.shutdown)
        runtime = ract.is_initialized() and ract.get_runtime_context()
        if runtime and self.address and runtime.gcs_address == self.address:
            ract.shutdown()
        for node in reversed(self.list_all_nodes()):
            self.remove_node(node)
        scheduler, self.scheduler = self.scheduler, None
        if scheduler is not None and scheduler.alive:
            scheduler.stop()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()


def _check(node_args: dict[str, Any]) -> None:
    known = _NODE_OPTIONS.keys() | _ELSEWHERE | _FOR_THE_HEAD | _IGNORED
    for name in node_args:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise TypeError(f"add_node() got an unexpected argument {name!r}{hint}")
