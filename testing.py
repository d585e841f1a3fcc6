"""For people who test programs built on ract: clusters on one machine, and a look inside them."""

from ract.util import chaos
from ract.util.local_cluster import Cluster, Node
from ract.util.testing import (
    Semaphore,
    SignalActor,
    all_processes_alive,
    collect_garbage,
    error_messages,
    free,
    kill_node,
    log_messages,
    memory_summary,
    object_exists,
    reference_counts,
    session_dir,
    wait_for_condition,
)

__all__ = [
    "Cluster",
    "Node",
    "Semaphore",
    "SignalActor",
    "all_processes_alive",
    "chaos",
    "collect_garbage",
    "error_messages",
    "free",
    "kill_node",
    "log_messages",
    "memory_summary",
    "object_exists",
    "reference_counts",
    "session_dir",
    "wait_for_condition",
]
