"""ract: remote functions, actors and shared objects for Python, on a Dask cluster.

::

    import ract

    ract.init()

    @ract.remote
    def square(x):
        return x * x

    print(ract.get([square.remote(i) for i in range(4)]))
"""

import importlib
from typing import TYPE_CHECKING, Any

from ract.core.version import __version__

if TYPE_CHECKING:
    import cloudpickle

    from ract.client.api.actor_class import method
    from ract.client.api.functions import (
        AUTO_INIT_APIS,
        LOCAL_MODE,
        NON_AUTO_INIT_APIS,
        RESTORE_WORKER_MODE,
        SCRIPT_MODE,
        SPILL_WORKER_MODE,
        WORKER_MODE,
        available_resources,
        cancel,
        cluster_resources,
        error_info,
        explain,
        get,
        get_actor,
        kill,
        nodes,
        put,
        remote,
        wait,
    )
    from ract.client.api.runtime_context import get_gpu_ids, get_runtime_context
    from ract.client.api.timeline import timeline
    from ract.client.calls.streams import DynamicObjectRefGenerator, ObjectRefGenerator
    from ract.client.objects.refs import ObjectRef
    from ract.client.people.logging_config import LoggingConfig
    from ract.client.start.facts import RactContext
    from ract.client.start.init import init
    from ract.client.start.membership import is_initialized, shutdown
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
    from ract import actor, exceptions  # isort: skip  # both need the names above

    ObjectID = ObjectRef
    RayContext = RactContext

__commit__ = ""

__all__ = [
    "AUTO_INIT_APIS",
    "LOCAL_MODE",
    "NON_AUTO_INIT_APIS",
    "RESTORE_WORKER_MODE",
    "SCRIPT_MODE",
    "SPILL_WORKER_MODE",
    "WORKER_MODE",
    "ActorClassID",
    "ActorID",
    "ClusterID",
    "DynamicObjectRefGenerator",
    "FunctionID",
    "JobID",
    "LoggingConfig",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
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
    "cloudpickle",
    "cluster_resources",
    "error_info",
    "exceptions",
    "experimental",
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
    "timeline",
    "wait",
]

_HOME = {
    "ract.client.api.actor_class": ("method",),
    "ract.client.api.functions": (
        "AUTO_INIT_APIS",
        "LOCAL_MODE",
        "NON_AUTO_INIT_APIS",
        "RESTORE_WORKER_MODE",
        "SCRIPT_MODE",
        "SPILL_WORKER_MODE",
        "WORKER_MODE",
        "available_resources",
        "cancel",
        "cluster_resources",
        "error_info",
        "explain",
        "get",
        "get_actor",
        "kill",
        "nodes",
        "put",
        "remote",
        "wait",
    ),
    "ract.client.start.facts": ("RactContext",),
    "ract.client.start.init": ("init",),
    "ract.client.start.membership": ("is_initialized", "shutdown"),
    "ract.client.people.logging_config": ("LoggingConfig",),
    "ract.client.objects.refs": ("ObjectRef",),
    "ract.client.api.runtime_context": ("get_gpu_ids", "get_runtime_context"),
    "ract.client.api.timeline": ("timeline",),
    "ract.client.calls.streams": ("DynamicObjectRefGenerator", "ObjectRefGenerator"),
    "ract.core.ids": (
        "ActorClassID",
        "ActorID",
        "ClusterID",
        "FunctionID",
        "JobID",
        "NodeID",
        "PlacementGroupID",
        "TaskID",
        "UniqueID",
        "WorkerID",
    ),
}
_ALIASES = {"ObjectID": "ObjectRef", "RayContext": "RactContext"}
_SUBMODULES = (
    "actor",
    "dag",
    "dashboard",
    "exceptions",
    "experimental",
    "testing",
    "util",
)
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what is asked for at its first use.

    Every process of ract imports this package, but only user processes need what it offers, which
    takes most of the time that ract takes to start.
    """
    if name in _SUBMODULES:
        return importlib.import_module(f"ract.{name}")
    if name == "cloudpickle":  # which Ray has a copy of
        return importlib.import_module(name)
    wanted = _ALIASES.get(name, name)
    module = _MODULE_OF.get(wanted)
    if module is None:
        raise AttributeError(f"module 'ract' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(module), wanted)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
