"""What Ray calls experimental."""

from ract.util.locations import get_local_object_locations, get_object_locations, set_resource

__all__ = ["get_local_object_locations", "get_object_locations", "set_resource"]
