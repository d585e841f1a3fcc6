"""Several nodes on one machine, under the name that Ray's tests use."""

from ract.util.local_cluster import Cluster, Node

__all__ = ["Cluster", "Node"]
