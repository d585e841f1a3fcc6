"""The cluster's small key-value store, under the names that libraries use with Ray."""

from __future__ import annotations

from typing import Any

from ract.client.runtime import Runtime, current_runtime


def _runtime() -> Runtime:
    runtime = current_runtime()
    if runtime is None or runtime.closed:
        raise RuntimeError("the key-value store is the cluster's: call ract.init() first")
    return runtime


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _ask(op: str, namespace: str | bytes | None, **arguments: Any) -> Any:
    space = _bytes(namespace or b"")
    return _runtime().link.request(op, namespace=space, **arguments)


def _internal_kv_initialized() -> bool:
    """Whether this process is in a cluster."""
    runtime = current_runtime()
    return runtime is not None and not runtime.closed


def _internal_kv_get(key: str | bytes, *, namespace: str | bytes | None = None) -> bytes | None:
    """The value of a key, or None."""
    return _ask("kv_get", namespace, key=_bytes(key))


def _internal_kv_exists(key: str | bytes, *, namespace: str | bytes | None = None) -> bool:
    """Whether a key has a value."""
    return _ask("kv_exists", namespace, key=_bytes(key))


def _internal_kv_put(
    key: str | bytes,
    value: str | bytes,
    overwrite: bool = True,
    *,
    namespace: str | bytes | None = None,
) -> bool:
    """Give a key a value; returns whether it had one already."""
    arguments = {"key": _bytes(key), "value": _bytes(value), "overwrite": overwrite}
    return not _ask("kv_put", namespace, **arguments)


def _internal_kv_del(
    key: str | bytes, *, del_by_prefix: bool = False, namespace: str | bytes | None = None
) -> int:
    """Remove a key, or all that begin with it; returns how many there were."""
    return _ask("kv_del", namespace, key=_bytes(key), by_prefix=del_by_prefix)


def _internal_kv_list(prefix: str | bytes, *, namespace: str | bytes | None = None) -> list[bytes]:
    """The keys that begin with a prefix."""
    return _ask("kv_list", namespace, prefix=_bytes(prefix))
