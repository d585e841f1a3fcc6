"""``ray._private.profiling``."""

from ract.util.profiling import profile

__all__ = ["profile"]
