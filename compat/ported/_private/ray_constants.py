"""``ray._private.ray_constants``: those that mean the same here."""

from ract.client.start.places import DASHBOARD_PORT as DEFAULT_DASHBOARD_PORT
from ract.client.start.places import STORE_BYTES_MIN as OBJECT_STORE_MINIMUM_MEMORY_BYTES
from ract.core.labels import RESERVED as RAY_DEFAULT_LABEL_KEYS_PREFIX
from ract.core.resources import PREDEFINED
from ract.core.resources import UNIT as _UNIT
from ract.worker.files.spill_places import PREFIX as DEFAULT_OBJECT_PREFIX

__all__ = ["DEFAULT_DASHBOARD_PORT", "DEFAULT_OBJECT_PREFIX", "OBJECT_STORE_MINIMUM_MEMORY_BYTES"]
__all__ += ["RAY_DEFAULT_LABEL_KEYS_PREFIX"]

ID_SIZE = 28
DEFAULT_RESOURCES = set(PREDEFINED)
MIN_RESOURCE_GRANULARITY = 1 / _UNIT
GPU = "GPU"
TPU = "TPU"
HPU = "HPU"
NPU = "NPU"
NEURON_CORES = "neuron_cores"

DEFAULT_TASK_MAX_RETRIES = 3
DEFAULT_ACTOR_CREATION_CPU_SIMPLE = 0
DEFAULT_ACTOR_CREATION_CPU_SPECIFIED = 1
DEFAULT_ACTOR_METHOD_CPU_SIMPLE = 1
DEFAULT_ACTOR_METHOD_CPU_SPECIFIED = 0
DEFAULT_ACTOR_METHOD_NUM_RETURN_VALS = 1
DEFAULT_MAX_CONCURRENCY_ASYNC = 1000
DEFAULT_MAX_CONCURRENCY_THREADED = 1
DEFAULT_OBJECT_STORE_MEMORY_PROPORTION = 0.3

IS_WINDOWS_OR_OSX = False
ENABLE_RAY_CLUSTER = True
LANGUAGE_WORKER_TYPES = ["python"]
LOGGER_LEVEL = "info"
LOGGER_LEVEL_CHOICES = ["debug", "info", "warning", "error", "critical"]

RAY_ADDRESS_ENVIRONMENT_VARIABLE = "RAY_ADDRESS"
RESOURCES_ENVIRONMENT_VARIABLE = "RAY_OVERRIDE_RESOURCES"

# What errors of the cluster are called; see `ract.testing.error_messages` for those that there are.
DETACHED_ACTOR_ANONYMOUS_NAMESPACE_ERROR = "detached_actor_anonymous_namespace"
EXCESS_QUEUEING_WARNING = "excess_queueing_warning"
PICKLING_LARGE_OBJECT_PUSH_ERROR = "pickling_large_object"
RAYLET_DIED_ERROR = "raylet_died"
REMOVED_NODE_ERROR = "node_removed"
RESOURCE_DEADLOCK_ERROR = "resource_deadlock"
WORKER_CRASH_PUSH_ERROR = "worker_crash"
WORKER_DIED_PUSH_ERROR = "worker_died"
WORKER_POOL_LARGE_ERROR = "worker_pool_large"
