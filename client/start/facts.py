"""What ``ract.init`` returns: facts about the cluster."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ract.client.start.membership import membership, shutdown
from ract.core.version import __version__

if TYPE_CHECKING:
    from ract.client.runtime import Runtime


class RactContext(Mapping[str, Any]):
    """What `init` returns: facts about the cluster; as a context manager it shuts down at its end.

    Attributes:
        dashboard_url: A link to the dashboard, if this call has started the cluster and there is
            one, else "": `ract.dashboard.display` makes links to that of any cluster.
        address_info: Addresses and paths, also by ``ctx[key]``.
    """

    def __init__(self, runtime: Runtime, dashboard_url: str) -> None:
        welcome = runtime.link.welcome
        self.dashboard_url = dashboard_url
        self.python_version = platform.python_version()
        self.ract_version = self.ray_version = __version__
        self.ract_commit = self.ray_commit = ""
        self.address_info: dict[str, Any] = {
            "node_ip_address": "127.0.0.1",
            "raylet_ip_address": "127.0.0.1",
            "redis_address": None,
            "object_store_address": welcome.session_dir,
            "raylet_socket_name": os.path.join(welcome.session_dir, "node.sock"),
            "webui_url": dashboard_url,
            "session_dir": welcome.session_dir,
            "metrics_export_port": urlsplit(dashboard_url).port,
            "gcs_address": welcome.scheduler_address,
            "address": welcome.scheduler_address,
            "dashboard_agent_listen_port": None,
            "node_id": welcome.node_id.hex(),
        }

    def __getitem__(self, key: str) -> Any:
        return self.address_info[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.address_info)

    def __len__(self) -> int:
        return len(self.address_info)

    def __enter__(self) -> RactContext:
        return self

    def __exit__(self, *exc: object) -> None:
        shutdown()

    def disconnect(self) -> None:
        """Leave the cluster."""
        shutdown()

    def _repr_html_(self) -> str:
        """A card for notebooks: where the cluster is, and what it has."""
        from ract.client.start import card

        return card.of_cluster(self, membership.runtime())

    def __repr__(self) -> str:
        return f"RactContext(address={self['address']!r}, dashboard_url={self.dashboard_url!r})"
