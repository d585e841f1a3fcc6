"""``ray.types``: the ref for annotations."""

from ract.client.objects.refs import ObjectRef

__all__ = ["ObjectRef"]
