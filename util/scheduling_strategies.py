"""Where a task or an actor runs: values for ``.options(scheduling_strategy=...)``.

Beside the classes there are two strings: ``"DEFAULT"`` packs work onto nodes until they are half
used and spreads it then, and prefers nodes with the data; ``"SPREAD"`` goes round all nodes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ract.core.ids import NodeID
    from ract.util.placement_group import PlacementGroup

__all__ = [
    "DoesNotExist",
    "Exists",
    "In",
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
    "NotIn",
    "PlacementGroupSchedulingStrategy",
]

_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


class PlacementGroupSchedulingStrategy:
    """Run within what a placement group has reserved.

    Args:
        placement_group: The group; None to leave the one that would capture the call.
        placement_group_bundle_index: Of the bundle to use, -1 for any with room.
        placement_group_capture_child_tasks: Whether what this call submits runs in the group too;
            by default as for the task or actor that submits it.
    """

    def __init__(
        self,
        placement_group: PlacementGroup | None,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks


class NodeAffinitySchedulingStrategy:
    """Run on one node.

    Args:
        node_id: The node's id: 56 hex digits, or a `NodeID`.
        soft: Another node will do if that one is dead or too small (not if it is only busy).
        _spill_on_unavailable: Another node will do if that one is busy; needs ``soft=True``.
        _fail_on_unavailable: Fail rather than wait if that one is busy; needs ``soft=False``.

    Raises:
        ValueError: not the id of a node, or options that contradict each other.
    """

    def __init__(
        self,
        node_id: str | NodeID,
        soft: bool,
        _spill_on_unavailable: bool = False,
        _fail_on_unavailable: bool = False,
    ) -> None:
        from ract.core.ids import NodeID

        if _spill_on_unavailable and not soft:
            raise ValueError("_spill_on_unavailable needs soft=True: a hard affinity never moves")
        if _fail_on_unavailable and soft:
            raise ValueError("_fail_on_unavailable needs soft=False: a soft affinity need not fail")
        try:
            digits = node_id if isinstance(node_id, str) else node_id.hex()
            self.node_id = NodeID.from_hex(digits).hex()
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"node_id must be the id of a node, 56 hex digits or a NodeID, got {node_id!r}"
            ) from error
        self.soft = soft
        self._spill_on_unavailable = _spill_on_unavailable
        self._fail_on_unavailable = _fail_on_unavailable

    def to_plain(self) -> dict[str, Any]:
        """As plain values, for messages."""
        return {
            "kind": "NODE_AFFINITY",
            "node_id": self.node_id,
            "soft": bool(self.soft),
            "spill_on_unavailable": self._spill_on_unavailable,
            "fail_on_unavailable": self._fail_on_unavailable,
        }


class _Operator:
    """A condition on the value of a label."""

    def to_text(self) -> str:
        """The condition as a label selector spells it."""
        raise NotImplementedError

    def __repr__(self) -> str:
        values = ", ".join(map(repr, getattr(self, "values", ())))
        return f"{type(self).__name__}({values})"


class _OfValues(_Operator):
    """A condition that names values of the label.

    Raises:
        ValueError: no values, or one that is not text.
    """

    _PREFIX = ""

    def __init__(self, *values: str) -> None:
        _check_values(self, values)
        self.values = list(values)

    def to_text(self) -> str:
        """See `_Operator`."""
        return f"{self._PREFIX}in({','.join(self.values)})"


class In(_OfValues):
    """The label has one of the values."""


class NotIn(_OfValues):
    """The label has none of the values, or is not there."""

    _PREFIX = "!"


class Exists(_Operator):
    """The label is there, whatever its value."""

    def to_text(self) -> str:
        """See `_Operator`."""
        return "exists()"


class DoesNotExist(_Operator):
    """The label is not there."""

    def to_text(self) -> str:
        """See `_Operator`."""
        return "!exists()"


class NodeLabelSchedulingStrategy:
    """Run on a node with certain labels.

    Args:
        hard: Conditions (`In`, `NotIn`, `Exists`, `DoesNotExist`) by label, which must hold.
        soft: Conditions that are preferred.

    Raises:
        ValueError: neither is given, or something else than conditions by label.
    """

    def __init__(
        self, hard: dict[str, _Operator] | None, *, soft: dict[str, _Operator] | None = None
    ) -> None:
        self.hard = _conditions("hard", hard)
        self.soft = _conditions("soft", soft)
        if not hard and not soft:
            raise ValueError("give conditions as 'hard' or 'soft': both are empty")

    def to_plain(self) -> dict[str, Any]:
        """As plain values, for messages."""
        return {
            "kind": "NODE_LABEL",
            "hard": {key: operator.to_text() for key, operator in self.hard.items()},
            "soft": {key: operator.to_text() for key, operator in self.soft.items()},
        }


def _conditions(name: str, given: Any) -> dict[str, _Operator]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ValueError(f"{name!r} must be a dict of conditions by label, got {given!r}")
    for key, operator in given.items():
        if not isinstance(key, str):
            raise ValueError(f"{name!r} must have strings as keys, got {key!r}")
        if not isinstance(operator, _Operator):
            raise ValueError(
                f"{name}[{key!r}] must be In(...), NotIn(...), Exists() or DoesNotExist(), "
                f"got {operator!r}"
            )
    return dict(given)


def _check_values(operator: _Operator, values: tuple[Any, ...]) -> None:
    name = type(operator).__name__
    if not values:
        raise ValueError(f"{name}() needs at least one value")
    for value in values:
        if not isinstance(value, str) or not value:
            raise ValueError(f"{name}() takes non-empty strings, got {value!r}")
        if not _LABEL_VALUE.fullmatch(value):
            raise ValueError(
                f"{name}({value!r}): a label's value has letters, digits, '-', '_' and '.', and "
                "begins and ends with a letter or digit"
            )
