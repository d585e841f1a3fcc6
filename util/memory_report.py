"""The objects of a cluster as text: what ``ract memory`` and `ract.testing.memory_summary` show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ract.util.state.api import ask, rows
from ract.util.state.common import MAX_LIMIT, Rows, StateResource

TIMEOUT_S = 30
MIB = 2**20
GROUPS = ("NODE_ADDRESS", "STACK_TRACE")
SORTS = ("OBJECT_SIZE", "PID", "REFERENCE_TYPE")

_COLUMNS = {
    "ip": "IP Address",
    "pid": "PID",
    "type": "Type",
    "call_site": "Call Site",
    "status": "Status",
    "attempt": "Attempt",
    "size": "Size",
    "reference": "Reference Type",
    "object_ref": "Object Ref",
    "where": "Where",
}
_SUMS = {
    "LOCAL_REFERENCE": "Local References",
    "PINNED_IN_MEMORY": "Pinned",
    "USED_BY_PENDING_TASK": "Used by task",
    "CAPTURED_IN_OBJECT": "Captured in Objects",
    "ACTOR_HANDLE": "Actor Handles",
}
_SORT_KEYS = {"OBJECT_SIZE": "bytes", "PID": "pid", "REFERENCE_TYPE": "reference"}


class MemoryReport:
    """What the nodes' stores hold, and who holds which object.

    Args:
        address: Of the cluster; None: the one that this process is in, or that is found.
        stats_only: Only what the nodes' stores hold in total.

    Raises:
        RayStateApiException: it could not be found out.
    """

    def __init__(self, address: str | None = None, *, stats_only: bool = False) -> None:
        asked = ask(address, "memory", TIMEOUT_S, limit=1 if stats_only else MAX_LIMIT)
        self._stores: dict[str, dict[str, Any]] = asked["nodes"]
        self._is_short = stats_only
        self._rows: Rows[Any] = Rows([], 0)
        if not stats_only:
            how: dict[str, Any] = {"limit": MAX_LIMIT, "timeout": TIMEOUT_S}
            self._rows = rows(StateResource.OBJECTS, address, sort="-object_size", **how)
        #: What the report cannot say, and why.
        self.problems = [f"node {node[:8]}: {error}" for node, error in asked["errors"].items()]
        if (total := self._rows.total) > (count := len(self._rows)):
            what = f"the {count} largest of {total} references are shown"
            more = f"{what}; ract list objects --offset {count} lists the others."
            self.problems.insert(0, more)

    def lines(
        self,
        group_by: str = "NODE_ADDRESS",
        sort_by: str = "OBJECT_SIZE",
        units: str = "",
        num_entries: int | None = None,
        *,
        with_tables: bool = True,
    ) -> Iterator[str]:
        """The report.

        Args:
            group_by: One of `GROUPS`: a table per node of the holder, or per call site.
            sort_by: One of `SORTS`.
            units: "B", "KB", "MB" or "GB"; "": what fits.
            num_entries: At most so many objects per table.
            with_tables: Align the columns.

        Raises:
            ValueError: there is no such group, order or unit.
        """
        for name, given, possible in (
            ("group_by", group_by, GROUPS),
            ("sort_by", sort_by, SORTS),
            ("units", units, ("", *UNITS)),
        ):
            if given not in possible:
                raise ValueError(f"{name}={given!r} is not one of {', '.join(possible)}")
        if not self._is_short:
            by = "node address" if group_by == "NODE_ADDRESS" else "stack trace"
            shown = f"{num_entries} entries" if num_entries is not None else "all entries"
            order = sort_by.lower().replace("_", " ")
            yield f"Grouping by {by}...  Sorting by {order}...  Display {shown} per group..."
            yield ""
            yield from self._tables(by, sort_by, units, num_entries, with_tables)
        yield from self._totals(units)

    def _tables(
        self, by: str, sort_by: str, units: str, most: int | None, with_tables: bool
    ) -> Iterator[str]:
        places = self._places()
        found = [_line(row, places, units) for row in self._rows]
        key = _SORT_KEYS[sort_by]
        found.sort(key=lambda line: line[key], reverse=key == "bytes")
        groups: dict[str, list[dict[str, Any]]] = {}
        for line in found:
            name = line["ip"] or "nobody" if by == "node address" else line["call_site"]
            groups.setdefault(name, []).append(line)
        for name, group in groups.items():
            yield f"--- Summary for {by}: {name} ---"
            yield from _aligned(_sums(group, units), "  ")
            yield ""
            yield f"--- Object references for {by}: {name} ---"
            shown = group[:most] if most is not None else group
            cells = [[str(line[key]) for key in _COLUMNS] for line in shown]
            if with_tables:
                yield from _aligned([list(_COLUMNS.values()), *cells], " | ")
            else:
                yield from ("  ".join(line) for line in cells)
            if len(group) > len(shown):
                yield f"and {len(group) - len(shown)} more: -n {len(group)} shows them"
            yield ""
        if any(line["call_site"] == "disabled" for line in found):
            yield "To see where objects were made, set RACT_record_ref_creation_sites=1."
            yield ""

    def _places(self) -> dict[str, list[str]]:
        """Object -> where it lies, in words."""
        found: dict[str, list[str]] = {}
        for node, store in self._stores.items():
            for object_id, stored in store["objects"].items():
                how = "on disk" if stored["is_spilled"] else "in memory"
                how += ", a copy" if stored["is_copy"] else ", pinned"
                found.setdefault(object_id, []).append(f"{node[:8]} {how}")
        return found

    def _totals(self, units: str) -> Iterator[str]:
        yield "--- Aggregate object store stats across all nodes ---"
        keys = (
            *("used", "capacity", "pinned", "count_in_memory"),
            *("spilled_objects", "spilled_bytes", "spill_s"),
            *("restored_objects", "restored_bytes", "restore_s"),
        )
        total = {key: sum(store[key] for store in self._stores.values()) for key in keys}
        capacity = max(1, total["capacity"])
        yield (
            f"Plasma memory usage {total['used'] / MIB:.0f} MiB, "
            f"{total['count_in_memory']} objects, {100 * total['used'] / capacity:.2f}% full, "
            f"{100 * total['pinned'] / capacity:.2f}% needed"
        )
        for verb, past, rate in (("spill", "spilled", "write"), ("restore", "restored", "read")):
            size, seconds = total[f"{past}_bytes"], total[f"{verb}_s"]
            if size:
                yield (
                    f"{past.capitalize()} {size / MIB:.0f} MiB, {total[f'{past}_objects']} objects,"
                    f" avg {rate} throughput {size / MIB / max(seconds, 1e-6):.0f} MiB/s"
                )
        for node, store in self._stores.items():
            yield (
                f"  node {node[:8]}: {size_text(store['used'], units)} of "
                f"{size_text(store['capacity'], units)} used, {store['count']} objects, "
                f"{size_text(store['spilled'], units)} on disk"
            )


def _line(row: Any, places: dict[str, list[str]], units: str) -> dict[str, Any]:
    return {
        "ip": row.ip,
        "pid": row.pid,
        "type": row.type.capitalize(),
        "call_site": row.call_site or "disabled",
        "status": row.task_status,
        "attempt": row.attempt_number,
        "size": size_text(row.object_size, units),
        "bytes": row.object_size,
        "where": "; ".join(places.get(row.object_id, ["inline"] if not row.locations else [])),
        "reference": row.reference_type,
        "object_ref": row.object_id,
    }


def _sums(group: list[dict[str, Any]], units: str) -> list[list[str]]:
    """What the objects of a group take, and how they are held; each object counts once."""
    heads, cells = ["Mem Used by Objects"], []
    cells.append(size_text(_size_of(group), units))
    for kind, title in _SUMS.items():
        held = [line for line in group if line["reference"] == kind]
        heads.append(title)
        cells.append(f"{len(held)}, ({size_text(_size_of(held), units)})")
    return [heads, cells]


def _size_of(group: list[dict[str, Any]]) -> int:
    return sum({line["object_ref"]: line["bytes"] for line in group}.values())


def _aligned(cells: Sequence[Sequence[str]], between: str) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        yield between.join(padded).rstrip()


UNITS = ("B", "KB", "MB", "GB")


def size_text(n: float, unit: str = "") -> str:
    """Bytes in a unit ("B", "KB", "MB", "GB", of 1024), or in the one that fits."""
    if not unit:
        unit = next((u for i, u in enumerate(UNITS) if n < 1024 ** (i + 1)), "GB")
    scaled = n / 1024 ** UNITS.index(unit)
    return f"{scaled:.0f} B" if unit == "B" else f"{scaled:.2f} {unit}"
