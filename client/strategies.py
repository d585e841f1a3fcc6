"""Options of a call as what the scheduler needs to place it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ract.client.runtime import Runtime


def shape_key(demand: dict[str, int], options: Any) -> Any:
    """A hashable key, equal for calls that can share leases."""
    return (
        tuple(sorted(demand.items())),
        canonical_env(options.runtime_env),
        json.dumps(plain_strategy(options.scheduling_strategy), sort_keys=True),
        tuple(sorted((options.label_selector or {}).items())),
        options.max_calls or 0,
    )


def make_shape(runtime: Runtime, demand: dict[str, int], options: Any, shape_type: Any) -> Any:
    """The `Shape` message for the options."""
    return shape_type(
        dict(demand),
        runtime.job_id,
        canonical_env(options.runtime_env) or runtime.runtime_env,
        plain_strategy(options.scheduling_strategy),
        dict(options.label_selector or {}),
    )


def canonical_env(runtime_env: Any) -> str:
    """A runtime environment as canonical JSON; empty for none."""
    return json.dumps(dict(runtime_env), sort_keys=True) if runtime_env else ""


def plain_strategy(strategy: Any) -> dict[str, Any]:
    """A scheduling strategy as plain values."""
    if strategy is None or isinstance(strategy, str):
        return {"kind": strategy or "DEFAULT"}
    return strategy.to_plain()
