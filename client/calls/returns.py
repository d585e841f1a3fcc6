"""What the program gets for a call that returns other than one value."""

from __future__ import annotations

from typing import Any

from ract.client.calls.call import Call
from ract.client.calls.streams import Home, ObjectRefGenerator, Stream
from ract.client.objects.refs import new_ref


def returns_of(home: Home, call: Call, returns: Any, limit: int) -> Any:
    """Make the refs of a call.

    Args:
        home: Of this process.
        call: Gets the refs.
        returns: "dynamic", "streaming", or a number other than 1.
        limit: How many items of a stream may be unread, 0 without limit.

    Returns:
        A ref, a generator of refs, a list of refs, or None for no value.
    """
    extra = call.more()
    extra.returns = returns
    if returns == "dynamic":
        ref = new_ref(call.number, call.actor_id, 1, call)
        call.refs = [ref]
        return ref
    if returns == "streaming":
        call.refs = [new_ref(call.number, call.actor_id, 1, call)]
        if limit > 0:
            extra.backpressure = limit
        call.stream = Stream(home, call, max(limit, 0))
        return ObjectRefGenerator(call.stream)
    call.refs = [new_ref(call.number, call.actor_id, i + 1, call) for i in range(returns)]
    return list(call.refs) if returns else None
