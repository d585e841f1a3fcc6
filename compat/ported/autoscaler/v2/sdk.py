"""``ray.autoscaler.v2.sdk``: asking for capacity."""

from __future__ import annotations

from typing import Any

from ract.autoscaler.sdk import request_resources

__all__ = ["request_cluster_resources"]


def request_cluster_resources(
    gcs_address: str, to_request: list[dict[str, Any]], timeout: int = 10
) -> None:
    """As ``request_resources``: each item has ``resources`` and perhaps ``label_selector``.

    Args:
        gcs_address: Ignored: it is this process' own cluster.
    """
    request_resources(
        bundles=[item.get("resources", item) for item in to_request],
        bundle_label_selectors=[
            item.get("label_selector", {}) if "resources" in item else {} for item in to_request
        ],
    )
