"""``ray.types``: the ref for annotations."""

from ract.client.refs import ObjectRef

__all__ = ["ObjectRef"]
