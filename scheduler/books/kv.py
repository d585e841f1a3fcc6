"""A small key-value store for libraries that need a place to agree (`Request` ops ``kv_*``)."""

from __future__ import annotations

from dataclasses import dataclass, field

from ract.scheduler.books.turn import Turn


@dataclass(slots=True, eq=False)
class KeyValues:
    """Bytes by (namespace, key)."""

    turn: Turn
    table: dict[tuple[bytes, bytes], bytes] = field(default_factory=dict)

    def put(self, namespace: bytes, key: bytes, value: bytes, overwrite: bool) -> bool:
        """Store a value; return whether the key is new.

        Raises:
            ValueError: the value is larger than the limit.
        """
        limit = self.turn.settings.kv_value_bytes_max
        if len(value) > limit:
            raise ValueError(f"value of {len(value)} bytes; at most {limit} are kept per key")
        is_new = (namespace, key) not in self.table
        if is_new or overwrite:
            self.table[namespace, key] = value
        return is_new

    def get(self, namespace: bytes, key: bytes) -> bytes | None:
        """Return the value, or None."""
        return self.table.get((namespace, key))

    def delete(self, namespace: bytes, key: bytes, by_prefix: bool) -> int:
        """Remove a key, or all that start with it; return how many there were."""
        keys = self.keys(namespace, key) if by_prefix else [key]
        return sum(self.table.pop((namespace, each), None) is not None for each in keys)

    def keys(self, namespace: bytes, prefix: bytes) -> list[bytes]:
        """Return the keys that start with ``prefix``, sorted."""
        return sorted(key for ns, key in self.table if ns == namespace and key.startswith(prefix))
