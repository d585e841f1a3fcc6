"""Options of a call as what the scheduler needs to place it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ract.client.process import context
from ract.core.resources import describe, to_units

if TYPE_CHECKING:
    from ract.client.process.node_link import NodeLink
    from ract.core.messages import Shape
    from ract.core.options import ActorOptions, TaskOptions

Plain = dict[str, Any]


class Place(Protocol):
    """What the place of a call depends on beside its own options: a runtime has it."""

    link: NodeLink
    runtime_env: str
    on_infeasible: str

    @property
    def job_id(self) -> bytes: ...


def plan(
    runtime: Place, options: TaskOptions | ActorOptions, demand: Mapping[str, int], name: str
) -> Plain:
    """Where a call or an actor may run, as plain values.

    Args:
        runtime: Of this process, or what has the same names.
        options: Of the call.
        demand: What it needs to be placed, in units.
        name: Of the function or class, for messages.

    Raises:
        TypeError: something else stands where a placement group should.
        ValueError: the placement group has no such bundle, or none that could hold the demand.
    """
    strategy = options.scheduling_strategy
    if strategy is None or isinstance(strategy, str):
        plain = _group_of_options(runtime, options, demand, name) if strategy is None else None
        plain = plain or {"kind": strategy or "DEFAULT"}
    elif hasattr(strategy, "placement_group"):
        plain = _in_group(
            strategy.placement_group,
            strategy.placement_group_bundle_index,
            strategy.placement_group_capture_child_tasks,
            demand,
            name,
        )
    else:
        plain = strategy.to_plain()
    if options.fallback_strategy:
        plain["fallback"] = [dict(each) for each in options.fallback_strategy]
    if (options.on_infeasible or runtime.on_infeasible) == "raise":
        plain["on_infeasible"] = "raise"
    return plain


def _group_of_options(
    runtime: Place, options: Any, demand: Mapping[str, int], name: str
) -> Plain | None:
    """The group that the older options name, or else the one that captures the call."""
    group, index = options.placement_group, options.placement_group_bundle_index
    capture = options.placement_group_capture_child_tasks
    if group is not None and group != "default":
        return _in_group(group, index, capture, demand, name)
    group_id, captures = context.process.group
    if group is None or options.given.get("placement_group", "default") is None or not captures:
        check_bundle_index((), index, is_empty=True)
        return None
    specs = runtime.link.request("get_group", id=group_id)["bundles"]
    check_bundle_index(specs, index)
    _check_room(specs, index, demand, name, group_id)
    return _plain_group(group_id, index, capture)


def _in_group(
    group: Any, index: int, capture: bool | None, demand: Mapping[str, int], name: str
) -> Plain:
    if group is not None and not hasattr(group, "bundle_specs"):
        raise TypeError(f"a PlacementGroup is needed to run {name} in one, got {group!r}")
    if group is None or group.is_empty:
        check_bundle_index((), index, is_empty=True)
        return {"kind": "DEFAULT"}
    check_bundle_index(group.bundle_specs, index)
    _check_room(group.bundle_specs, index, demand, name, group.id.binary())
    return _plain_group(group.id.binary(), index, capture)


def _plain_group(group_id: bytes, index: int, capture: bool | None) -> Plain:
    if capture is None:
        capture = context.process.group[1]
    return {
        "kind": "PLACEMENT_GROUP",
        "group_id": group_id.hex(),
        "bundle": index,
        "capture": bool(capture),
    }


def check_bundle_index(bundles: Sequence[Any], index: int, *, is_empty: bool = False) -> None:
    """Check an index into bundles; -1 is any. Raises ValueError."""
    if is_empty and index != -1:
        raise ValueError(
            f"placement_group_bundle_index={index} needs a placement group: there is none"
        )
    if not is_empty and not -1 <= index < len(bundles):
        raise ValueError(
            f"placement_group_bundle_index={index} is invalid: the group has {len(bundles)} "
            f"bundles; use 0 to {len(bundles) - 1}, or -1 for any"
        )


def _check_room(
    bundles: Sequence[Mapping[str, float]],
    index: int,
    demand: Mapping[str, int],
    name: str,
    group_id: bytes,
) -> None:
    usable = bundles if index < 0 else bundles[index : index + 1]
    units = [{key: to_units(key, n) for key, n in bundle.items()} for bundle in usable]
    if any(_holds(bundle, demand) for bundle in units):
        return
    what = "no bundle can hold" if index < 0 else f"bundle {index} cannot hold"
    listed = ", ".join(describe(bundle) for bundle in units[:8])
    raise ValueError(
        f"Cannot schedule {name} with the placement group {group_id.hex()}: it requires "
        f"{describe(demand)}, which {what}: {listed}"
    )


def _holds(bundle: Mapping[str, int], demand: Mapping[str, int]) -> bool:
    return all(bundle.get(name, 0) >= n for name, n in demand.items() if n)


def shape_key(demand: Mapping[str, int], options: Any, plain: Plain) -> Any:
    """A hashable key, equal for calls that can share leases."""
    return (
        tuple(sorted(demand.items())),
        canonical_env(options.runtime_env),
        json.dumps(plain, sort_keys=True),
        tuple(sorted((options.label_selector or {}).items())),
        options.max_calls or 0,
        options.max_retries != 0,
    )


def make_shape(
    runtime: Place, demand: Mapping[str, int], options: Any, plain: Plain, shape: type[Shape]
) -> Shape:
    """The `Shape` message for the options."""
    return shape(
        dict(demand),
        runtime.job_id,
        canonical_env(options.runtime_env) or runtime.runtime_env,
        plain,
        dict(options.label_selector or {}),
        options.max_retries != 0,
    )


def canonical_env(runtime_env: Any) -> str:
    """A runtime environment as canonical JSON; empty for none."""
    return json.dumps(dict(runtime_env), sort_keys=True) if runtime_env else ""


def group_of(strategy: Mapping[str, Any]) -> tuple[bytes, bool]:
    """(placement group, whether it captures child tasks) of a plan; b"" for no group."""
    return bytes.fromhex(strategy.get("group_id", "")), bool(strategy.get("capture"))
