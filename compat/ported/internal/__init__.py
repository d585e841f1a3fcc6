"""``ray.internal``."""

from ract.compat.ported._private.internal_api import free

__all__ = ["free"]
