"""``ray.client(...)``, the way to a cluster before ``ray.init`` took its address."""

from __future__ import annotations

import warnings
from typing import Any

from ract.client.start.facts import RactContext
from ract.client.start.init import init

ClientContext = RactContext


class ClientBuilder:
    """Collects what `init` needs; `connect` calls it.

    Args:
        address: ``host:port`` of a scheduler, "local" for an embedded cluster, or None for
            ``RACT_ADDRESS``, else an embedded one.
    """

    def __init__(self, address: str | None = None) -> None:
        self._address = address
        self._arguments: dict[str, Any] = {}

    def env(self, env: dict[str, Any]) -> ClientBuilder:
        """Set the environment of the job's tasks and actors. Raises TypeError."""
        if not isinstance(env, dict):
            raise TypeError(f"env must be a dict, not {type(env).__name__}")
        self._arguments["runtime_env"] = env
        return self

    def namespace(self, namespace: str) -> ClientBuilder:
        """Set the namespace."""
        self._arguments["namespace"] = namespace
        return self

    def connect(self) -> ClientContext:
        """Connect; raises as `init`."""
        return init(self._address, **self._arguments)


def client(address: str | None = None) -> ClientBuilder:
    """Deprecated: ``ray.init(address, namespace=..., runtime_env=...)`` does the same."""
    warnings.warn("use ray.init(address, ...)", DeprecationWarning, stacklevel=2)
    return ClientBuilder(address)
