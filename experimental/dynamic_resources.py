"""Changing resources, which is not possible any more."""

from ract.util.locations import set_resource

__all__ = ["set_resource"]
