"""``ray.autoscaler._private.constants``."""

from ract.autoscaler.cluster import POLL_S as AUTOSCALER_UPDATE_INTERVAL_S

__all__ = ["AUTOSCALER_UPDATE_INTERVAL_S"]
