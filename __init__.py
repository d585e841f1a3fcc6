"""ract: remote functions, actors and shared objects for Python, on a Dask cluster.

::

    import ract

    ract.init()

    @ract.remote
    def square(x):
        return x * x

    print(ract.get([square.remote(i) for i in range(4)]))
"""

from ract.client.actor_class import method
from ract.client.api import (
    available_resources,
    cancel,
    cluster_resources,
    explain,
    get,
    get_actor,
    kill,
    nodes,
    put,
    remote,
    wait,
)
from ract.client.bootstrap import RactContext, init, is_initialized, shutdown
from ract.client.refs import ObjectRef
from ract.client.runtime_context import get_gpu_ids, get_runtime_context
from ract.core.ids import (
    ActorClassID,
    ActorID,
    ClusterID,
    FunctionID,
    JobID,
    NodeID,
    PlacementGroupID,
    TaskID,
    UniqueID,
    WorkerID,
)
from ract.core.version import __version__

from ract import actor, exceptions  # isort: skip  # both need the names above

__commit__ = ""
ObjectID = ObjectRef
RayContext = RactContext

__all__ = [
    "ActorClassID",
    "ActorID",
    "ClusterID",
    "FunctionID",
    "JobID",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "PlacementGroupID",
    "RactContext",
    "RayContext",
    "TaskID",
    "UniqueID",
    "WorkerID",
    "__version__",
    "actor",
    "available_resources",
    "cancel",
    "cluster_resources",
    "exceptions",
    "explain",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "wait",
]
