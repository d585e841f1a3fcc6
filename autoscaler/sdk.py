"""Asking for capacity before there is work for it."""

from __future__ import annotations

from ract.client.api import auto_init
from ract.core.options import check_label_selector
from ract.core.resources import to_units

__all__ = ["request_resources"]


def request_resources(
    num_cpus: int | None = None,
    bundles: list[dict[str, float]] | None = None,
    bundle_label_selectors: list[dict[str, str]] | None = None,
) -> None:
    """Have the cluster grow until all of this would fit on it if it were idle, and stay so.

    It reserves nothing: it is a wish to whoever adds nodes (``cluster.adapt()`` of a Dask
    deployer). Each call replaces what was asked for before; without arguments nothing is asked for
    any more.

    Args:
        num_cpus: CPUs, which may lie on any nodes.
        bundles: Quantities by resource; each bundle must fit one node.
        bundle_label_selectors: Labels that the node of each bundle must have; one per bundle.

    Raises:
        TypeError: a quantity is no number, or something else is not what it should be.
        ValueError: a quantity is negative or too fine, or there is not one selector per bundle.
    """
    if num_cpus is not None and (isinstance(num_cpus, bool) or not isinstance(num_cpus, int)):
        raise TypeError(f"num_cpus must be an integer, got {num_cpus!r}")
    if num_cpus is not None and num_cpus < 0:
        raise ValueError(f"num_cpus must not be negative, got {num_cpus}")
    if bundles is not None and not isinstance(bundles, list):
        raise TypeError(f"bundles must be a list of dicts, got {type(bundles).__name__}")
    wanted = [{"CPU": to_units("CPU", 1)} for _ in range(num_cpus or 0)]
    for bundle in bundles or []:
        if not isinstance(bundle, dict):
            raise TypeError(f"a bundle is a dict of quantities by resource, got {bundle!r}")
        wanted.append({name: to_units(name, n) for name, n in bundle.items()})
    selectors = bundle_label_selectors or [{} for _ in bundles or []]
    if len(selectors) != len(bundles or []):
        given = f"{len(selectors)} bundle_label_selectors for {len(bundles or [])} bundles"
        raise ValueError(f"{given}: each bundle needs one")
    for selector in selectors:
        check_label_selector("bundle_label_selectors", selector)
    labels: list[dict[str, str]] = [{} for _ in range(num_cpus or 0)] + selectors
    auto_init.runtime().link.request("request_resources", bundles=wanted, selectors=labels)
