"""What programs often need beside tasks and actors. Everything is imported at its first use."""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ract.util import (
        accelerators,
        actor_group,
        actor_pool,
        annotations,
        debug,
        metrics,
        queue,
        scheduling_strategies,
        supervisor,
        testing,
    )
    from ract.util.actor_pool import ActorPool
    from ract.util.check_serialize import inspect_serializability
    from ract.util.completion import as_completed, map_unordered
    from ract.util.debug import disable_log_once_globally, enable_periodic_logging, log_once
    from ract.util.named_actors import list_named_actors
    from ract.util.network import get_node_instance_id, get_node_ip_address
    from ract.util.placement_group import (
        get_current_placement_group,
        get_placement_group,
        placement_group_table,
        remove_placement_group,
    )
    from ract.util.progress_bar import progress
    from ract.util.serialization import deregister_serializer, register_serializer

__all__ = [
    "ActorPool",
    "accelerators",
    "actor_group",
    "actor_pool",
    "annotations",
    "as_completed",
    "debug",
    "deregister_serializer",
    "disable_log_once_globally",
    "enable_periodic_logging",
    "get_current_placement_group",
    "get_node_instance_id",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "metrics",
    "placement_group",
    "placement_group_table",
    "progress",
    "queue",
    "register_serializer",
    "remove_placement_group",
    "scheduling_strategies",
    "supervisor",
    "testing",
]

_HOME = {
    "actor_pool": ("ActorPool",),
    "check_serialize": ("inspect_serializability",),
    "completion": ("as_completed", "map_unordered"),
    "debug": ("disable_log_once_globally", "enable_periodic_logging", "log_once"),
    "named_actors": ("list_named_actors",),
    "network": ("get_node_instance_id", "get_node_ip_address"),
    "placement_group": (
        "get_current_placement_group",
        "get_placement_group",
        "placement_group_table",
        "remove_placement_group",
    ),
    "progress_bar": ("progress",),
    "serialization": ("deregister_serializer", "register_serializer"),
}
_SUBMODULES = (
    "accelerators",
    "actor_group",
    "actor_pool",
    "annotations",
    "check_serialize",
    "debug",
    "metrics",
    "profiling",
    "queue",
    "scheduling_strategies",
    "serialization",
    "state",
    "supervisor",
    "testing",
    "tracing",
)
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what is asked for at its first use."""
    if name in _SUBMODULES:
        return importlib.import_module(f"ract.util.{name}")
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'ract.util' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"ract.util.{module}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """What this module is an instance of, because a function has the name of its own module.

    ``ract.util.placement_group`` is the function, though to import the module of that name would
    make it the module.
    """

    @property
    def placement_group(self) -> Any:
        """The function, see `ract.util.placement_group`."""
        return importlib.import_module("ract.util.placement_group").placement_group

    @placement_group.setter
    def placement_group(self, value: Any) -> None:
        """The import of the module wants to be seen here."""

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Package
