"""A cluster on this machine that grows and shrinks, for tests: a head, and nodes of given types.

A thread asks the scheduler what waits and what was asked for in advance, several times a second. It
adds a node at a time (`ract.autoscaler.choice` says of which type), and drains those that were not
needed for a while.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ract.autoscaler.choice import NodeType, to_add
from ract.client.start.tool import ask_node
from ract.util.local_cluster import Cluster, Node

logger = logging.getLogger(__name__)

IDLE_TIMEOUT_MINUTES = 5.0
MAX_WORKERS = 8
"""So many nodes beside the head, of each type and of all, unless something else is said."""

POLL_S = 0.2
RETRY_S = 5.0
TYPE_LABEL = "ray.io/node-group"

_ARGUMENT_OF = {
    "CPU": "num_cpus",
    "GPU": "num_gpus",
    "memory": "memory",
    "object_store_memory": "object_store_memory",
}


class AutoscalingCluster:
    """A head, and nodes that come when something waits for them and go when nothing does.

    ``ract.init("auto")`` finds it.

    Args:
        head_resources: What the head offers: quantities by resource; no CPUs if there is no "CPU".
        worker_node_types: By name, in the order in which they are tried:
            ``{"resources": {...}, "labels": {...}, "min_workers": 0, "max_workers": 8}``.
            ``node_config`` is ignored: there is no cloud.
        autoscaler_v2: Ignored: there is one autoscaler.
        config: ``idle_timeout_minutes`` (5) until a node that is not needed goes; ``max_workers``
            (8) of all types; other settings of Ray's autoscaler are ignored.

    Raises:
        TypeError, ValueError: a type without resources, a bad quantity, a limit that is no number.
    """

    def __init__(
        self,
        head_resources: Mapping[str, float],
        worker_node_types: Mapping[str, Mapping[str, Any]],
        autoscaler_v2: bool = False,
        **config: Any,
    ) -> None:
        self._head = _arguments(head_resources)
        self._most = int(config.get("max_workers", MAX_WORKERS))
        self._idle_s = 60 * float(config.get("idle_timeout_minutes", IDLE_TIMEOUT_MINUTES))
        self._types = [
            _node_type(name, given, self._most) for name, given in worker_node_types.items()
        ]
        self._env: dict[str, str] = {}
        self._cluster: Cluster | None = None
        self._thread: threading.Thread | None = None
        self._ends = threading.Event()
        self._type_of: dict[Node, str] = {}
        self._idle_since: dict[str, float] = {}  # by node id; of those that are not needed

    @property
    def address(self) -> str:
        """The scheduler's; "" before `start`."""
        return self._cluster.address if self._cluster is not None else ""

    def start(
        self,
        _system_config: dict[str, Any] | None = None,
        override_env: dict[str, str] | None = None,
    ) -> None:
        """Start the head, and then nodes as they are needed.

        Args:
            _system_config: Settings of the scheduler, see `ract.core.system_config`.
            override_env: Environment of the nodes, over this process' own.

        Raises:
            RuntimeError: it is started already, or the head could not start.
        """
        if self._cluster is not None:
            raise RuntimeError("the cluster is started already")
        self._env = dict(override_env or {})
        head = {**self._head, "_system_config": _system_config, "env_vars": self._env}
        self._cluster = Cluster(True, head_node_args=head)
        self._ends.clear()
        self._thread = threading.Thread(target=self._run, daemon=True, name="ract-autoscaler")
        self._thread.start()

    def shutdown(self) -> None:
        """End all nodes, and disconnect this process if it is connected here. Idempotent."""
        cluster, self._cluster = self._cluster, None
        if cluster is None:
            return
        self._ends.set()
        assert self._thread is not None
        self._thread.join()
        cluster.shutdown()
        self._type_of.clear()
        self._idle_since.clear()

    def __enter__(self) -> AutoscalingCluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()

    # ------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        assert self._cluster is not None
        cluster = self._cluster
        pause = 0.0
        while not self._ends.wait(pause):
            pause = POLL_S
            try:
                self._step(cluster)
            except Exception:
                if self._ends.is_set() or cluster.head_node is None or not cluster.head_node.alive:
                    return
                logger.exception("the autoscaler tries again in %s s", RETRY_S)
                pause = RETRY_S

    def _step(self, cluster: Cluster) -> None:
        assert cluster.head_node is not None
        self._forget_the_dead(cluster)
        head = cluster.head_node.session_dir
        view = ask_node(head, "scaling")
        staying = {
            node: name for node, name in self._type_of.items() if node.node_id in view["nodes"]
        }
        counts = Counter(staying.values())
        wanted = to_add(view, self._types, counts, self._most)
        if wanted:
            self._launch(cluster, wanted[0])  # and look again: it may have been enough
        for node in self._unneeded(view["removable"], staying, counts):
            ask_node(head, "drain_node", node_id=node.node_id, reason="it was idle")

    def _launch(self, cluster: Cluster, kind: NodeType) -> None:
        labels = {name: value for name, value in kind.labels.items() if name != TYPE_LABEL}
        env = {**self._env, "RACT_NODE_TYPE_NAME": kind.name}
        node = cluster.add_node(**_arguments(kind.resources), labels=labels, env_vars=env)
        self._type_of[node] = kind.name

    def _unneeded(
        self, removable: list[str], staying: Mapping[Node, str], counts: Counter[str]
    ) -> list[Node]:
        """The nodes that nobody needed for so long that they go."""
        now = time.monotonic()
        self._idle_since = {id_: self._idle_since.get(id_, now) for id_ in removable}
        least = {kind.name: kind.least for kind in self._types}
        going = []
        for node, name in staying.items():
            since = self._idle_since.get(node.node_id, now)
            if now - since >= self._idle_s and counts[name] > least[name] and since < now:
                counts[name] -= 1
                going.append(node)
        return going

    def _forget_the_dead(self, cluster: Cluster) -> None:
        for node in [node for node in self._type_of if not node.alive]:
            del self._type_of[node]
            cluster.remove_node(node)


def _node_type(name: str, given: Mapping[str, Any], most: int) -> NodeType:
    if not isinstance(given.get("resources"), Mapping):
        raise ValueError(f"node type {name!r} needs 'resources': quantities by resource")
    return NodeType(
        name,
        given["resources"],
        {**(given.get("labels") or {}), TYPE_LABEL: name},
        int(given.get("min_workers", 0)),
        int(given.get("max_workers", most)),
    )


def _arguments(resources: Mapping[str, float]) -> dict[str, Any]:
    """Quantities by resource as arguments of ``Cluster.add_node``."""
    rest = {name: n for name, n in resources.items() if name not in _ARGUMENT_OF}
    known = {_ARGUMENT_OF[name]: n for name, n in resources.items() if name in _ARGUMENT_OF}
    return {"num_cpus": 0, **known, "resources": rest}
