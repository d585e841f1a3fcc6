"""Which names of actors are taken."""

from __future__ import annotations

from typing import Any

from ract.client.api import auto_init


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """The names of the actors that `ract.get_actor` would find.

    Args:
        all_namespaces: False for names in the current namespace; True for
            ``{"name": ..., "namespace": ...}`` of all.
    """
    runtime = auto_init.runtime()
    found = runtime.link.request(
        "list_named_actors", all_namespaces=all_namespaces, namespace=runtime.namespace
    )
    return found if all_namespaces else [each["name"] for each in found]
