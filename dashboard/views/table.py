"""Tables for a browser: searched, filtered, sorted and cut into pages here, not there.

Theory of operation
-------------------
A `Table` says how to get its items and what can be asked of one. Only the items of the page that is
shown become rows; searching and sorting look at the items themselves. So a page of 10,000 actors
costs the search and a few dozen rows, and never more than `SIZE_MAX` rows are sent.

The arguments are those of a URL: ``q`` (text that must occur), ``sort`` (a column; ``-`` before it
for the largest first), ``page`` (from 0), ``size``, and a value per *facet*: a property with few
values, which the answer counts over all items, so that people see what they can choose.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ract.core.causes import text_of
from ract.core.messages import ExitCause
from ract.scheduler.cluster import Cluster

Row = dict[str, Any]
Args = Mapping[str, str]
View = Callable[[Cluster, Args], Any]

SIZE_MAX = 200
SIZE = 25
FACET_VALUES_MAX = 40


@dataclass(frozen=True)
class Table:
    """How to make pages of a table.

    Attributes:
        items: All there is.
        row: What is shown of one; ``key`` in it names the row for good.
        text: What is searched of one.
        sorts: By column, what items are sorted by; the first is the default.
        facets: By name, the property of an item.
    """

    items: Callable[[Cluster, Args], Iterable[Any]]
    row: Callable[[Cluster, Any], Row]
    text: Callable[[Any], str]
    sorts: dict[str, Callable[[Any], Any]]
    facets: dict[str, Callable[[Any], str]] = field(default_factory=dict)

    def __call__(self, cluster: Cluster, args: Args) -> Row:
        """One page. Raises ValueError if the arguments make no sense."""
        items = list(self.items(cluster, args))
        total = len(items)
        counts = {name: count_values(map(of, items)) for name, of in self.facets.items()}
        for name, of in self.facets.items():
            wanted = args.get(name, "")
            if wanted:
                items = [item for item in items if of(item) == wanted]
        words = args.get("q", "").lower().split()
        if words:
            items = [item for item in items if holds(self.text(item), words)]
        number, size = page_of(args, len(items))
        shown = self._sorted(items, args.get("sort", ""), number, size)
        return answer([self.row(cluster, item) for item in shown], total, len(items), args, counts)

    def _sorted(self, items: list[Any], sort: str, page: int, size: int) -> list[Any]:
        """The items of one page."""
        by = self.sorts.get(sort.removeprefix("-"))
        first, end = page * size, (page + 1) * size
        if by is None:
            if sort:
                raise ValueError(f"cannot sort by {sort!r}; there are {', '.join(self.sorts)}")
            return items[first:end]
        if end <= 1000 < len(items):  # the first pages, which people look at: no need to sort all
            best = heapq.nlargest if sort.startswith("-") else heapq.nsmallest
            return best(end, items, key=by)[first:]
        return sorted(items, key=by, reverse=sort.startswith("-"))[first:end]


def answer(
    rows: list[Row], total: int, matched: int, args: Args, facets: dict[str, Any] | None = None
) -> Row:
    """The form in which all tables are answered."""
    number, size = page_of(args, matched)
    return {
        "rows": rows,
        "total": total,
        "matched": matched,
        "page": number,
        "pages": max(1, -(-matched // size)),
        "size": size,
        "facets": facets or {},
    }


def listed(found: list[Row], args: Args) -> Row:
    """A page of rows that are all there already; by default the largest page."""
    args = {"size": str(SIZE_MAX), **args}
    number, size = page_of(args, len(found))
    return answer(found[number * size : (number + 1) * size], len(found), len(found), args)


def page_of(args: Args, matched: int) -> tuple[int, int]:
    """(page, rows per page); the last page if there are not so many."""
    size = min(SIZE_MAX, max(1, int(args.get("size") or SIZE)))
    last = max(0, -(-matched // size) - 1)
    return min(last, max(0, int(args.get("page") or 0))), size


def count_values(values: Iterable[str]) -> dict[str, int]:
    """How often each occurs; the most frequent ones if there are many."""
    return dict(Counter(values).most_common(FACET_VALUES_MAX))


def holds(text: str, words: list[str]) -> bool:
    """Whether all words, in lower case, occur in the text."""
    text = text.lower()
    return all(word in text for word in words)


def ms(at: float) -> int | None:
    """Milliseconds since the epoch; None for "not yet"."""
    return round(at * 1000) if at else None


def node_name(cluster: Cluster, node_id: bytes | None) -> str:
    """How people see a node."""
    node = cluster.nodes.table.get(node_id) if node_id else None
    if node is None:
        return node_id.hex()[:8] if node_id else ""
    return node.short


def amounts_text(quantities: Mapping[str, float]) -> str:
    """Resources on one line."""
    return ", ".join(
        f"{name} {size_text(n) if name in BYTES_NAMES else f'{n:g}'}"
        for name, n in sorted(quantities.items())
        if not name.startswith("node:")
    )


BYTES_NAMES = frozenset({"memory", "object_store_memory"})


def size_text(size: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def cause_text(cause: ExitCause | None) -> str:
    """Why something ended, in a line."""
    return text_of(cause)


def bytes_of(hex_id: str, what: str) -> bytes:
    """An id from a URL. Raises ValueError."""
    try:
        return bytes.fromhex(hex_id)
    except ValueError:
        raise ValueError(f"{hex_id!r} is not the id of {what}: it is not hexadecimal")
