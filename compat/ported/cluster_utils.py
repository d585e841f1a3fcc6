"""Several nodes on one machine, under the names that Ray's tests use."""

from ract.autoscaler.cluster import AutoscalingCluster
from ract.util.local_cluster import Cluster, Node

__all__ = ["AutoscalingCluster", "Cluster", "Node", "cluster_not_supported"]

cluster_not_supported = False
"""Whether there is no `Cluster` on this platform."""
