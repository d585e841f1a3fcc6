"""Placement groups: resources that are reserved together, and used by who names the group."""

from __future__ import annotations

import warnings
from typing import Any

from ract.client.api import auto_init
from ract.client.objects.refs import ObjectRef
from ract.client.process import context
from ract.client.tasks.groups import GroupClient
from ract.client.tasks.strategies import check_bundle_index
from ract.core import ids, wire
from ract.core.messages import GroupRemoveWanted, GroupSpec, GroupWanted
from ract.core.options import check_label_selector
from ract.core.resources import to_units

__all__ = [
    "VALID_PLACEMENT_GROUP_STRATEGIES",
    "PlacementGroup",
    "check_placement_group_index",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
    "validate_placement_group",
]

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
VALID_PLACEMENT_GROUP_STRATEGIES = set(STRATEGIES)


class PlacementGroup:
    """A handle to a placement group; it can be passed to tasks and actors.

    Args:
        id: Of the group.
        bundle_cache: Its bundles; they are asked for if they are not given.
    """

    def __init__(
        self, id: ids.PlacementGroupID, bundle_cache: list[dict[str, float]] | None = None
    ) -> None:
        self.id = id
        self.bundle_cache = bundle_cache
        self._client: GroupClient | None = None

    @staticmethod
    def empty() -> PlacementGroup:
        """A group that is none: to name it is to name no group."""
        return PlacementGroup(ids.PlacementGroupID.nil(), [])

    @property
    def is_empty(self) -> bool:
        """Whether this is `empty`."""
        return self.id.is_nil()

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """The bundles: quantities by resource. Memory is in bytes.

        Raises:
            ValueError: the group is not known (any more).
        """
        if self.bundle_cache is None:
            link = auto_init.runtime().link
            self.bundle_cache = link.request("get_group", id=self.id.binary())["bundles"]
        return self.bundle_cache

    @property
    def bundle_count(self) -> int:
        """How many bundles there are."""
        return len(self.bundle_specs)

    def ready(self) -> ObjectRef[PlacementGroup]:
        """A ref that becomes this group when it is reserved.

        ``get`` of it raises `TaskPlacementGroupRemoved` if the group is removed before.
        """
        return self._known().ready(self)

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Wait until the group is reserved.

        Args:
            timeout_seconds: At most so long.

        Returns:
            Whether it is; False at once if it was removed.
        """
        from ract.client.api.functions import wait

        client = self._known()
        if client.state != "CREATED":
            wait([client.ready(self)], timeout=timeout_seconds)
        return client.state == "CREATED"

    def _known(self) -> GroupClient:
        if self._client is None or self._client.session.closed:
            self._client = auto_init.runtime().group(self.id.binary())
        return self._client

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._client is not None:
            self._client.make_known()
        return PlacementGroup, (self.id, self.bundle_cache)


def placement_group(
    bundles: list[dict[str, float]],
    strategy: str = "PACK",
    name: str = "",
    lifetime: str | None = None,
    _max_cpu_fraction_per_node: float = 1.0,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: list[dict[str, str]] | None = None,
    topology_strategy: Any = None,
    *,
    on_infeasible: str | None = None,
) -> PlacementGroup:
    """Reserve resources: all bundles, or nothing. Returns at once.

    Args:
        bundles: Quantities by resource, per bundle: ``[{"CPU": 2}, {"CPU": 1, "GPU": 0.5}]``.
        strategy: ``PACK``: as few nodes as possible; ``SPREAD``: as many as possible;
            ``STRICT_PACK``: one node; ``STRICT_SPREAD``: a node of its own for each bundle.
        name: Under which `get_placement_group` finds it, within the namespace.
        lifetime: ``"detached"``: it outlives the job that makes it.
        _soft_target_node_id: A node to be preferred, for ``STRICT_PACK``.
        bundle_label_selector: Labels that the node of each bundle must have.
        on_infeasible: ``"raise"``: remove the group if the nodes could never hold it; ``"wait"``:
            warn, and wait for nodes that join. Default: as given to ``init``.

    Raises:
        TypeError: a quantity is no number, or the name no string.
        ValueError: another bad argument, or the name is taken.
    """
    validate_placement_group(
        bundles=bundles,
        strategy=strategy,
        lifetime=lifetime,
        _max_cpu_fraction_per_node=_max_cpu_fraction_per_node,
        _soft_target_node_id=_soft_target_node_id,
        bundle_label_selector=bundle_label_selector,
    )
    _check_extras(name, topology_strategy, on_infeasible)
    runtime = auto_init.runtime()
    group_id = ids.PlacementGroupID.of(ids.JobID(runtime.job_id))
    spec = GroupSpec(
        group_id=group_id.binary(),
        job_id=runtime.job_id,
        owner=runtime.process,
        bundles=[_units(bundle) for bundle in bundles],
        strategy=strategy,
        name=name,
        namespace=runtime.namespace,
        detached=lifetime == "detached",
        soft_target=bytes.fromhex(_soft_target_node_id or ""),
        selectors=[dict(selector) for selector in bundle_label_selector or []],
        must_fit=(on_infeasible or runtime.on_infeasible) == "raise",
    )
    specs = [{key: float(n) for key, n in bundle.items() if n} for bundle in bundles]
    group = PlacementGroup(group_id, specs)
    group._client = runtime.group(spec.group_id, is_new=True)
    _reserve(runtime, spec)
    return group


def _reserve(runtime: Any, spec: GroupSpec) -> None:
    """Ask for the bundles; of a group with a name it is said at once whether the name is taken."""
    runtime.release_idle_leases()  # they may stand where the bundles are best placed
    if spec.name:
        runtime.link.request("create_group", spec=wire.encode(spec))
    else:
        runtime.tell(GroupWanted(runtime.process, spec))


def _check_extras(name: Any, topology_strategy: Any, on_infeasible: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {name!r}")
    if topology_strategy is not None:
        raise NotImplementedError("topology_strategy is not supported; use bundle_label_selector")
    if on_infeasible not in (None, "raise", "wait"):
        raise ValueError(f"on_infeasible must be 'raise' or 'wait', got {on_infeasible!r}")


def validate_placement_group(
    bundles: list[dict[str, float]],
    strategy: str = "PACK",
    lifetime: str | None = None,
    _max_cpu_fraction_per_node: float = 1.0,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: list[dict[str, str]] | None = None,
) -> bool:
    """Check the arguments of `placement_group`.

    Raises:
        TypeError: a quantity is no number. ValueError: another bad argument.
    """
    if not 0 < _max_cpu_fraction_per_node <= 1:
        raise ValueError(
            f"_max_cpu_fraction_per_node must be within (0, 1], got {_max_cpu_fraction_per_node}"
        )
    if _max_cpu_fraction_per_node != 1.0:
        warnings.warn("_max_cpu_fraction_per_node has no effect", DeprecationWarning, stacklevel=3)
    if _soft_target_node_id and strategy != "STRICT_PACK":
        raise ValueError(f"_soft_target_node_id is for STRICT_PACK only, not for {strategy}")
    if _soft_target_node_id:
        ids.NodeID.from_hex(_soft_target_node_id)
    if not isinstance(bundles, list):
        raise ValueError(f"bundles must be a list of dicts, got {type(bundles).__name__}")
    if not bundles:
        raise ValueError("bundles must not be empty: a placement group needs at least one")
    for index, bundle in enumerate(bundles):
        if not isinstance(bundle, dict):
            raise ValueError(f"bundle {index} must be a dict of quantities, got {bundle!r}")
        if not _units(bundle):
            raise ValueError(f"bundle {index} is empty: {bundle!r} reserves nothing")
    if strategy not in STRATEGIES:
        raise ValueError(f"Invalid placement group strategy {strategy!r}. Use one of {STRATEGIES}.")
    if lifetime not in (None, "detached"):
        raise ValueError(f"lifetime must be None or 'detached', got {lifetime!r}")
    if bundle_label_selector is not None:
        if len(bundle_label_selector) != len(bundles):
            raise ValueError(
                f"bundle_label_selector has {len(bundle_label_selector)} selectors for "
                f"{len(bundles)} bundles: give one for each"
            )
        for selector in bundle_label_selector:
            try:
                check_label_selector("bundle_label_selector", selector)
            except TypeError as error:
                raise ValueError(str(error)) from error
    return True


def _units(bundle: dict[str, float]) -> dict[str, int]:
    if not all(isinstance(name, str) for name in bundle):
        raise ValueError(f"resources of a bundle are named by strings, got {bundle!r}")
    units = {name: to_units(name, n) for name, n in bundle.items()}
    return {name: n for name, n in units.items() if n}


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Give back what a group has reserved. Tasks and actors in it are killed and not retried.

    To remove a group again does nothing.
    """
    assert placement_group is not None, "remove_placement_group() needs a placement group"
    runtime = auto_init.runtime()
    runtime.tell(GroupRemoveWanted(runtime.process, placement_group.id.binary()))


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """The group of that name in this namespace.

    Raises:
        ValueError: there is none, or no name is given.
    """
    if not placement_group_name:
        raise ValueError("Please supply a non-empty value to get_placement_group")
    runtime = auto_init.runtime()
    found = runtime.link.request("get_group", name=placement_group_name)
    return PlacementGroup(ids.PlacementGroupID(found["group_id"]), found["bundles"])


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """What is known of one group, or of all by their ids (hex).

    Each is a dict: ``placement_group_id``, ``name``, ``bundles`` and ``bundles_to_node_id`` by
    index, ``strategy``, ``state`` (PENDING, CREATED, RESCHEDULING, REMOVED), ``stats``.
    """
    link = auto_init.runtime().link
    if placement_group is None:
        return link.request("group_table")
    return link.request("group_table", id=placement_group.id.binary())


def get_current_placement_group() -> PlacementGroup | None:
    """The group that the running task or actor runs in; None in a driver and outside groups."""
    auto_init.runtime()
    group_id, _ = context.process.group
    return PlacementGroup(ids.PlacementGroupID(group_id)) if group_id else None


def check_placement_group_index(placement_group: PlacementGroup, bundle_index: int) -> None:
    """Check that a group has a bundle with that index.

    Raises:
        ValueError: it has not.
    """
    check_bundle_index(
        placement_group.bundle_specs, bundle_index, is_empty=placement_group.is_empty
    )
