"""``ray.cloudpickle``, Ray's copy: here the cloudpickle that is installed."""

from cloudpickle import *  # noqa: F403
from cloudpickle import CloudPickler, dump, dumps, load, loads

__all__ = ["CloudPickler", "dump", "dumps", "load", "loads"]
