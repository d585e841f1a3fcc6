"""``ray.util.helpers``: results as they come."""

from ract.util.completion import as_completed, map_unordered

__all__ = ["as_completed", "map_unordered"]
